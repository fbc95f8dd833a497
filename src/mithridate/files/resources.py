"""How much memory this process may still take: what the machine has left, within the limits of its container.

A container's limit is that of its control group or of any group above. Page cache that the kernel would free at once
does not count as used.
"""

from collections.abc import Iterator
from pathlib import Path

import psutil

UNIFIED = ("memory.max", "memory.current", "inactive_file")
LEGACY = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
"""For versions 2 and 1 of control groups: the files of limit and use, and the name of the cache in `memory.stat`."""


def free_memory(mounted: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Return the bytes that can still be allocated: the least of what the machine and its control groups have left.

    Arguments: `mounted`, where control groups are mounted; `own`, the file that names this process's groups. Without
    control groups, only the machine counts.

    Example:
        >>> free_memory() > 0
        True
    """
    return max(0, min(psutil.virtual_memory().available, *_left(mounted, own), 2**63))


def _left(mounted: Path, own: Path) -> Iterator[int]:
    """Yield the limit minus the use of each readable control group of this process."""
    try:
        lines = [line.split(":", 2) for line in own.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError):
        return
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if controllers and "memory" not in controllers.split(","):
            continue
        top, names = (mounted / "memory", LEGACY) if controllers else (mounted, UNIFIED)
        # In a container the path may be the host's, while only the container's own group is mounted: use the last.
        here = top / path.lstrip("/")
        for group in (here, *here.parents):
            if group.is_relative_to(top):
                yield from _of_group(group, *names)


def _of_group(group: Path, limit: str, used: str, cache: str) -> Iterator[int]:
    try:
        most, now = int((group / limit).read_text()), int((group / used).read_text())
        entries = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        yield most - now + int(entries.get(cache, 0))
    except (OSError, ValueError):  # there is no such group, or its limit is "max"
        return
