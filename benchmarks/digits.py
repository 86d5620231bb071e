"""One training iteration of the digit networks: by hand in NumPy beside PyTorch, interleaved.

    python benchmarks/digits.py [--batch 50] [--threads 2] [--runs 40]
                                [--optimiser sgd|momentum|adam]

Both engines take the same batch, from a uint8 array to moved weights. PyTorch runs channels-last
with its fused optimisers. Prints medians and their ratio, and the machine and versions; the machine
should have nothing else to do. Every timed call follows an untimed one of the same engine, so that
neither pays for what the other left in the caches.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time

import numpy as np
import torch

from faceresnet.digits.engines import ENGINES, Engine, open_engine
from faceresnet.digits.nets import NETS, Net, initial_weights
from faceresnet.nn.optim import SGD, Adam

WARM_UP = 5
OPTIMISERS: dict[str, SGD | Adam] = {
    "sgd": SGD(0.01),
    "momentum": SGD(0.01, momentum=0.9, weight_decay=1e-4),
    "adam": Adam(0.001),
}
#: What the ratio is meant to stay below.
GOALS = {"cnn": 0.75, "fcc": 0.85}


def main() -> None:
    """Measure both networks and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=50, help="digits in a mini-batch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=40, help="timed iterations of each")
    parser.add_argument("--optimiser", choices=tuple(OPTIMISERS), default="sgd")
    options = parser.parse_args()
    print(
        f"{_processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; "
        f"{options.threads} threads, batch {options.batch}, {options.optimiser}\n"
        f"Python {platform.python_version()}, NumPy {np.__version__}, PyTorch {torch.__version__}"
    )
    for net in NETS.values():
        times = measure(net, options.batch, options.threads, options.runs, options.optimiser)
        ours, theirs = (1000 * statistics.median(times[engine]) for engine in ENGINES)
        ratios = [a / b for a, b in zip(times["numpy"], times["torch"], strict=True)]
        print(
            f"{net.name}: NumPy {ours:6.1f} ms (best {1000 * min(times['numpy']):.1f}), "
            f"PyTorch {theirs:6.1f} ms (best {1000 * min(times['torch']):.1f}), "
            f"ratio of medians {ours / theirs:.2f}, median ratio {statistics.median(ratios):.2f}, "
            f"goal {GOALS[net.name]:.2f}"
        )


def measure(
    net: Net, batch: int, threads: int, runs: int, optimiser: str
) -> dict[str, list[float]]:
    """Seconds of every timed iteration of each engine."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, 28, 28)).astype(np.uint8)
    labels = rng.integers(0, 10, batch)
    parameters, state = initial_weights(net, 0)
    engines = {
        name: open_engine(name, net, OPTIMISERS[optimiser], {**parameters, **state}, threads)
        for name in ENGINES
    }
    times: dict[str, list[float]] = {name: [] for name in engines}
    for run in range(WARM_UP + runs):
        for name, engine in engines.items():
            engine.step(images, labels)
            seconds = _timed(engine, images, labels)
            if run >= WARM_UP:
                times[name].append(seconds)
    return times


def _timed(engine: Engine, images: np.ndarray, labels: np.ndarray) -> float:
    began = time.perf_counter()
    engine.step(images, labels)
    return time.perf_counter() - began


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
