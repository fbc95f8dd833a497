from ._version import __version__ as __version__
from .attacks.base import Attacker as Attacker
from .attacks.bilevel import Attack as Attack
from .attacks.poison import Points as Points
from .attacks.poison import Poisoning as Poisoning
from .attacks.portfolio import Flips as Flips
from .attacks.portfolio import Portfolio as Portfolio
from .auditing.audit import audit as audit
from .auditing.audit import resume as resume
from .checking.check import CheckResult as CheckResult
from .checking.check import check as check
from .configuration.config import AuditConfig as AuditConfig
from .data.catalogue import load_dataset as load_dataset
from .data.datasets import Dataset as Dataset
from .data.datasets import Split as Split
from .data.feasible import Box as Box
from .data.feasible import Mixed as Mixed
from .data.tables import dataset_of as dataset_of
from .data.tables import read_dataset as read_dataset
from .defences.base import Effort as Effort
from .defences.filters import Sphere as Sphere
from .defences.policies import CrossValidated as CrossValidated
from .defences.policies import Fixed as Fixed
from .defences.policies import Learned as Learned
from .errors import DataError as DataError
from .errors import InputError as InputError
from .errors import Interrupted as Interrupted
from .errors import MithridateError as MithridateError
from .errors import StorageError as StorageError
from .hypergradients import Averaged as Averaged
from .hypergradients import Bilevel as Bilevel
from .hypergradients import Checkpointed as Checkpointed
from .hypergradients import Combined as Combined
from .hypergradients import Forward as Forward
from .hypergradients import Hypergradient as Hypergradient
from .hypergradients import HypergradientMethod as HypergradientMethod
from .hypergradients import Implicit as Implicit
from .hypergradients import Reverse as Reverse
from .hypergradients import Reversible as Reversible
from .results.figures import CurveDisplay as CurveDisplay
from .results.figures import PoisonDisplay as PoisonDisplay
from .results.report import write_report as write_report
from .results.results import AuditResult as AuditResult
from .results.results import load_result as load_result
from .victims.adapters import FunctionModel as FunctionModel
from .victims.adapters import from_equinox as from_equinox
from .victims.learner import Learner as Learner
from .victims.models import MLP as MLP
from .victims.models import LogisticRegression as LogisticRegression
from .victims.penalties import L2 as L2
from .victims.rows import Rows as Rows
from .victims.rules import Exact as Exact
from .victims.rules import GradientDescent as GradientDescent
from .victims.rules import HeavyBall as HeavyBall
from .victims.rules import MinibatchSGD as MinibatchSGD

__all__ = [
    "L2",
    "MLP",
    "Attack",
    "Attacker",
    "AuditConfig",
    "AuditResult",
    "Averaged",
    "Bilevel",
    "Box",
    "CheckResult",
    "Checkpointed",
    "Combined",
    "CrossValidated",
    "CurveDisplay",
    "DataError",
    "Dataset",
    "Effort",
    "Exact",
    "Fixed",
    "Flips",
    "Forward",
    "FunctionModel",
    "GradientDescent",
    "HeavyBall",
    "Hypergradient",
    "HypergradientMethod",
    "Implicit",
    "InputError",
    "Interrupted",
    "Learned",
    "Learner",
    "LogisticRegression",
    "MinibatchSGD",
    "MithridateError",
    "Mixed",
    "Points",
    "PoisonDisplay",
    "Poisoning",
    "Reverse",
    "Reversible",
    "Rows",
    "Sphere",
    "Split",
    "StorageError",
    "__version__",
    "audit",
    "check",
    "dataset_of",
    "from_equinox",
    "load_dataset",
    "load_result",
    "read_dataset",
    "resume",
    "write_report",
]
