"""Frames from video files, cameras and network addresses: upright, RGB, each with its own time.

    with open_video("clip.mp4") as video:
        for frame in video:
            print(frame.time_s, frame.image.shape)

PyAV decodes. Whatever is broken in a file loses its own frames only; they are counted.
"""

from __future__ import annotations

import glob
import os
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from faceresnet import errors, images
from faceresnet.errors import VideoError, needs
from faceresnet.video.addresses import mask

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

#: Frames a second of a source that does not say.
UNKNOWN_RATE = 25.0
#: Errors one after the other in reading a file until the rest of it is given up.
PATIENCE = 20
#: From this height on, colours that a file does not explain are those of HD television.
HD_HEIGHT = 720
#: Times that run backwards by more than this begin anew: files put together, clocks set back, s.
CLOCK_JUMP_S = 1.0
#: Metadata about the file itself, none about what it shows.
TECHNICAL = frozenset({"major_brand", "minor_version", "compatible_brands", "encoder", "duration"})
NO_ANSWER = "no answer in time"
#: Packets without a picture until a live source is given up when it is opened.
FIRST_PACKETS = 1_000


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a video.

    Attributes:
        image: RGB uint8 (H, W, 3), upright.
        time_s: from the start of the video, never less than that of the frame before.
        index: 0 for the first frame read, and so on; broken frames have none.
        pts: `time_s` exactly, in units of the reader's `time_base`.
    """

    image: images.Image
    time_s: float
    index: int
    pts: int


def open_video(
    source: str | Path | int,
    *,
    sound: bool = False,
    connect_timeout_s: float = 10.0,
    read_timeout_s: float = 10.0,
) -> VideoReader:
    """Open a video and read its first frame.

    Args:
        source: a file; an address (rtsp, http(s), rtmp, udp, srt, …); the number of a camera, or
            its file ``/dev/video0``. A text of digits names a camera unless a file has that name.
        sound: keep the sound's packets as well, for `writing.VideoWriter`.
        connect_timeout_s: longest wait for a network source to answer.
        read_timeout_s: longest silence of a network source.

    Raises:
        VideoError: it cannot be opened, or no frame of it can be decoded.
        MissingExtraError: PyAV is not installed.
        ValueError: a time-out is not positive.
    """
    if not (connect_timeout_s > 0 and read_timeout_s > 0):
        raise ValueError(
            f"time-outs must be positive, got {connect_timeout_s} and {read_timeout_s} s"
        )
    place = _Place.of(source)
    timeout = None if place.path else (connect_timeout_s, read_timeout_s)
    return VideoReader(place, timeout, sound=sound)


class VideoReader:
    """The frames of a video, once, in order; a context manager. Made by `open_video`.

    Its iterator may run in another thread than the one that opened it, but only in one at a time.

    Attributes:
        name: of the source, its secrets masked, for messages.
        path: of the file, None for cameras and addresses.
        live: there is no end to wait for: a camera, or an address that names no length.
        size: (height, width) px of the first frame; later ones of a camera may differ.
        rate: frames/s on average, as far as the source says.
        duration_s: None where it is not known.
        frame_count: how many frames to expect, None where it is not known.
        time_base: seconds for each unit of `Frame.pts`.
        pixel_aspect: width of a pixel by its height; 1 but for old television.
        broken: packets that could not be decoded, and frames that the file names but holds no more.
        ended: the source was read to its end.
        sound: packets of sound read so far, oldest first, taken out by the writer.
        metadata: what the source says about itself: title, date, place, ….
    """

    def __init__(self, place: _Place, timeout: tuple[float, float] | None, *, sound: bool) -> None:
        self.name, self.path = place.name, place.path
        self._reading = threading.Lock()
        self._hears = sound
        self.broken = 0
        self.ended = False
        self.sound: deque[av.Packet[Any]] = deque()
        self._container = _open_container(place, timeout)
        try:
            videos = [stream for stream in _pictures(self._container) if stream.codec_context]
            if not videos:
                raise VideoError(f"there is no video in {self.name} that can be decoded")
            # Of the variants of a live stream the first is taken, whatever its size.
            self._stream = max(videos, key=_preference) if self.path else videos[0]
            self.sound_streams = (
                [s for s in self._container.streams.audio if s.codec_context] if sound else []
            )
            self._describe()
            self._display = _Display()
            self._frames = self._read()
            self._first: Frame | None = next(self._frames, None)
            if self._first is None:
                raise VideoError(f"no frame of {self.name} can be decoded: the file is broken")
        except BaseException:
            self._container.close()
            raise
        self.size = self._first.image.shape[0], self._first.image.shape[1]
        aspect = Fraction(self._stream.sample_aspect_ratio or 1) or Fraction(1)
        self.pixel_aspect = 1 / aspect if self._display.transposes else aspect

    def _describe(self) -> None:
        """Read rate, length and units from the header."""
        stream, container = self._stream, self._container
        self.time_base = Fraction(stream.time_base or Fraction(1, 90_000))
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        self.rate = rate if 0 < rate <= 1000 else UNKNOWN_RATE
        self.duration_s: float | None = None
        if stream.duration:
            self.duration_s = float(stream.duration * self.time_base)
        elif container.duration:
            self.duration_s = container.duration / 1e6
            if "matroska" in container.format.name:  # it counts from 0, not from its start
                self.duration_s -= (container.start_time or 0) / 1e6
        self.live = self.path is None and self.duration_s is None
        self.frame_count = stream.frames or (
            None if self.duration_s is None else round(self.duration_s * self.rate)
        )
        self.metadata = {k: v for k, v in container.metadata.items() if k not in TECHNICAL}
        start_s = None if container.start_time is None else container.start_time / 1e6
        self._clock = _Clock(self.rate, self.time_base, start_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def left_out(self) -> list[str]:
        """What of the source is not read, a line each, as far as is known by now; until `close`."""
        taken = self._stream.index
        lines = []
        pictures = [s for s in _pictures(self._container) if s.index != taken]
        if pictures:
            named = ", ".join(map(_described, pictures))
            lines.append(f"pictures but those of {_described(self._stream)} are left out: {named}")
        mute = [s for s in self._container.streams.audio if self._hears and not s.codec_context]
        if mute:
            named = ", ".join(f"stream {stream.index}" for stream in mute)
            lines.append(f"sound that cannot be decoded is left out: {named}")
        return lines

    @property
    def start_s(self) -> float | None:
        """The source's own time of our time 0."""
        return self._clock.start_s

    def close(self) -> None:
        """Let the source go; frames that were read stay valid.

        While a thread waits for the next frame nothing can be let go: that is left to its end.
        """
        if self._reading.acquire(blocking=False):
            try:
                self._frames.close()
                self._container.close()
            finally:
                self._reading.release()

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        """Read the next frame.

        Raises:
            StopIteration: there is none.
            VideoError: a live source fell silent or broke off.
        """
        if self._first is not None:
            frame, self._first = self._first, None
            return frame
        with self._reading:
            return next(self._frames)

    def _read(self) -> Generator[Frame]:
        for index, picture in enumerate(self._pictures()):
            pts = self._clock.read(picture)
            yield Frame(self._display.show(picture), float(pts * self.time_base), index, pts)

    def _pictures(self) -> Iterator[av.VideoFrame]:
        """Decoded frames, past whatever is broken."""
        import av

        listed = packets = pictures = unread = failures = 0
        paired = damaged = False
        while not self.ended:
            try:
                for packet in self._container.demux([self._stream, *self.sound_streams]):
                    failures = 0
                    if packet.stream.type == "audio":
                        if packet.size:
                            self.sound.append(packet)
                        continue
                    listed += bool(packet.size)
                    packets += bool(packet.size) and not packet.is_discard
                    damaged = damaged or packet.is_corrupt
                    decoded = self._decode(packet)
                    pictures += len(decoded)
                    paired = paired or any(picture.interlaced_frame for picture in decoded)
                    yield from decoded
                    if self.live and not pictures and packets > FIRST_PACKETS:
                        return
                self.ended = True
            except (av.FFmpegError, OSError) as error:
                if self.live:
                    raise VideoError(f"{self.name} broke off: {_reason(error)}") from error
                unread += 1
                failures += 1
                self.ended = failures > PATIENCE
        if "mp4" in self._container.format.name:  # its header lists every frame
            damaged = damaged or listed < self._stream.frames
            packets += max(0, self._stream.frames - listed)
        self.broken += unread
        if self.broken or damaged:  # what leant on a broken packet is lost, too
            self.broken = max(self.broken, 0 if paired else packets - pictures)
        if self.broken or damaged or self._container.format.name == "mpegts":
            self.broken = max(self.broken, self._clock.missing())

    def _decode(self, packet: av.Packet[Any]) -> list[av.VideoFrame]:
        import av

        try:
            return packet.decode()
        except av.error.EOFError:  # a second flush
            return []
        except av.FFmpegError:
            self.broken += 1
            return []


class _Clock:
    """Times of frames from the start of the video, that never run backwards."""

    def __init__(self, rate: float, time_base: Fraction, start_s: float | None) -> None:
        """Args:
        rate: frames/s.
        time_base: seconds for each unit of `Frame.pts`.
        start_s: the source's own time of our time 0; that of the first frame if it is not known.
        """
        self.start_s = start_s
        self._time_base = time_base
        self._step = max(1, round(1 / (rate * time_base)))
        self._last: int | None = None
        self._steps: Counter[int] = Counter()
        self._zero: int | None = None if start_s is None else round(start_s / time_base)

    def read(self, picture: av.VideoFrame) -> int:
        """`Frame.pts` of a decoded frame."""
        given = picture.pts
        if given is not None and picture.time_base and picture.time_base != self._time_base:
            given = round(given * picture.time_base / self._time_base)
        if self._zero is None:
            self._zero = given or 0
            self.start_s = float(self._zero * self._time_base)
        if given is None:
            pts = 0 if self._last is None else self._last + self._step
        else:
            pts = given - self._zero
        if self._last is not None and pts <= self._last:
            if (self._last - pts) * self._time_base > CLOCK_JUMP_S:
                self._zero -= self._last + self._step - pts
                pts = self._last + self._step
            else:
                pts = self._last + 1
        if self._last is not None:
            self._steps[pts - self._last] += 1
        self._last = pts
        return pts

    def missing(self) -> int:
        """How many frames are missing between those that came, if their rate is constant."""
        if not self._steps:
            return 0
        step = self._steps.most_common(1)[0][0]
        gaps = {length: number for length, number in self._steps.items() if length > 1.5 * step}
        if sum(gaps.values()) > self._steps.total() / 10:
            return 0
        return sum(number * (round(length / step) - 1) for length, number in gaps.items())


def as_rgb(picture: av.VideoFrame) -> images.Image:
    """Pixels of a decoded frame, as they lie in it: RGB uint8 (H, W, 3)."""
    unspecified = 2
    hd = picture.colorspace == unspecified and picture.height >= HD_HEIGHT
    colours = {"src_colorspace": "ITU709"} if hd else {}
    return picture.to_ndarray(format="rgb24", threads=1, **colours)  # type: ignore[arg-type]


class _Display:
    """Pixels of decoded frames, turned and mirrored as their display matrix asks.

    Asking a frame of PyAV for its side data ties it into a cycle of references, so that its pixels
    stay until Python's collector looks. Its rotation costs nothing, so the matrix is read once and
    again when that changes. (A mirror that comes or goes while it stays would be missed.)
    """

    def __init__(self) -> None:
        self._rotation: int | None = None
        self._matrix: np.ndarray | None = None

    @property
    def transposes(self) -> bool:
        """The last frame came with its rows for columns."""
        return self._matrix is not None and _transposes(self._matrix)

    def show(self, picture: av.VideoFrame) -> images.Image:
        """RGB uint8 (H, W, 3), upright."""
        image = as_rgb(picture)
        if picture.rotation != self._rotation:
            self._rotation, self._matrix = picture.rotation, _display_matrix(picture)
        return image if self._matrix is None else _displayed(image, self._matrix)


def _display_matrix(picture: av.VideoFrame) -> np.ndarray | None:
    """(3, 3), or None if the frame has none."""
    for data in picture.side_data:
        side: Any = data  # its type is wrong in the library's stubs
        if side.type.name == "DISPLAYMATRIX":
            return np.frombuffer(bytes(side), np.int32)[:9].reshape(3, 3)
    return None


def _transposes(matrix: np.ndarray) -> bool:
    """Whether a display matrix makes columns of rows, rather than leave them rows."""
    (a, b), (c, d) = matrix[:2, :2].tolist()
    return abs(b) + abs(c) > abs(a) + abs(d)


def _displayed(image: images.Image, matrix: np.ndarray) -> images.Image:
    """Apply a display matrix, to the nearest of the eight turns and mirrorings.

    Args:
        image: (H, W, 3).
        matrix: (3, 3); ``x' = x·m00 + y·m10``, ``y' = x·m01 + y·m11``.
    """
    import cv2

    (a, b), (c, d) = matrix[:2, :2].tolist()
    if _transposes(matrix):
        image, right, down = cv2.transpose(image), c, b
    else:
        right, down = a, d
    if right < 0 or down < 0:
        image = cv2.flip(image, -1 if right < 0 and down < 0 else 1 if right < 0 else 0)
    return image


@dataclass(frozen=True)
class _Place:
    """Where a video comes from, as FFmpeg names it."""

    name: str
    address: str
    path: Path | None = None
    format: str | None = None

    @classmethod
    def of(cls, source: str | Path | int) -> _Place:
        text = str(source)
        path = Path(text)
        if isinstance(source, int) or (text.isdecimal() and not os.path.exists(text)):
            return cls._camera(int(text))
        if text.startswith("/dev/video"):
            return cls(text, text, format="v4l2")
        if isinstance(source, str) and "://" in text:
            return cls(mask(text), text)
        if os.path.isdir(text):
            raise VideoError(f"{text} is a folder, a video file was expected")
        if not os.path.exists(text):
            raise VideoError(f"there is no video file {text}")
        return cls(text, f"file:{text}", path)

    @classmethod
    def _camera(cls, number: int) -> _Place:
        if sys.platform == "darwin":
            return cls(f"camera {number}", str(number), format="avfoundation")
        device = f"/dev/video{number}"
        if not Path(device).exists():
            cameras = ", ".join(sorted(glob.glob("/dev/video*"))) or "none"
            raise VideoError(f"there is no camera {number} ({device}); cameras here: {cameras}")
        return cls(f"camera {number}", device, format="v4l2")


def _open_container(place: _Place, timeout: tuple[float, float] | None) -> InputContainer:
    with needs("video", "video"):
        import av
    start = time.monotonic()
    is_rtsp = place.address.lower().startswith("rtsp")
    try:
        return av.open(
            place.address,
            "r",
            format=place.format,
            options={"rtsp_transport": "tcp"} if is_rtsp else {},
            metadata_errors="replace",
            timeout=timeout,
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        late = timeout is not None and time.monotonic() - start >= timeout[0]
        reason = NO_ANSWER if late else _reason(error)
        raise VideoError(f"cannot open {place.name}: {reason}") from error


def _pictures(container: InputContainer) -> list[av.VideoStream]:
    """Streams of pictures that follow each other, other than the cover of an album."""
    return [
        stream
        for stream in container.streams.video
        if not stream.disposition & type(stream.disposition).attached_pic
    ]


def _preference(stream: av.VideoStream) -> tuple[bool, int]:
    """What speaks for a stream: that the source itself takes it, then how many pixels it has."""
    pixels = stream.codec_context.width * stream.codec_context.height
    return bool(stream.disposition & type(stream.disposition).default), pixels


def _described(stream: av.VideoStream) -> str:
    """What to call a stream in a message."""
    coder = stream.codec_context
    if not coder:
        return f"stream {stream.index} (of an unknown format)"
    size = f", {coder.width}×{coder.height}" if coder.width else ""
    return f"stream {stream.index} ({coder.name}{size})"


def _reason(error: BaseException) -> str:
    """Why FFmpeg failed, in words."""
    import av

    if isinstance(error, av.error.InvalidDataError):
        return "it is no video, or a broken one"
    if isinstance(error, av.error.ExitError | av.error.TimeoutError):
        return NO_ANSWER
    return errors.reason(error)
