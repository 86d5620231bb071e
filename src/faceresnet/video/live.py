"""The newest frame of a camera, however slow its reader is and however often the camera goes away.

    feed = Feed(source)
    feed.start()
    while True:
        frame = feed.take()

A thread for each feed decodes all the time and keeps one frame only, the newest; the conversion to
RGB waits until somebody takes it. A camera that breaks off is opened again, for ever, with pauses
that grow. Video files go through the same door, but there every frame waits until it is taken.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from faceresnet import errors, images
from faceresnet.errors import VideoError, needs
from faceresnet.video.addresses import Source, mask
from faceresnet.video.delay import Delay
from faceresnet.video.reading import NO_ANSWER, as_rgb, open_video

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

#: Formats whose packets do not carry the camera's times: FFmpeg makes some up.
CLOCKLESS = frozenset({"mpjpeg", "mjpeg", "h264", "hevc", "m4v", "image2pipe", "jpeg_pipe"})
#: Largest picture that is decoded, px; 8K has 33 million. A broken header may claim anything.
MAX_PIXELS = 50_000_000


@dataclass(frozen=True)
class LiveOptions:
    """How to treat cameras.

    Attributes:
        connect_timeout_s: longest wait for a camera to answer and to describe its stream.
        read_timeout_s: longest time without a picture until the camera counts as gone.
        first_pause_s: before the first attempt to connect again.
        longest_pause_s: pauses double up to this.
        transport: of rtsp: ``tcp``, or ``udp``, which loses pictures but never waits.

    Raises:
        ValueError: a time is not positive, or there is no such transport.
    """

    connect_timeout_s: float = 10.0
    read_timeout_s: float = 10.0
    first_pause_s: float = 1.0
    longest_pause_s: float = 60.0
    transport: str = "tcp"

    def __post_init__(self) -> None:
        timeouts_s = self.connect_timeout_s, self.read_timeout_s
        pauses_s = self.first_pause_s, self.longest_pause_s
        if not all(time_s > 0 for time_s in (*timeouts_s, *pauses_s)):
            raise ValueError(f"time-outs and pauses must be positive, got {self}")
        if self.transport not in ("tcp", "udp"):
            raise ValueError(f"transport must be tcp or udp, got '{self.transport}'")


@dataclass(frozen=True)
class LiveFrame:
    """A frame on its way to the detector.

    Attributes:
        picture: RGB uint8 (H, W, 3), or a frame of PyAV that nobody has converted yet.
        at: when it was decoded, UTC.
        arrived_s: the same by the clock of `time.monotonic`.
        time_s: for durations: `arrived_s` of a camera, seconds from the start of a file.
        index: 0 for the first frame that the feed decoded, and so on; skipped ones count.
        connection: 1 for the first connection to the camera, and so on.
    """

    picture: images.Image | av.VideoFrame
    at: datetime
    arrived_s: float
    time_s: float
    index: int
    connection: int

    def image(self) -> images.Image:
        """RGB uint8 (H, W, 3)."""
        return self.picture if isinstance(self.picture, np.ndarray) else as_rgb(self.picture)


@dataclass(frozen=True)
class FeedState:
    """What is known about a feed at one moment.

    Attributes:
        up: frames come in.
        ended: a file is at its end, or could not be read; nothing more will come.
        frames: decoded so far.
        broken: packets that could not be decoded.
        skipped: frames that a newer one replaced before they were taken, or `every` left out.
        reconnects: times that a camera was opened again, whether it answered or not.
        error: why it is down, without passwords; None while it is up or has not failed yet.
    """

    up: bool = False
    ended: bool = False
    frames: int = 0
    broken: int = 0
    skipped: int = 0
    reconnects: int = 0
    error: str | None = None


class Backoff:
    """Pauses that double, each shortened by chance so that cameras do not come back in step."""

    def __init__(
        self, first_s: float, longest_s: float, chance: Callable[[], float] = random.random
    ) -> None:
        self._first_s, self._longest_s, self._chance = first_s, longest_s, chance
        self._next_s = first_s

    def reset(self) -> None:
        """Begin again with the shortest pause: the camera is back."""
        self._next_s = self._first_s

    def pause_s(self, *, longest: bool = False) -> float:
        """Length of the next pause, s; `longest` where trying again soon does harm."""
        whole_s = min(self._longest_s if longest else self._next_s, self._longest_s)
        self._next_s = min(2 * whole_s, self._longest_s)
        return whole_s * (1 - 0.5 * self._chance())


class Feed:
    """Frames of one source, read by a thread of its own.

    Args:
        source: camera or file.
        options: how to treat it.
        every: hand over only each so many-th frame.
        wake: set whenever there is news: a frame, the end, the loss of the camera.
    """

    def __init__(
        self,
        source: Source,
        options: LiveOptions | None = None,
        *,
        every: int = 1,
        wake: threading.Event | None = None,
    ) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self.source = source
        self.options = options or LiveOptions()
        self._every = every
        self._wake = wake or threading.Event()
        self._stop = threading.Event()
        self._free = threading.Condition()
        self._waiting: LiveFrame | None = None
        self._state = FeedState()
        self._connection = 0
        self._thread = threading.Thread(
            target=self._run if source.live else self._run_file,
            name=f"feed {source.name}",
            daemon=True,  # a read that hangs must not keep the whole program alive
        )

    @property
    def state(self) -> FeedState:
        """What is known now."""
        return self._state

    def start(self) -> None:
        """Begin to read.

        Raises:
            MissingExtraError: PyAV is not installed.
        """
        with needs("reading a camera", "video"):
            import av  # noqa: F401
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end; it may be in a read that lasts until its time-out."""
        self._stop.set()
        with self._free:
            self._free.notify_all()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread's end; whether it came."""
        if self._thread.ident is not None:
            self._thread.join(max(0.0, timeout_s))
        return not self._thread.is_alive()

    @property
    def ready(self) -> bool:
        """A frame waits to be taken."""
        return self._waiting is not None

    def take(self) -> LiveFrame | None:
        """Take the frame that waits; None if there is none newer than the last."""
        with self._free:
            frame, self._waiting = self._waiting, None
            self._free.notify_all()
        return frame

    def _set(self, **changes: Any) -> None:
        self._state = replace(self._state, **changes)

    def _publish(self, picture: images.Image | av.VideoFrame, time_s: float | None = None) -> None:
        """Hand a frame over: at once if live, else when the one before it was taken."""
        index = self._state.frames
        now_s = time.monotonic()
        frame = LiveFrame(
            picture,
            datetime.now(UTC),
            now_s,
            now_s if time_s is None else time_s,
            index,
            self._connection,
        )
        skipped = self._state.skipped
        if index % self._every:
            self._set(up=True, error=None, frames=index + 1, skipped=skipped + 1)
            return
        with self._free:
            if not self.source.live:
                self._free.wait_for(lambda: self._waiting is None or self._stop.is_set())
            elif self._waiting is not None:
                skipped += 1
            self._waiting = frame
        self._set(up=True, error=None, frames=index + 1, skipped=skipped)
        self._wake.set()

    def _run_file(self) -> None:
        """Hand over every frame of a file."""
        error = None
        try:
            with open_video(str(self.source.address)) as video:
                for frame in video:
                    self._publish(frame.image, frame.time_s)
                    if self._stop.is_set():
                        return
                self._set(broken=video.broken)
        except Exception as failure:  # a thread that dies in silence would look like a long film
            error = reason(failure)
        finally:
            self._set(up=False, ended=True, error=error)
            self._wake.set()

    def _run(self) -> None:
        """Read a camera, and open it again whenever it breaks off."""
        pauses = Backoff(self.options.first_pause_s, self.options.longest_pause_s)
        while not self._stop.is_set():
            refused = False
            self._connection += 1
            try:
                with closing(self._pictures()) as pictures:
                    for picture in pictures:
                        if self._stop.is_set():
                            return
                        self._publish(picture)
                        pauses.reset()
                error = "the stream ended"
            except Exception as failure:  # a camera may send anything: it must not end the watch
                error, refused = reason(failure), _refused(failure)
            self._set(up=False, error=error)
            self._wake.set()
            # Cameras lock their account after a few wrong passwords: those are tried again rarely.
            if not self._stop.wait(pauses.pause_s(longest=refused)):
                self._set(reconnects=self._state.reconnects + 1)

    def _pictures(self) -> Generator[images.Image | av.VideoFrame, None, None]:
        """Connect once; everything that comes until it breaks off."""
        address = self.source.address
        if isinstance(address, int) or address.startswith("/dev/"):
            with open_video(address) as video:
                for frame in video:
                    yield frame.image
        else:
            yield from self._decode(address)

    def _decode(self, address: str) -> Generator[av.VideoFrame, None, None]:
        """Decode a network stream from now on; raises when it breaks off or falls silent."""
        with self._open(address) as stream:
            if not stream.streams.video:
                raise VideoError("it sends no video")
            video = stream.streams.video[0]
            video.thread_type = "SLICE"  # threads that work on whole frames hold frames back
            video.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            last_s = time.monotonic()
            delay = None if stream.format.name in CLOCKLESS else Delay()
            for packet in stream.demux():  # all streams: sound must not hide that pictures ceased
                if self._stop.is_set():
                    return
                wanted = packet.stream_index == video.index
                if wanted and not (delay and delay.skip(packet)):
                    for picture in self._decode_packet(packet):
                        last_s = time.monotonic()
                        yield picture
                if time.monotonic() - last_s > self.options.read_timeout_s:
                    raise VideoError(f"no picture for {self.options.read_timeout_s:g} s")

    def _open(self, address: str) -> InputContainer:
        import av

        options, start_s = self._ffmpeg_options(address), time.monotonic()
        timeouts_s = self.options.connect_timeout_s, self.options.read_timeout_s
        try:
            return av.open(address, "r", options=options, timeout=timeouts_s)
        except av.error.InvalidDataError as error:  # rtsp takes a silence for an answer
            if time.monotonic() - start_s < timeouts_s[0]:
                raise
            raise VideoError(NO_ANSWER) from error

    def _decode_packet(self, packet: av.Packet[Any]) -> list[av.VideoFrame]:
        """Whole pictures of a packet; what is broken is counted."""
        import av

        try:
            pictures = [p for p in packet.decode() if isinstance(p, av.VideoFrame)]
        except av.error.EOFError:
            return []
        except av.FFmpegError:
            pictures = []
            self._set(broken=self._state.broken + 1)
        whole = [picture for picture in pictures if not picture.is_corrupt]
        if len(whole) < len(pictures):
            self._set(broken=self._state.broken + len(pictures) - len(whole))
        return whole

    def _ffmpeg_options(self, address: str) -> dict[str, str]:
        """For FFmpeg's demuxer and protocol; those it does not know it leaves alone."""
        scheme = address.partition("://")[0].lower()
        options = {"analyzeduration": "2000000", "fpsprobesize": "0", "max_pixels": str(MAX_PIXELS)}
        # PyAV's time-outs come first, and say what happened; this one is for what they miss.
        longest_s = 2 * max(self.options.connect_timeout_s, self.options.read_timeout_s)
        if scheme in ("rtsp", "rtsps", "http", "https", "tcp"):
            options["timeout"] = str(round(longest_s * 1e6))
        if scheme in ("rtsp", "rtsps"):
            options |= {"rtsp_transport": self.options.transport, "allowed_media_types": "video"}
        return options


def reason(error: BaseException) -> str:
    """Why reading failed, in words, without passwords."""
    import av

    if isinstance(error, av.error.InvalidDataError):
        return "it sends no video that can be decoded"
    if isinstance(error, av.error.ExitError | av.error.TimeoutError):
        return NO_ANSWER
    if _refused(error):
        return "it refuses the user name or the password"
    return mask(" ".join(errors.reason(error).split()))


def _refused(error: BaseException) -> bool:
    import av

    return isinstance(error, av.error.HTTPUnauthorizedError | av.error.HTTPForbiddenError)
