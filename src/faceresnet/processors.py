"""How much of the machine this process may use."""

from __future__ import annotations

import os
from pathlib import Path

#: Where Linux says how much of its processors a container may use: microseconds in a period.
CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def cores() -> int:
    """Processors that this process may use, by its affinity and its container's limit."""
    available = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    try:
        quota, period = CPU_MAX.read_text().split()
        return max(1, min(available, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or "max": no limit
        return available
