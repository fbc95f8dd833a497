"""What numbers depend on besides data and configuration: packages, Python, the kind of device."""

import platform
import re
import warnings
from importlib.metadata import version

PACKAGES = ("mithridate", "jax", "jaxlib", "equinox", "optax", "numpy", "scikit-learn", "pandas", "pyarrow")

TESTED = (0, 10), (0, 12)
"""The first and the last minor release of JAX with which the tests pass."""


def versions() -> dict[str, str]:
    """Return the version of each package and of Python, and the kind of device that computes here."""
    import jax

    device = {"python": platform.python_version(), "device": jax.devices()[0].device_kind}
    return {package: version(package) for package in PACKAGES} | device


def warn_if_untested() -> None:
    """Warn when the JAX that is installed is of a minor release that was not tested; JAX itself is not imported."""
    found = version("jax")
    numbers = tuple(map(int, re.findall(r"\d+", found)[:2]))
    if not TESTED[0] <= numbers <= TESTED[1]:
        first, last = (".".join(map(str, release)) for release in TESTED)
        warnings.warn(
            f"JAX {found} is here, and mithridate was tested with JAX {first} to {last}: if anything is odd, install "
            f"one of these, or run `mithridate check` on your data",
            stacklevel=3,
        )
