"""What the numbers depend on besides data and configuration: packages, Python, the kind of device."""

import platform
import re
import warnings
from importlib.metadata import version

PACKAGES = ("mithridate", "jax", "jaxlib", "equinox", "optax", "numpy", "scikit-learn", "pandas", "pyarrow")

TESTED = (0, 10), (0, 12)
"""The first and the last minor release of JAX with which the tests pass."""


def versions() -> dict[str, str]:
    """Return the version of each package and of Python, and the kind of device in use."""
    import jax

    device = {"python": platform.python_version(), "device": jax.devices()[0].device_kind}
    return {package: version(package) for package in PACKAGES} | device


def warn_if_untested() -> None:
    """Warn if the installed minor release of JAX was not tested. JAX itself is not imported."""
    found = version("jax")
    numbers = tuple(map(int, re.findall(r"\d+", found)[:2]))
    if not TESTED[0] <= numbers <= TESTED[1]:
        first, last = (".".join(map(str, release)) for release in TESTED)
        warnings.warn(
            f"JAX {found} is installed, but mithridate was tested with JAX {first} to {last}: if anything looks wrong, "
            f"install one of these, or run `mithridate check` on your data",
            stacklevel=3,
        )
