"""An audit in MLflow: its configuration, curves, verdict and files as one run of a tracking store.

    params      the configuration; `dataset.*`, the data
    metrics     POLICY/COLUMN: a column of the records (see `Record`) averaged over splits, at step = number of
                points, which MLflow draws as a curve; POLICY/tolerance; `saved`
    tags        `mithridate.status`, `.verdict`, `.warnings`, `.threat_model.*`, `.versions.*`
    artifacts   the run directory

MLflow allows only some characters in names. All others become "_", as in `fixed_log_200` for the policy
`fixed=log(200)`.
"""

import importlib.util
import re
import tempfile
import time
from pathlib import Path
from typing import Any

from pandas.api.types import is_float_dtype

from mithridate.errors import InputError, StorageError
from mithridate.results.results import AuditResult, load_result

EXPERIMENT = "mithridate"
LONGEST = {"param": 6000, "tag": 8000}
"""The number of characters that MLflow keeps of a value."""
BATCH = 1000
"""The number of metrics that MLflow takes at once."""


def log_run(
    result: AuditResult | str | Path,
    *,
    experiment: str | None = None,
    run_name: str | None = None,
    tracking_uri: str | None = None,
) -> str:
    """Log an audit as a new, finished MLflow run and return the run's id.

    Arguments: `result`, what `audit` returned, or a run directory, of which all files are logged (with its report);
    `experiment`, a name, created if it does not exist (default: the active run's experiment, else "mithridate");
    `run_name` (default: the data set's name); `tracking_uri`, the store (default: MLflow's own, as
    `MLFLOW_TRACKING_URI` says). If a run is active, and neither an experiment nor a store is named, the new run is its
    child. No active run is changed or ended, and none is left active.

    Raises `InputError` if MLflow is not installed; `StorageError` if the directory cannot be read or the store refuses.
    A run that could not be logged completely is marked as failed.

    Example:
        >>> import contextlib, tempfile
        >>> import mithridate as mi
        >>> from mithridate.mlflow import log_run
        >>> result = mi.audit("synthetic", splits=2, points=2, hyperiterations=5, policies=("fixed=-8",))
        >>> with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        ...     run_id = log_run(result, tracking_uri="sqlite:///store.db")
        >>> len(run_id)
        32
    """
    check_installed()
    import mlflow
    from mlflow.exceptions import MlflowException

    audit = result if isinstance(result, AuditResult) else load_result(result)
    parent = mlflow.active_run() if experiment is None and tracking_uri is None else None
    tags = {"mlflow.parentRunId": parent.info.run_id} if parent else {}
    try:
        client = mlflow.MlflowClient(tracking_uri)
        home = parent.info.experiment_id if parent else _experiment(client, experiment or EXPERIMENT)
        run_id = client.create_run(home, tags=tags, run_name=run_name or audit.dataset["name"]).info.run_id
        try:
            _log(client, run_id, audit)
            if isinstance(result, AuditResult):
                with tempfile.TemporaryDirectory() as folder:
                    client.log_artifacts(run_id, str(audit.save(Path(folder) / "run")))
            else:
                client.log_artifacts(run_id, str(result))
        except BaseException:
            client.set_terminated(run_id, "FAILED")
            raise
        client.set_terminated(run_id)
    except MlflowException as error:
        raise StorageError(f"MLflow's store {tracking_uri or mlflow.get_tracking_uri()} refuses: {error}") from error
    return run_id


def check_installed() -> None:
    """Raise `InputError` if MLflow is not installed."""
    if importlib.util.find_spec("mlflow") is None:
        raise InputError("MLflow is not installed: pip install 'mithridate[mlflow]'")


def _experiment(client: Any, name: str) -> str:
    found = client.get_experiment_by_name(name)
    return found.experiment_id if found else client.create_experiment(name)


def _log(client: Any, run_id: str, audit: AuditResult) -> None:
    from mlflow.entities import Metric, Param, RunTag

    now, verdict = int(1000 * time.time()), audit.verdict
    params = audit.config | {f"dataset.{name}": value for name, value in audit.dataset.items()}
    tags = {"status": audit.status, "verdict": "\n".join(verdict.summary), "warnings": "\n".join(verdict.warnings)}
    tags |= {f"threat_model.{name}": text for name, text in audit.threat_model.items()}
    tags |= {f"versions.{name}": text for name, text in audit.versions.items()}
    curves = [Metric(name, value, now, step) for name, value, step in _points(audit)]
    client.log_batch(
        run_id,
        params=[Param(_name(name), str(value)[: LONGEST["param"]]) for name, value in params.items()],
        tags=[RunTag(_name(f"mithridate.{name}"), text[: LONGEST["tag"]]) for name, text in tags.items()],
    )
    for first in range(0, len(curves), BATCH):
        client.log_batch(run_id, metrics=curves[first : first + BATCH])


def _points(audit: AuditResult) -> list[tuple[str, float, int]]:
    """Return the name, value and step of every metric. A mean is NaN if the value of any split is."""
    found = [] if audit.verdict.saved is None else [("saved", float(audit.verdict.saved), 0)]
    columns = [name for name in audit.frame if is_float_dtype(audit.frame[name])]
    for policy, rows in audit.frame.groupby("policy", sort=False):
        name = _name(str(policy))
        if (tolerated := audit.verdict.tolerance[str(policy)]) is not None:
            found.append((f"{name}/tolerance", tolerated, 0))
        means = rows.groupby("n_poison", sort=True)[columns].mean(skipna=False)
        found += [
            (f"{name}/{_name(str(column))}", float(value), int(str(step)))
            for column in columns
            for step, value in means[column].items()
        ]
    return found


def _name(text: str) -> str:
    """Return the text without the characters that MLflow refuses in a name."""
    return re.sub(r"[^\w. -]+", "_", text, flags=re.ASCII).strip("_")
