"""Speed, memory and size of detection, beside its peers in one interleaved run.

    python benchmarks/detect.py [--model M] [--yunet FILE.onnx] [--peers] [--image FILE]
                                [--size 640x480] [--runs N] [--threads N] [--engine NAME]

Prints medians by stage and end to end, their ratio to YuNet's, photos/s by batch size, the peak
memory of each in a process of its own, and the size of the base install. YuNet runs in ONNX Runtime
with its own pre- and post-processing, vectorised (peers.py).

Before each call the machine rests for a tenth of a second and then makes the same call twice
untimed, so that none pays for what the one before left behind: ONNX Runtime's threads go on
spinning for some 46 ms after each run, and whoever shares the cores with them takes twice as long.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from peers import Detect, YuNet, add_arguments, open_peers

from faceresnet import Detections, FaceDetector, images
from faceresnet.anchors import make_anchors
from faceresnet.detector import FAINT, postprocess
from faceresnet.engine import open_engine
from faceresnet.weights import DEFAULT_MODEL, locate

WARM_UP = 10
#: s before each timed call; ONNX Runtime's threads have stopped spinning by then.
REST_S = 0.1
BATCH_SIZES = (1, 2, 4, 8, 16)


def make_image(size: tuple[int, int]) -> np.ndarray:
    """scikit-image's astronaut, twice, cut to `size` (height, width) px."""
    from skimage import data

    pictures: Any = data  # its functions have no types
    pair = np.concatenate([pictures.astronaut()] * 2, axis=1)
    scale = max(size[0] / pair.shape[0], size[1] / pair.shape[1])
    if scale > 1:
        pair = cv2.resize(pair, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(pair[: size[0], : size[1]])


def measure(calls: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """Median time of each call in ms, all of them in turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    for _ in range(runs):
        for name, call in calls.items():
            time.sleep(REST_S)
            call()
            call()
            start = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - start) * 1000)
    return {name: float(np.median(values)) for name, values in times.items()}


def stages(
    options: argparse.Namespace, image: np.ndarray
) -> tuple[dict[str, Callable[[], object]], dict[str, int]]:
    """What to time, by name; and how many faces each detector finds."""
    engine = open_engine(locate(options.model), options.engine, threads=options.threads)
    detector = FaceDetector(
        options.model, engine=options.engine, threads=options.threads, tile=False
    )
    spec, size = engine.spec, image.shape[:2]
    padded = images.letterbox(image, spec.size_multiple)[None]
    logits, deltas = engine(padded)
    anchors = make_anchors(spec.levels, padded.shape[1:3])

    def finish() -> Detections:
        found = postprocess(logits[0], deltas[0], anchors, spec, min(FAINT, spec.threshold), size)
        return Detections(*found, size)

    calls: dict[str, Callable[[], object]] = {
        "letterbox": lambda: images.letterbox(image, spec.size_multiple),
        "inference": lambda: engine(padded),
        "postprocess": finish,
        "end to end": lambda: detector(image),
    }
    faces = {"faceresnet": len(detector(image))}
    for name, peer in open_peers(options, threads=options.threads).items():
        if isinstance(peer, YuNet):
            calls |= yunet_stages(peer, image)
        calls[f"{name} end to end"] = lambda peer=peer: peer(image)
        faces[name] = len(peer(image))
    return calls, faces


def yunet_stages(yunet: YuNet, image: np.ndarray) -> dict[str, Callable[[], object]]:
    """What to time of YuNet's parts, by name."""
    blob = yunet.prepare(image)
    outputs = yunet.infer(blob)
    return {
        "YuNet prepare": lambda: yunet.prepare(image),
        "YuNet inference": lambda: yunet.infer(blob),
        "YuNet postprocess": lambda: yunet.finish(outputs, blob.shape[2:]),
    }


def throughput(options: argparse.Namespace, image: np.ndarray) -> dict[int, float]:
    """Photos per second by batch size, the sizes in turn, medians."""
    detectors = {
        size: FaceDetector(
            options.model,
            engine=options.engine,
            threads=options.threads,
            tile=False,
            batch_size=size,
        )
        for size in BATCH_SIZES
    }
    photos = [image] * max(BATCH_SIZES)
    ms = measure(
        {str(size): lambda d=d: d.batch(photos) for size, d in detectors.items()},
        max(1, options.runs // 5),
    )
    return {size: 1000 * len(photos) / ms[str(size)] for size in BATCH_SIZES}


def peak_memory_mb(options: argparse.Namespace, which: str) -> float:
    """Most memory that a fresh process needs to detect in the image a few times, in MB."""
    arguments = [sys.executable, __file__, *sys.argv[1:], "--memory-of", which]
    return float(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)


def run_for_memory(options: argparse.Namespace, image: np.ndarray) -> None:
    """Detect a few times, as the process that `peak_memory_mb` starts."""
    detect: Detect | None = None
    if options.memory_of == "faceresnet":
        detect = FaceDetector(options.model, engine=options.engine, threads=options.threads)
    else:
        peers = open_peers(options, threads=options.threads, only=options.memory_of)
        detect = peers.get(options.memory_of)
    for _ in range(3):
        if detect:
            detect(image)
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count the parent's peak as well
        peak = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        print(int(peak.split()[1]) / 1024)
    else:
        peak_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(peak_rss / (1024**2 if sys.platform == "darwin" else 1024))


def base_install_mb() -> dict[str, float]:
    """Size of this package and of everything that it needs without extras, in MB."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    sizes: dict[str, float] = {}
    waiting = ["faceresnet"]
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in sizes:
            continue
        distribution = metadata.distribution(name)
        files = [Path(str(file.locate())) for file in distribution.files or []]
        sizes[name] = sum(file.stat().st_size for file in files if file.is_file()) / 1e6
        for text in distribution.requires or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    package = Path(images.__file__).parent  # an editable install lists no files of its own
    sizes["faceresnet"] = (
        sum(
            file.stat().st_size
            for file in package.rglob("*")
            if file.is_file() and "__pycache__" not in file.parts
        )
        / 1e6
    )
    return sizes


def machine() -> str:
    """Processor, cores and versions."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        name = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), name)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    packages = ["faceresnet", "openvino", "onnxruntime", "opencv-python-headless", "numpy"]
    versions = []
    for package in packages:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            versions.append(f"{package} not installed")
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    python = platform.python_version()
    return f"{name}, {cores} cores{load}; Python {python}, {', '.join(versions)}"


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="name or .onnx file")
    add_arguments(parser)
    parser.add_argument("--image", help="a photo; by default scikit-image's astronaut")
    parser.add_argument("--size", default="640x480", help="WIDTHxHEIGHT px that it is scaled to")
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--threads", type=int, help="by default one for each core")
    parser.add_argument("--engine", default="openvino")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    options = parse()
    width, height = (int(side) for side in options.size.split("x"))
    if options.image:
        image = images.resize(images.read(options.image), (height, width))
    else:
        image = make_image((height, width))
    if options.memory_of:
        run_for_memory(options, image)
        return
    calls, faces = stages(options, image)
    ms = measure(calls, options.runs)
    print(machine())
    threads = options.threads or "all cores"
    print(f"{width}×{height} px, {options.engine}, threads: {threads}, runs: {options.runs}\n")
    found = ", ".join(f"{name} finds {count} faces" for name, count in faces.items())
    print(f"model {options.model}: {found}\n")
    print(f"{'median':<20}{'ms':>8}{'of end to end':>16}")
    for name, value in ms.items():
        peer = next((peer for peer in faces if name.startswith(peer)), "")
        whole = ms[f"{peer} end to end".strip()]
        print(f"{name:<20}{value:>8.2f}{value / whole:>15.1%}")
    around = 1 - ms["inference"] / ms["end to end"]
    stages_only = (ms["letterbox"] + ms["postprocess"]) / ms["end to end"]
    print(f"\npre- and post-processing: {stages_only:.1%} (all but inference: {around:.1%})")
    if options.yunet:
        print(f"time ÷ YuNet's: {ms['end to end'] / ms['YuNet end to end']:.2f}")
    print("\nphotos/s by batch size")
    for size, rate in throughput(options, image).items():
        print(f"{size:<20}{rate:>8.1f}")
    print("\npeak memory, MB (each in its own process)")
    for name in ["imports alone", *faces]:
        print(f"{name:<20}{peak_memory_mb(options, name):>8.0f}")
    sizes = base_install_mb()
    print(f"\nbase install: {sum(sizes.values()):.0f} MB, of which")
    for name, size in sorted(sizes.items(), key=lambda item: -item[1])[:6]:
        print(f"{name:<28}{size:>8.1f}")


if __name__ == "__main__":
    main()
