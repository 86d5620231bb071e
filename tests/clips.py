"""Clips made for the tests: blobs or faces that move, sound, odd times, turned and broken files."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av")

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
    movflags: str | None = None,
    pix_fmt: str = "yuv420p",
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
    flags = {"movflags": movflags} if movflags else {}
    with av.open(f"file:{path}", "w", container_options=flags) as container:
        container.metadata.update(metadata or {})
        video = container.add_stream(codec, rate=rate, width=width, height=height)
        video.pix_fmt = pix_fmt
        base = Fraction(1, rate if codec == "mpeg4" else 60_000)
        video.time_base = video.codec_context.time_base = base
        video.gop_size = gop
        if codec == "libx264":
            video.options = {"preset": "ultrafast", "crf": "18", "bf": "2"}
        if rotation is not None:
            video.set_display_rotation(rotation)
        tone = container.add_stream(sound, rate=48_000) if sound else None
        if sound == "vorbis":
            tone.codec_context.layout = "stereo"
            tone.codec_context.options = {"strict": "experimental"}
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


def blob_clip(path: Path, *, frames: int = 24, step: int = 4, squares: int = 2, **options) -> Path:
    """A clip of red squares that move to the right, each in a row of its own, slower below."""
    from conftest import blob_image

    def picture(number: int) -> np.ndarray:
        places = [(30 + step * number / (row + 1), 36 + 60 * row, 22) for row in range(squares)]
        return blob_image((60 * squares + 12, 160), *places)

    return make_clip(path, frames=frames, picture=picture, **options)


def damage(path: Path, at: float, length: int) -> Path:
    """Write nonsense over a part of a file, `at` 0..1 of it."""
    content = bytearray(path.read_bytes())
    start = int(len(content) * at)
    noise = np.random.default_rng(0).integers(0, 256, length, dtype=np.uint8).tobytes()
    content[start : start + length] = noise
    path.write_bytes(content)
    return path


def truncate(path: Path, part: float) -> Path:
    """Cut a file off."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    return path


def streams(path: Path) -> dict[str, tuple[str, float]]:
    """Codec of each kind of stream and the time of its last packet from the start, s."""
    with av.open(str(path)) as container:
        start_s = container.start_time / 1e6
        found = {stream.type: (stream.codec_context.name, 0.0) for stream in container.streams}
        for packet in container.demux():
            if packet.pts is not None:
                codec, end_s = found[packet.stream.type]
                found[packet.stream.type] = (
                    codec,
                    max(end_s, float(packet.pts * packet.time_base) - start_s),
                )
    return found
