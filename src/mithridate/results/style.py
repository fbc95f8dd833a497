"""The look of a run's pictures: Matplotlib's defaults, whatever the user's own settings are."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from mithridate.errors import MithridateError, first_line


@contextmanager
def plain_style() -> Iterator[None]:
    """Draw with Matplotlib's defaults: a matplotlibrc may ask for LaTeX or fonts that are not installed."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield


@contextmanager
def drawing(what: str) -> Iterator[None]:
    """Turn errors of drawing into warnings, so that no number is lost; `OSError` and our own errors are raised."""
    try:
        with plain_style():
            yield
    except (OSError, MithridateError):
        raise
    except Exception as error:  # noqa: BLE001 (the numbers are right even if a picture fails)
        warnings.warn(f"{what} could not be drawn: {type(error).__name__}: {first_line(error)}", stacklevel=3)
