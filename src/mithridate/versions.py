"""What numbers depend on besides data and configuration: packages, Python, the kind of device."""

import platform
from importlib.metadata import version

import jax

PACKAGES = ("mithridate", "jax", "jaxlib", "equinox", "optax", "numpy", "scikit-learn", "pandas", "pyarrow")


def versions() -> dict[str, str]:
    """Return the version of each package and of Python, and the kind of device that computes here."""
    device = {"python": platform.python_version(), "device": jax.devices()[0].device_kind}
    return {package: version(package) for package in PACKAGES} | device
