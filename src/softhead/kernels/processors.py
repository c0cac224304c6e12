"""How many processors this process may keep busy: those it may run on, and the share that its control group grants."""

import functools
import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def processors() -> int:
    """Return the number of processors to use, at least 1: the affinity holds, and a quota read once."""
    if hasattr(os, "process_cpu_count"):  # from Python 3.13 on
        allowed = os.process_cpu_count() or 1
    else:
        allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, _own_quota() or allowed)


@functools.cache
def _own_quota() -> int | None:
    return quota(Path("/"))


def quota(root: Path) -> int | None:
    """Return how many processors the control groups of this process grant, rounded up, or None if they do not say.

    A container with half a processor's time on a machine of 64 would otherwise start 64 threads, and be halted for most
    of every period. Both versions of Linux's control groups are read (the kernel's documentation: "Control Group v2",
    cpu.max, and "CFS Bandwidth Control", cpu.cfs_quota_us); a group is bound by all groups above it.

    Parameters
    ----------
    root : Path
        The root of the file system.
    """
    shares = [share for folder in _groups(root) if (share := _share(folder)) is not None]
    return max(1, math.ceil(min(shares))) if shares else None


def _groups(root: Path) -> Iterator[Path]:
    """Yield the folders that may hold the process's quotas: its groups as it sees them, and all above these."""
    hierarchies = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return
    for line in lines:  # such as 0::/user.slice or 4:cpu,cpuacct:/docker/1f
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        own = PurePosixPath(group.lstrip("/"))
        for mount in {"", "unified"} if not controllers else {controllers, "cpu"}:
            for part in (own, *own.parents):
                if ".." not in part.parts:  # a group outside of what the process sees
                    yield hierarchies / mount / part


def _share(folder: Path) -> float | None:
    """Return how many processors a group grants, or None."""
    try:
        if (folder / "cpu.max").exists():
            limit, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            limit = (folder / "cpu.cfs_quota_us").read_text(encoding="utf-8").strip()
            period = (folder / "cpu.cfs_period_us").read_text(encoding="utf-8")
        share = int(limit) / int(period)  # "max", or -1, is no limit
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return share if share > 0 else None


def cpu_name() -> str:
    """Return LLVM's name of the processor, which the compiled loops are made for."""
    from llvmlite import binding

    return str(binding.get_host_cpu_name())
