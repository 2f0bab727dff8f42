"""The number of CPU cores that this process may use."""

import math
import os
import pathlib


def available_cpus(root: pathlib.Path = pathlib.Path("/")) -> int:
    """Return how many cores the affinity and the cgroups of this process allow.

    `os.cpu_count()` counts the cores of the machine. There may be a hundred of them,
    while a container or a Slurm task may use two.

    Args:
      root: root of the file system; for tests.
    """
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1  # macOS has neither affinity nor cgroups
    return max(1, min(count, math.ceil(min(_quotas(root), default=count))))


def _quotas(root: pathlib.Path) -> list[float]:
    """Return the limits, in cores, of the cgroups that this process belongs to."""
    quotas = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2: a limit at each level
            mount, names = root / "sys/fs/cgroup", ("cpu.max",)
        elif "cpu" in controllers.split(","):
            mount = root / "sys/fs/cgroup" / "cpu"
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        else:
            continue
        group = pathlib.PurePosixPath(path.lstrip("/"))
        for level in (group, *group.parents):
            words = " ".join(_read(mount / level / name) for name in names).split()
            if len(words) == 2 and words[0].isdecimal():  # else "max" or -1
                quotas.append(int(words[0]) / int(words[1]))
    return quotas


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
