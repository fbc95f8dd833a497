"""What a report needs of an `AuditResult`, which cannot be imported here because it writes its own report."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from mithridate.results.verdict import Verdict


@runtime_checkable
class Audited(Protocol):
    """An audit's data, named as in `AuditResult`."""

    @property
    def dataset(self) -> Mapping[str, Any]: ...  # noqa: D102 (see AuditResult)
    @property
    def threat_model(self) -> Mapping[str, str]: ...  # noqa: D102
    @property
    def config(self) -> Mapping[str, Any]: ...  # noqa: D102
    @property
    def versions(self) -> Mapping[str, str]: ...  # noqa: D102
    @property
    def frame(self) -> pd.DataFrame: ...  # noqa: D102
    @property
    def candidates(self) -> pd.DataFrame: ...  # noqa: D102
    @property
    def defenders(self) -> Mapping[str, Mapping[str, Any]]: ...  # noqa: D102
    @property
    def verdict(self) -> Verdict: ...  # noqa: D102
    @property
    def advice(self) -> list[str]: ...  # noqa: D102
    @property
    def poison(self) -> Mapping[tuple[int, str], Mapping[str, np.ndarray]]: ...  # noqa: D102
    @property
    def rows(self) -> Mapping[tuple[int, str], tuple[pd.DataFrame, pd.DataFrame]]: ...  # noqa: D102
