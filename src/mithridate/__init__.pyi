from ._version import __version__ as __version__
from .adapters import FunctionModel as FunctionModel
from .adapters import from_equinox as from_equinox
from .attack import Attack as Attack
from .attack import Poisoning as Poisoning
from .auditing import audit as audit
from .auditing import resume as resume
from .checking import CheckResult as CheckResult
from .checking import check as check
from .config import AuditConfig as AuditConfig
from .datasets import Dataset as Dataset
from .datasets import Split as Split
from .datasets import load_dataset as load_dataset
from .errors import DataError as DataError
from .errors import InputError as InputError
from .errors import Interrupted as Interrupted
from .errors import MithridateError as MithridateError
from .errors import StorageError as StorageError
from .feasible import Box as Box
from .feasible import Mixed as Mixed
from .figures import CurveDisplay as CurveDisplay
from .figures import PoisonDisplay as PoisonDisplay
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
from .learner import Learner as Learner
from .models import MLP as MLP
from .models import LogisticRegression as LogisticRegression
from .penalties import L2 as L2
from .policies import CrossValidated as CrossValidated
from .policies import Fixed as Fixed
from .policies import Learned as Learned
from .report import write_report as write_report
from .results import AuditResult as AuditResult
from .results import load_result as load_result
from .rows import Rows as Rows
from .tables import dataset_of as dataset_of
from .tables import read_dataset as read_dataset
from .training import Exact as Exact
from .training import GradientDescent as GradientDescent
from .training import HeavyBall as HeavyBall
from .training import MinibatchSGD as MinibatchSGD

__all__ = [
    "L2",
    "MLP",
    "Attack",
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
    "Exact",
    "Fixed",
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
    "PoisonDisplay",
    "Poisoning",
    "Reverse",
    "Reversible",
    "Rows",
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
