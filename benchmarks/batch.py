"""Photos a second of `faceresnet batch` with one and with two worker processes, in one run.

    python benchmarks/batch.py [--photos N] [--size 640x480] [--workers 1 2] [--rounds N]

Works on copies of scikit-image's astronaut as JPEG files. In every round each number of workers
does one job of its own, so that what else the machine does falls on all of them; the table shows
the medians. A rate is taken from the moment when all workers are at work, without loading the
model. Also prints what one worker spends a photo on, in processor time, and what that means for a
billion photos (docs/scale.md).
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from faceresnet import images
from faceresnet.apps import batch
from faceresnet.apps.batch.options import BatchOptions
from faceresnet.apps.batch.reading import Reader
from faceresnet.apps.batch.worker import open_detector, to_looked

STAGES = ("read", "decode", "detect", "round")


def make_photos(folder: Path, number: int, size: tuple[int, int]) -> None:
    """`number` JPEG files of `size` (height, width) px."""
    from PIL import Image
    from skimage import data

    astronaut = images.resize(data.astronaut(), size)
    for index in range(number):
        turned = np.roll(astronaut, index * 7, axis=1)
        Image.fromarray(turned).save(folder / f"{index:05d}.jpg", quality=90)


def rate(photos: Path, out: Path, workers: int) -> float:
    """Photos a second of one job, from the first photo that is done to the last."""
    times_s: list[float] = []
    batch.run(
        photos,
        out,
        BatchOptions(format="jsonl", shard_size=16),
        workers=workers,
        on_photos=lambda number: times_s.append(time.perf_counter()),
    )
    # Workers do not start at the same moment: the first sixth is left out.
    first = len(times_s) // 6
    return (len(times_s) - 1 - first) / (times_s[-1] - times_s[first])


def stages(photos: Path, number: int) -> dict[str, float]:
    """Median processor time of a photo by stage, in ms, in this process on one thread."""
    options = BatchOptions()
    detector, reader = open_detector(options), Reader(str(photos), None)
    spent: dict[str, list[float]] = {stage: [] for stage in STAGES}
    for path in sorted(photos.glob("*.jpg"))[:number]:
        clock = [time.thread_time()]
        content = reader(str(path))
        clock.append(time.thread_time())
        image = images.read(content)
        clock.append(time.thread_time())
        faces = detector(image)
        clock.append(time.thread_time())
        to_looked(faces)
        clock.append(time.thread_time())
        for stage, start, end in zip(STAGES, clock, clock[1:], strict=False):
            spent[stage].append((end - start) * 1e3)
    return {stage: statistics.median(values) for stage, values in spent.items()}


def machine() -> str:
    """Processor, cores and load."""
    cpuinfo = Path("/proc/cpuinfo")
    name = platform.processor() or platform.machine()
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        name = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), name)
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{name}, {os.cpu_count()} cores{load}; Python {platform.python_version()}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--photos", type=int, default=480)
    parser.add_argument("--size", default="640x480", help="WIDTHxHEIGHT px")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    width, height = (int(side) for side in options.size.split("x"))
    print(machine())
    rates: dict[int, list[float]] = {workers: [] for workers in options.workers}
    with tempfile.TemporaryDirectory(prefix="faceresnet-") as folder:
        photos = Path(folder) / "photos"
        photos.mkdir()
        make_photos(photos, options.photos, (height, width))
        size_kb = statistics.mean(path.stat().st_size for path in photos.iterdir()) / 1e3
        print(f"{options.photos} JPEG files of {width}×{height} px, {size_kb:.0f} kB each\n")
        spent = stages(photos, min(64, options.photos))
        print(f"{'on one thread':<16}{'ms a photo':>12}")
        for stage, ms in spent.items():
            print(f"{stage:<16}{ms:>12.2f}")
        print(f"{'sum':<16}{sum(spent.values()):>12.2f}\n")
        for number in range(options.rounds):
            for workers, its_rates in rates.items():
                its_rates.append(rate(photos, Path(folder) / f"{number}-{workers}", workers))
                print(
                    f"round {number + 1}, {workers} workers: {its_rates[-1]:.1f}", file=sys.stderr
                )
    medians = {workers: statistics.median(values) for workers, values in rates.items()}
    alone = options.workers[0]
    print(f"{'workers':<16}{'photos/s':>12}{'ratio':>8}")
    for workers, value in medians.items():
        print(f"{workers:<16}{value:>12.1f}{value / medians[alone]:>8.2f}")
    least, most = sum(spent.values()) / 1e3, max(rates) / medians[max(rates)]
    print(
        f"\na billion photos of this size: {1e9 * least / 3600:,.0f} core hours by processor time, "
        f"{1e9 * most / 3600:,.0f} by the rate of {max(rates)} workers"
    )


if __name__ == "__main__":
    main()
