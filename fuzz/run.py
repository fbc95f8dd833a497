"""Feed one of the program's inputs to a coverage-guided fuzzer: `python fuzz/run.py TARGET SECONDS`.

Targets are those of `tests/targets.py`. A crash is anything but an error of our own; the first input of each kind is
written to `fuzz/crashes/`, and the fuzzer goes on. More than 30 seconds or 4 GiB for one input end it. Inputs that
reach new code are kept in `fuzz/corpus/TARGET/`. Needs `pip install atheris`; all other flags are libFuzzer's.
"""

import os
import sys
import time
import traceback
from pathlib import Path

import atheris

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

with atheris.instrument_imports(include=["mithridate", "zipfile", "tomllib", "numpy.lib._format_impl"]):
    import targets

inputs, slowest, started, found = 0, 0.0, time.monotonic(), {}


def counted(content: bytes) -> None:
    """Run the target on one input; keep the input when it crashes as none did before."""
    global inputs, slowest
    inputs, begun = inputs + 1, time.monotonic()
    try:
        targets.TARGETS[name](content)
    except Exception as error:  # noqa: BLE001
        kind = type(error).__name__, traceback.extract_tb(error.__traceback__)[-1][:2]
        if kind not in found:
            found[kind] = crashes / f"{name}-{len(found)}"
            found[kind].write_bytes(content)
            traceback.print_exception(error)
    slowest = max(slowest, time.monotonic() - begun)
    if time.monotonic() - started > float(seconds):
        minutes = (time.monotonic() - started) / 60
        said = f"{inputs:,} inputs in {minutes:.1f} minutes, slowest {slowest:.1f} s, {len(found)} kinds of crash"
        sys.stdout.write(f"{name}: {said}\n")
        sys.stdout.flush()
        targets.clean_up()
        # libFuzzer takes an ordinary exit for a crash.
        os._exit(bool(found))


name, seconds, *flags = sys.argv[1:]
corpus, crashes = HERE / "corpus" / name, HERE / "crashes"
for folder in (corpus, crashes):
    folder.mkdir(parents=True, exist_ok=True)
for place, seed in enumerate(targets.seeds(name)):
    (corpus / f"seed{place}").write_bytes(seed)
limits = [f"-artifact_prefix={crashes}/{name}-", "-timeout=30", "-rss_limit_mb=4096", "-max_len=65536", *flags]
atheris.Setup([sys.argv[0], *limits, str(corpus)], counted)
started = time.monotonic()
atheris.Fuzz()
