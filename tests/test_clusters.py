"""An audit in several processes and on a Ray cluster: the serial run's numbers, whichever of them is killed."""

import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml

import mithridate as mi
from chains import Count, Counting
from conftest import SMALL, posix
from mithridate.configuration.config import AuditConfig
from mithridate.execution.chains import check, stream
from mithridate.execution.work import Pace

TWO = ("fixed=-8", "learned")


def assert_equal(found: mi.AuditResult, serial: mi.AuditResult):
    """All but the seconds, to the bit."""
    one, two = (
        r.frame[r.frame["policy"].isin(TWO)].drop(columns="seconds").reset_index(drop=True) for r in (found, serial)
    )
    assert len(one) == 12
    for column in one:
        np.testing.assert_array_equal(one[column].to_list(), two[column].to_list(), err_msg=str(column))
    for cell, arrays in found.poison.items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, serial.poison[cell][name], err_msg=f"{cell} {name}")


def spawned(process: int | None = None) -> list[psutil.Process]:
    found = psutil.Process(process).children()
    return [child for child in found if any("spawn_main" in word for word in child.cmdline())]


def count(how: str, work: Counting, chains: list[Count], stopped: Callable[[], bool] = lambda: False) -> list[Any]:
    return list(stream(work, chains, how, stopped))


# Processes


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_no_number(result, monkeypatch):
    """It is killed in the middle of a cell, of which the driver knows where it stood."""
    monkeypatch.setattr(Pace, "EVERY", 0.0)
    seen, killed = [], []

    def watch(at: Any) -> None:
        seen.append(at.running)
        if at.done >= 3 and "learned" in at.running and "ratio 2" in at.running and not killed:
            killed.extend(spawned())
            time.sleep(0.3)
            for worker in killed:
                worker.kill()

    found = mi.audit("digits-0v8", policies=TWO, execution="processes:2", on_progress=watch, **SMALL)
    assert_equal(found, result)
    assert len(killed) == 2
    assert not spawned()
    twice = {running for running, times in Counter(seen).items() if times > 1}
    assert 1 <= len(twice) <= 2, "the chains of the killed workers were begun again, from their cell and no earlier"


def test_a_chain_goes_on_from_what_is_known_of_it_and_is_given_up_the_third_time(tmp_path):
    work = Counting(str(tmp_path), forever=("doomed",))
    chains = [Count("short", 2), Count("long", 9, deadly=(3, 5)), Count("doomed", 8, deadly=(4,))]
    found = count("processes:2", work, chains)
    numbers = {name: [o.number for o in found if o.chain == name] for name in ("long", "short", "doomed")}
    assert numbers == {"long": list(range(9)), "short": [0, 1], "doomed": list(range(5))}
    assert found[0].chain != "short", "the largest go first"
    assert len({o.process for o in found if o.chain == "long"}) == 3
    usable, shares = os.sched_getaffinity(0), {o.cores for o in found if not o.failed}
    assert {len(share) for share in shares} == {max(1, len(usable) // 2)}
    assert frozenset.union(*shares) <= usable
    assert len(usable) < 2 or len(shares) == 2
    (last,) = [o.failed for o in found if o.failed]
    assert last == "the worker process was killed (signal 9): out of memory?, 3 times"
    assert (tmp_path / "doomed-4").read_text().count("killed") == 3
    assert "NPROC" not in os.environ
    assert not spawned()


def test_workers_stop_and_errors_are_raised(tmp_path):
    stop: list[int] = []
    work = Counting(str(tmp_path), pause=0.05)
    found = []
    for outcome in stream(work, [Count("a", 999), Count("b", 999)], "processes:2", lambda: bool(stop)):
        found.append(outcome)
        stop.extend([1] if len(found) == 3 else [])
    assert 3 <= len(found) < 20
    with pytest.raises(mi.InputError, match="b is wrong"):
        count("processes:1", work, [Count("b", 1, wrong=True)])
    assert not spawned()


FLAGS = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()] + [f"--policy={p}" for p in TWO]


def begun(tmp_path: Path, how: str) -> "subprocess.Popen[str]":
    """An audit by the command line, in a group of processes of its own, which has some cells and computes others."""
    program = "from mithridate.execution.work import Pace; Pace.EVERY = 0.0; from mithridate.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "audit", "digits-0v8", *FLAGS, "--out", "run", "--execution", how],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    )
    until = time.monotonic() + 200
    while len(list((tmp_path / "run").glob("cells/*"))) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)
    return process


@posix
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("how", ["processes:2", "ray"])
def test_ctrl_c_reaches_all_and_is_the_drivers_to_answer(tmp_path, result, mithridate, how, number):
    """The terminal sends Ctrl-C to the whole group; so may SIGTERM be sent."""
    process = begun(tmp_path, how)
    others = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    told = [line for line in said.splitlines() if "mithridate: " in line]
    assert len(told) == 2, said
    assert "`mithridate resume run` goes on" in said
    assert "Traceback" not in said
    assert "Error" not in said
    assert psutil.wait_procs(others, timeout=60)[1] == []
    assert mithridate("resume", "run", "--execution", how, "--quiet").returncode == 0
    assert_equal(mi.load_result(tmp_path / "run"), result)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["processes:2", "ray"])
def test_workers_end_with_a_driver_that_is_killed(tmp_path, result, mithridate, how):
    process = begun(tmp_path, how)
    # Ray's agents, which compute nothing, take their time.
    others = [each for each in psutil.Process(process.pid).children(recursive=True) if "Agent" not in each.name()]
    assert len(others) >= 2
    process.kill()
    process.communicate()
    assert psutil.wait_procs(others, timeout=60)[1] == []
    assert mithridate("resume", "run", "--quiet").returncode == 0
    assert_equal(mi.load_result(tmp_path / "run"), result)


@pytest.mark.slow
def test_a_script_without_a_guard_is_told(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import mithridate as mi\n"
        "options = dict(splits=1, points=2, policies=('fixed=-8',), hyperiterations=2)\n"
        "mi.audit('synthetic', execution='processes:1', **options)\n"
    )
    said = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=200)
    assert said.returncode == 1
    ends = [line for line in said.stderr.splitlines() if line.startswith("mithridate.errors.InputError: ")]
    assert len(ends) == 2, "the worker's and the driver's: no process starts others without end"
    assert all("under `if __name__ == '__main__':`" in end for end in ends)


def test_what_cannot_be_sent_is_refused():
    class Local(Counting): ...

    with pytest.raises(mi.InputError, match=r"cannot be sent to another process .*in a module that can be imported"):
        count("processes:2", Local("here"), [Count("a", 1)])


@pytest.mark.parametrize(
    "how",
    [
        "processes:0",
        "processes:-1",
        "processes:two",
        "process",
        "ray:",
        "ray:here",
        "rays",
        "ray:a b:1",
        "ray://h:1",
        "",
    ],
)
def test_other_executions_are_refused(how):
    with pytest.raises(mi.InputError, match="use auto, serial, batched, sharded, processes, ray, processes:N"):
        AuditConfig.of(dataset="digits-0v8", execution=how)


@pytest.mark.parametrize("how", ["processes", "processes:64", "ray", "ray:auto", "ray:node-1.lan:6379"])
def test_these_are_taken(how):
    assert AuditConfig.of(dataset="digits-0v8", execution=how).execution == how


# Ray


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A cluster of two nodes with a core each, and processes of their own, on this machine."""
    from ray.cluster_utils import Cluster

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray forks; it also leaves files open
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        cluster.add_node(num_cpus=1)
        yield cluster
        cluster.shutdown()


def tree(node: Any) -> list[psutil.Process]:
    """The processes of a node: its raylet and the workers that this has started."""
    raylets = [info.process.pid for infos in node.all_processes.values() for info in infos]
    return [each for pid in raylets for each in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))]


@pytest.mark.slow
def test_a_node_that_is_killed_costs_no_number(result, nodes, monkeypatch):
    monkeypatch.setattr(Pace, "EVERY", 0.0)
    (node,) = nodes.worker_nodes
    seen, killed = [], []

    def watch(at: Any) -> None:
        seen.append(at.running)
        busy = [each for each in tree(node) if "_serve" in each.name()] if not killed else []
        if busy and sum("learned" in running for running in seen) > 2:
            killed.extend(tree(node))
            for process in killed:
                process.kill()

    found = mi.audit("digits-0v8", policies=TWO, execution=f"ray:{nodes.address}", on_progress=watch, **SMALL)
    assert_equal(found, result)
    assert len(killed) >= 2
    twice = {running for running, times in Counter(seen).items() if times > 1}
    assert len(twice) == 1, "the chain of the lost node was begun again, from its cell and no earlier"


def test_ray_gives_a_chain_up_stops_and_raises_as_processes_do(nodes, tmp_path):
    how = f"ray:{nodes.address}"
    work = Counting(str(tmp_path), forever=("doomed",))
    found = count(how, work, [Count("long", 6, deadly=(3,)), Count("doomed", 5, deadly=(2,))])
    numbers = {name: [o.number for o in found if o.chain == name] for name in ("long", "doomed")}
    assert numbers == {"long": list(range(6)), "doomed": [0, 1, 2]}
    assert [o.failed for o in found if o.failed] == ["the worker was lost (WorkerCrashedError), 3 times"]
    with pytest.raises(mi.InputError, match=r"^b is wrong$"):
        count(how, work, [Count("b", 1, wrong=True)])
    stop: list[int] = []
    some = []
    for outcome in stream(Counting(str(tmp_path), pause=0.2), [Count("a", 999)], how, lambda: bool(stop)):
        some.append(outcome)
        stop.extend([1] if len(some) == 3 else [])
    assert len(some) < 10


def test_a_cluster_that_is_not_there_is_told(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        how = f"ray:127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(mi.InputError, match=f"execution = {how}: no connection to a cluster .*refused"):
        count(how, Counting("here"), [Count("a", 1)])
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(mi.InputError, match=r"Ray is not installed: pip install 'mithridate\[ray\]'"):
        check("ray")


def test_ray_takes_the_cluster_file_of_the_page():
    from ray.autoscaler.sdk import bootstrap_config

    file = Path(__file__).parents[1] / "docs" / "examples" / "cluster.yaml"
    made = bootstrap_config(yaml.safe_load(file.read_text()), no_config_cache=True)
    (nodes,) = made["available_node_types"].values()
    assert nodes["min_workers"] == len(made["provider"]["worker_ips"]) == 2
