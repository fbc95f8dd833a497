"""Options by which XLA compiles fast, asked for: one that the XLA at hand does not know would end the process."""

import json
import os
import subprocess
import sys
from collections import ChainMap
from pathlib import Path
from typing import Any

WANTED = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,  # gone from XLA between JAX 0.10 and 0.12
}
"""They compile small programs up to four times as fast; how fast these run is not what the tests are about."""

ANSWER = "MITHRIDATE_TEST_XLA_OPTIONS"
"""Where the answer is kept for the other processes of a run."""


def flags(options: dict[str, Any]) -> str:
    """Return options as `XLA_FLAGS` has them."""
    return " ".join(f"--{name}={str(value).lower()}" for name, value in options.items())


def accepted(options: dict[str, Any], python: str | Path = sys.executable) -> bool:
    """Return whether the XLA of a Python starts when it is given these options."""
    environment = os.environ | {"XLA_FLAGS": flags(options), "JAX_PLATFORMS": "cpu"}
    command = [str(python), "-c", "import jax; jax.devices()"]
    return subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0


def asked(python: str | Path = sys.executable) -> dict[str, Any]:
    """Return those of the wanted options that the XLA of a Python knows."""
    each = [{name: value} for name, value in WANTED.items()]
    found = [WANTED] if accepted(WANTED, python) else [option for option in each if accepted(option, python)]
    return dict(ChainMap(*found))


def known() -> dict[str, Any]:
    """Return those of the wanted options that XLA knows; asked once a run."""
    if ANSWER not in os.environ:
        os.environ[ANSWER] = json.dumps(asked())
    return json.loads(os.environ[ANSWER])
