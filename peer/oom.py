"""Whether the kernel killed for want of memory: Linux counts that per control group."""

from __future__ import annotations

from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
_FIELD = "oom_kill"


def oom_kills(own: Path = _OWN, cgroups: Path = _CGROUPS) -> int:
    """Processes of our control group that the kernel has killed for want of memory; 0 where it does not say."""
    try:
        lines = own.read_text().splitlines()
        group = next(line.removeprefix("0::/") for line in lines if line.startswith("0::/"))
        events = dict(line.split() for line in (cgroups / group / "memory.events").read_text().splitlines())
        return int(events[_FIELD])
    except (OSError, ValueError, KeyError, StopIteration):
        return 0
