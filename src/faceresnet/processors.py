"""How much of the machine this process may use."""

from __future__ import annotations

import os
from pathlib import Path

#: Where Linux says how much of its processors a container may use: microseconds in a period.
CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def affinity() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores() -> int:
    """Processors that this process may keep busy, by its affinity and its container's limit."""
    try:
        quota, period = CPU_MAX.read_text().split()
        return max(1, min(affinity(), round(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or "max": no limit
        return affinity()
