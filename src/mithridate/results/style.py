"""How a run's pictures look: as Matplotlib comes, whatever the user's own settings ask for."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from mithridate.errors import MithridateError, first_line


@contextmanager
def plain_style() -> Iterator[None]:
    """Draw with Matplotlib's defaults: a matplotlibrc may ask for LaTeX or fonts that are not there."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield


@contextmanager
def drawing(what: str) -> Iterator[None]:
    """Warn where something cannot be drawn, so that no number is lost with it; what cannot be written is raised."""
    try:
        with plain_style():
            yield
    except (OSError, MithridateError):
        raise
    except Exception as error:  # noqa: BLE001 (whatever a picture lacks, the numbers are right)
        warnings.warn(f"{what} could not be drawn: {type(error).__name__}: {first_line(error)}", stacklevel=3)
