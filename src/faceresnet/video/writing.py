"""Films: H.264 with the times, the sound and the titles of the video they were made from.

    with open_video("in.mp4", sound=True) as video, VideoWriter("out.mp4", like=video) as film:
        for frame in video:
            film.write(faces.draw(frame.image), frame)

A film appears under its name when it is whole. To keep what was written before an interruption,
leave the ``with`` block without an error: it becomes the film.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from faceresnet import images
from faceresnet.atomic import replacing
from faceresnet.errors import VideoError, reason
from faceresnet.processors import cores
from faceresnet.video.reading import HD_HEIGHT, Frame, VideoReader
from faceresnet.video.sound import add_tone, dts_of

if TYPE_CHECKING:
    import av

#: Containers that keep each frame's own time.
SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".ts")
#: Encoders by preference; the container's own default comes after them.
ENCODERS = ("libx264", "libopenh264")
#: x264's trade of speed for size.
PRESET = "veryfast"
#: The denominator of a time base that every encoder takes is at most this.
LARGEST_CLOCK = 60_000


class VideoWriter:
    """Writes a film; a context manager.

    Attributes:
        warnings: what of the source could not be kept, a line each.
        frames: written so far.
    """

    def __init__(
        self,
        target: str | Path,
        like: VideoReader,
        *,
        quality: int = 20,
        threads: int | None = None,
        metadata: bool = True,
    ) -> None:
        """Args:
            target: the file to be; its suffix names the container: .mp4, .mov, .mkv, .webm, ….
            like: where times, size, rate, sound (opened with ``sound=True``) and titles come from.
            quality: constant rate factor of H.264: lower is better and larger; 18 looks like the
                original, 23 is x264's default.
            threads: of the encoder; by default one for every other core, as what draws the
                pictures has work for the rest.
            metadata: copy what the source says about itself: title, date, place, ….

        Raises:
            ValueError: no container has that suffix, or the target is the source itself.
        """
        self.target = Path(target)
        _refuse(self.target, like)
        self._like, self._metadata = like, metadata
        self._quality, self._threads = quality, threads or max(1, cores() // 2)
        self._exit = ExitStack()
        self._last_pts = -1
        self.frames = 0
        self.warnings: list[str] = []

    def __enter__(self) -> Self:
        """Open the temporary file.

        Raises:
            VideoError: it cannot be written.
        """
        try:
            with ExitStack() as stack:
                self._partial = stack.enter_context(replacing(self.target))
                self._open()
                self._exit = stack.pop_all()
        except OSError as error:
            raise self._failed(error) from error
        return self

    def _open(self) -> None:
        """Declare the streams."""
        import av

        like, suffix = self._like, self.target.suffix.lower()
        options = {"movflags": "+faststart"} if suffix in (".mp4", ".m4v", ".mov") else {}
        self._container = av.open(f"file:{self._partial}", "w", container_options=options)
        height, width = (side + side % 2 for side in like.size)  # 4:2:0 halves both
        self._size = height, width
        rate = Fraction(like.rate).limit_denominator(1001)
        name, stream = _add_pictures(self._container, rate, height, width)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.sample_aspect_ratio = like.pixel_aspect
        self._base = (
            like.time_base
            if like.time_base.denominator <= LARGEST_CLOCK or name == "libx264"
            else Fraction(1, LARGEST_CLOCK)
        )
        stream.codec_context.time_base = stream.time_base = self._base
        stream.codec_context.thread_count = self._threads
        stream.options = _encoder_options(name, self._quality)
        self._hd = height >= HD_HEIGHT
        matrix = 1 if self._hd else 6  # BT.709, SMPTE 170M
        stream.codec_context.colorspace = matrix
        stream.codec_context.color_primaries = stream.codec_context.color_trc = matrix
        stream.codec_context.color_range = 1
        self._stream = stream
        tones = {
            source.index: add_tone(
                self._container,
                suffix,
                source,
                like.start_s or 0.0,
                metadata=self._metadata,
                warn=self.warnings.append,
            )
            for source in like.sound_streams
        }
        self._tones = {index: tone for index, tone in tones.items() if tone is not None}
        if self._metadata:
            self._container.metadata.update(like.metadata)

    def write(self, image: images.Image, frame: Frame) -> None:
        """Add a picture at the time of a frame, and the sound up to there.

        Args:
            image: RGB uint8 (H, W, 3); another size than the first frame's is scaled to it.
            frame: of `like`; its own image is not looked at.

        Raises:
            VideoError: it cannot be written, as on a full disk.
        """
        import av

        image = _fitted(images.check(image), self._like.size, self._size)
        picture = av.VideoFrame.from_ndarray(image, format="rgb24")
        picture = picture.reformat(
            format="yuv420p",
            dst_colorspace="ITU709" if self._hd else "SMPTE170M",
            dst_color_range="MPEG",
            threads=1,
        )
        pts = round(frame.pts * self._like.time_base / self._base)
        picture.pts = self._last_pts = max(pts, self._last_pts + 1)
        picture.time_base = self._base
        try:
            self._mux(self._stream.encode(picture))
            self.frames += 1
            self._write_sound(until_s=frame.time_s)
        except (av.FFmpegError, OSError) as error:
            raise self._failed(error) from error

    def _mux(self, packets: Iterable[av.Packet[Any]]) -> None:
        """Add packets of pictures; what the container finds broken is sound that waited there."""
        import av

        for packet in packets:
            with suppress(av.error.InvalidDataError):
                self._container.mux(packet)

    def _write_sound(self, until_s: float | None) -> None:
        """Take the reader's sound, all or up to a time."""
        waiting = self._like.sound
        while waiting:
            packet = waiting[0]
            tone = self._tones.get(packet.stream.index)
            if tone is None or dts_of(packet) is None:
                waiting.popleft()
                continue
            if until_s is not None and tone.time_s(packet) > until_s:
                return
            waiting.popleft()
            tone.write(packet)

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        """Finish the film, or after an error remove what there is of it.

        Raises:
            VideoError: it cannot be finished, or no picture was written.
        """
        import av

        if kind is not None:
            with suppress(av.FFmpegError, OSError):
                self._container.close()
            self._exit.__exit__(kind, *error)
            return
        with self._exit:
            try:
                self._finish()
            except (av.FFmpegError, OSError) as failure:
                raise self._failed(failure) from failure

    def _finish(self) -> None:
        if not self.frames:
            self._container.close()
            raise VideoError(f"{self.target} was not written: there was no picture for it")
        self._mux(self._stream.encode())
        end_s = float((self._last_pts + 1) * self._base) + 1 / self._like.rate
        self._write_sound(until_s=None if self._like.ended else end_s)
        for tone in self._tones.values():
            tone.finish()
        self._container.close()

    def _failed(self, error: Exception) -> VideoError:
        return VideoError(f"cannot write {self.target}: {reason(error)}")


def _refuse(target: Path, like: VideoReader) -> None:
    """Make sure that the target can be a film, and replaces neither its source nor a folder.

    Raises:
        ValueError: it cannot, or would.
    """
    if target.suffix.lower() not in SUFFIXES:
        raise ValueError(f"a video file ends in {', '.join(SUFFIXES)}, got {target}")
    if target.is_dir():
        raise ValueError(f"{target} is a folder: name the video file to write")
    if like.path is not None and target.exists() and target.samefile(like.path):
        raise ValueError(f"{target} is the video that is read: choose another name for the result")


def _add_pictures(container: Any, rate: Fraction, height: int, width: int) -> tuple[str, Any]:
    """A stream of the best encoder that build and container have; its name and itself."""
    import av

    for name in (*ENCODERS, container.default_video_codec):
        with suppress(ValueError, av.FFmpegError):
            return name, container.add_stream(name, rate=rate, width=width, height=height)
    raise ValueError(f"no video can be written as {container.format.name}: use .mp4 or .mkv")


def _encoder_options(name: str, quality: int) -> dict[str, str]:
    crf = str(quality)
    if name == "libx264":
        return {"preset": PRESET, "crf": crf}
    if "vp9" in name or "vp8" in name:
        return {"deadline": "realtime", "cpu-used": "8", "row-mt": "1", "crf": crf, "b": "0"}
    return {}


def _fitted(image: images.Image, size: tuple[int, int], even: tuple[int, int]) -> images.Image:
    """Scale to the film's size and repeat the last row and column to make it even."""
    import cv2

    image = images.resize(image, size)
    if even == size:
        return np.ascontiguousarray(image)
    below, beside = even[0] - size[0], even[1] - size[1]
    return cv2.copyMakeBorder(image, 0, below, 0, beside, cv2.BORDER_REPLICATE)
