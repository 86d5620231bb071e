"""Clips made for the tests: blobs or faces that move, sound, odd times, turned and broken files."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE = 30


def grey_ramp(size: tuple[int, int], shade: int) -> np.ndarray:
    """A picture whose four corners differ, so that turning it shows; its shade names its number."""
    height, width = size
    image = np.full((height, width, 3), 60, np.uint8)
    image[: height // 2, : width // 2] = (200, 30, 30)
    image[: height // 2, width // 2 :] = (30, 200, 30)
    image[height // 2 :, : width // 2] = (30, 30, 200)
    image[height // 4 : -height // 4, width // 4 : -width // 4] = shade
    return image


def make_clip(
    path: Path,
    *,
    frames: int = 30,
    size: tuple[int, int] = (96, 128),
    rate: int = RATE,
    picture: Callable[[int], np.ndarray] | None = None,
    times_s: Sequence[float] | None = None,
    sound: str | None = None,
    rotation: float | None = None,
    codec: str = "libx264",
    gop: int = 10,
    start_s: float = 0.0,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Write a clip.

    Args:
        picture: RGB (H, W, 3) of each number of a frame; by default `grey_ramp`.
        times_s: of each frame, for a variable rate.
        sound: codec of a tone as long as the pictures.
        rotation: degrees counterclockwise in the display matrix.
    """
    picture = picture or (lambda number: grey_ramp(size, 40 + 5 * number % 200))
    times_s = [start_s + n / rate for n in range(frames)] if times_s is None else times_s
    height, width = picture(0).shape[:2]
    with av.open(str(path), "w") as container:
        container.metadata.update(metadata or {})
        video = container.add_stream(codec, rate=rate, width=width, height=height)
        video.pix_fmt = "yuv420p"
        base = Fraction(1, rate if codec == "mpeg4" else 60_000)
        video.time_base = video.codec_context.time_base = base
        video.gop_size = gop
        if codec == "libx264":
            video.options = {"preset": "ultrafast", "crf": "18", "bf": "2"}
        if rotation is not None:
            video.set_display_rotation(rotation)
        tone = container.add_stream(sound, rate=48_000) if sound else None
        for number, time_s in enumerate(times_s):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = round(time_s / base), base
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if tone is not None:
            _add_tone(container, tone, start_s, times_s[-1] + 1 / rate - start_s)
    return path


def _add_tone(container, stream, start_s: float, length_s: float) -> None:
    block = 1024
    for number in range(int(length_s * 48_000 / block)):
        t = (np.arange(block) + number * block) / 48_000
        wave = np.tile((0.3 * np.sin(2 * np.pi * 440 * t)).astype(np.float32), (2, 1))
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="stereo")
        frame.sample_rate = 48_000
        frame.pts, frame.time_base = round(start_s * 48_000) + number * block, Fraction(1, 48_000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())
