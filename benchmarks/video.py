"""Frames/s of a 640×480 video from file to file, beside the detector alone on the same frames.

    python benchmarks/video.py [--frames 300] [--rounds 3]

Each round measures both, one after the other. Beside the time it states the processor time, which
other programs on the machine disturb less.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from skimage import data

from faceresnet import FaceDetector, images
from faceresnet.apps.video import Options, annotate, open_detectors
from faceresnet.processors import cores
from faceresnet.video.reading import open_video
from faceresnet.video.writing import VideoWriter

RATE = 30


def make_clip(path: Path, frames: int) -> None:
    """Write an H.264 clip in which a photo with a face moves over another one."""
    ground = images.resize(data.coffee(), (480, 640))
    face = images.resize(data.astronaut()[0:256, 96:352], (200, 200))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, width=640, height=480)
        stream.time_base = stream.codec_context.time_base = Fraction(1, RATE)
        for number in range(frames):
            picture = ground.copy()
            x = abs(number * 3 % 880 - 440)
            picture[120:320, x : x + 200] = face
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock and of all processors."""
    clock_s, processor_s = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - clock_s, time.process_time() - processor_s


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    detectors = open_detectors(lambda threads: FaceDetector(threads=threads), None)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.mp4"), Path(folder, "out.mp4")
        make_clip(source, given.frames)
        with open_video(source) as video:
            pictures = [frame.image for frame in video]

        def alone() -> None:
            shares = [pictures[n :: len(detectors)] for n in range(len(detectors))]
            with ThreadPoolExecutor(len(detectors)) as pool:
                work = zip(detectors, shares, strict=True)
                list(pool.map(lambda pair: [pair[0](image) for image in pair[1]], work))

        def whole() -> None:
            with open_video(source) as video, VideoWriter(target, like=video) as film:
                annotate(video, detectors, Options(track=True), film=film)

        alone()
        rows = [(timed(alone), timed(whole)) for _ in range(given.rounds)]
    print(f"{platform.processor() or platform.machine()}, {cores()} cores, load {os.getloadavg()}")
    print(f"{given.frames} frames of 640×480, {len(detectors)} detectors, {given.rounds} rounds")
    for place, name in enumerate(["detector alone", "file to file, tracked"]):
        clock_s, processor_s = np.median([row[place] for row in rows], axis=0) / given.frames
        print(f"{name:24}{1 / clock_s:8.1f} frames/s{1000 * processor_s:8.1f} ms of processor each")
    ratios = np.array([[b[n] / a[n] for n in (0, 1)] for a, b in rows])
    clock, processor = np.median(ratios, axis=0)
    print(f"file to file takes {clock:.2f} times the time and {processor:.2f} the processor time")


if __name__ == "__main__":
    main()
