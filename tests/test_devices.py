"""Eight devices and one: chains and training rows are divided among them, and the numbers are the same."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import mithridate as mi
import on_devices
from mithridate.execution import devices
from mithridate.victims.rows import Rows

DEVICES = 8


@pytest.fixture(scope="module")
def found(once) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The same on eight devices and on one."""

    def make(folder: Path) -> Any:
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count="
        both = []
        for number in (DEVICES, 1):
            file, script = folder / f"on-{number}.npz", Path(on_devices.__file__)
            environment = os.environ | {"XLA_FLAGS": flags + str(number), "JAX_PLATFORMS": "cpu"}
            subprocess.run([sys.executable, "-W", "error", script, file], env=environment, check=True)
            with np.load(file) as arrays:
                both.append(dict(arrays))
        return tuple(both)

    return once("on-devices", make)


def test_there_are_eight_devices_and_one(found):
    assert [int(one["devices"][0]) for one in found] == [DEVICES, 1]


@pytest.mark.parametrize("name", ["chains", "attacks"])
def test_chains_that_are_divided_among_devices_give_the_numbers_of_one(found, name):
    many, one = (part[name] for part in found)
    assert np.isfinite(one).all()
    assert len({chain.tobytes() for chain in one}) == len(one), "or a mix-up would not be seen"
    np.testing.assert_allclose(many, one, rtol=1e-5)


def test_every_device_gets_its_share_of_the_chains(found):
    """Nine chains: five devices with two each, one of them made twice; eight chains: eight devices."""
    shares = [sorted(set(zip(part["shares"].tolist(), part["largest share"].tolist(), strict=True))) for part in found]
    assert shares == [[(5, 2), (8, 1)], [(1, 8), (1, 9)]]
    for part in found:
        assert (part["smallest share"] == part["largest share"]).all()


def test_a_batch_is_compiled_once_for_all_devices(found):
    """And once more for the chain that is left over."""
    for part in found:
        assert part["compilations"].tolist() == [2, 2]


NUMBERS = [f"{victim} {part}" for victim in on_devices.VICTIMS for part in ("value", "poison", "hyper")]


@pytest.mark.parametrize("name", [*NUMBERS, "curvature", "attack", "history"])
def test_rows_that_are_divided_among_devices_give_the_numbers_of_one(found, name):
    many, one = (part[name] for part in found)
    size, victim = np.linalg.norm(one), name.split()[0]
    assert size > 0
    # Sums are added up in another order. A derivative is a sum of what has the size of A, however small it comes out.
    rounding = np.finfo(one.dtype).eps * np.linalg.norm(found[1].get(f"{victim} value", 0.0))
    assert np.linalg.norm(many - one) <= 1e-5 * size + 0.1 * rounding


@pytest.mark.parametrize("name", ["parts", "parts replaced"])
def test_every_device_holds_its_share_of_the_rows_alone(found, name):
    rows, features = on_devices.ROWS, on_devices.FEATURES
    assert found[0][name].tolist() == [[rows // DEVICES, features]] * DEVICES
    assert found[1][name].tolist() == [[rows, features]]


@pytest.mark.parametrize("victim", ["sgd", "gd"])
def test_the_rows_stay_where_they_are(found, victim):
    """What devices tell one another is smaller than one device's share of the features."""
    assert found[0][f"{victim} sent"][0] < on_devices.ROWS // DEVICES * on_devices.FEATURES / 10


def test_on_one_device_nothing_is_placed():
    if len(jax.devices()) > 1:
        pytest.skip("for one device")
    with devices.placed("sharded"):
        assert not jax.sharding.get_abstract_mesh().axis_names


def test_rows_that_do_not_divide_are_refused():
    class Four:
        axis_names, axis_sizes = ("rows",), (4,)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mithridate.victims.rows._mesh", Four)
        with pytest.raises(mi.InputError, match="10 rows, with room for added poison, do not divide evenly among"):
            Rows.of(np.zeros((9, 2)), np.zeros(9), capacity=10, divided=True)
