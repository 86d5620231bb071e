"""Sound on its way into a film: copied where the film's container takes it, else encoded anew.

Whatever is wrong with the sound costs sound alone, never the film, and is told.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from contextlib import suppress
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from faceresnet.video.reading import CLOCK_JUMP_S

if TYPE_CHECKING:
    import av

_MP3 = frozenset({"mp3", "mp3float"})
_OPUS = frozenset({"opus", "libopus"})
_MP4 = _MP3 | _OPUS | {"aac", "ac3", "eac3", "alac"}
#: Sound that players expect in a container, and that the container keeps; "pcm" stands for all PCM.
#: Anything else is encoded anew there. Containers that are not named refuse what they do not keep.
COPIED = {
    ".mp4": _MP4,
    ".m4v": _MP4,
    ".mov": _MP3 | {"aac", "ac3", "eac3", "alac", "adpcm_ima_qt", "pcm"},
    ".ts": _MP3 | _OPUS | {"aac", "mp2", "ac3", "eac3"},
}
#: Samples/s that every encoder of sound takes.
USUAL_RATE = 48_000
#: Layout of so many channels, where the source names none or one that the encoder does not take.
USUAL_LAYOUTS = dict(enumerate(("mono", "stereo", "2.1", "quad", "5.0", "5.1", "6.1", "7.1"), 1))


def add_tone(
    container: av.container.OutputContainer,
    suffix: str,
    source: av.AudioStream,
    start_s: float,
    *,
    metadata: bool,
    warn: Callable[[str], None],
) -> Tone | None:
    """A stream of a film for the sound of a stream: copied, encoded anew, or none.

    Args:
        container: of the film; nothing is written to it yet.
        suffix: that names the container, small letters.
        source: stream of a video.
        start_s: the source's own time of the film's time 0.
        metadata: copy what the stream says about itself.
        warn: is told what is lost.
    """
    import av

    known = source.codec_context
    if not (known.sample_rate and known.layout.nb_channels):
        warn(f"{_name(source)} is of no known rate or layout: it is left out")
        return None
    shift = -round(start_s / (source.time_base or Fraction(1)))
    # Vorbis tells artist and place in the header without which nobody can play it.
    tells = known.name == "vorbis" and not metadata
    if not tells and _is_kept(known.name, suffix) and _is_taken(container, source):
        copy = container.add_stream_from_template(source)
        copy.metadata.update(source.metadata if metadata else {})
        # AAC without a header says in each packet how it is, and only .ts keeps that.
        bound = known.name == "aac" and not known.extradata and suffix != ".ts"
        return Tone(container, source, copy, shift, warn, encodes=False, bound=bound)
    encoder = container.default_audio_codec if suffix == ".webm" else "aac"
    rate = known.sample_rate
    if encoder != "aac" or rate not in (av.Codec(encoder, "w").audio_rates or ()):
        rate = USUAL_RATE
    try:
        layout = _taken_layout(encoder, rate, known.layout)
        new: Any = container.add_stream(encoder, rate=rate)
        new.codec_context.layout = layout
    except (ValueError, av.FFmpegError):
        warn(f"{suffix} takes no sound: {known.name} is left out")
        return None
    return Tone(container, source, new, shift, warn, encodes=True)


class Tone:
    """One stream of sound on its way into the film."""

    def __init__(
        self,
        container: av.container.OutputContainer,
        source: av.AudioStream,
        stream: av.AudioStream,
        shift: int,
        warn: Callable[[str], None],
        *,
        encodes: bool,
        bound: bool = False,
    ) -> None:
        """Args:
        container: of the film.
        source: stream of the video.
        stream: of the film.
        shift: from the source's own times to the film's, in units of the source's time base.
        warn: is told what is lost.
        encodes: the sound is encoded anew.
        bound: the film says once, for all of it, of which rate and channels it is.
        """
        self._container, self._stream, self._warn = container, stream, warn
        self._source = source
        self._encodes, self._bound = encodes, bound
        self._shift = shift
        self._last_dts: int | None = None
        self._step = 1
        self._form: tuple[Any, ...] | None = None
        self._resampler: av.AudioResampler | None = None
        self._broken = 0

    def time_s(self, packet: av.Packet[Any]) -> float:
        """When a packet that is next sounds in the film."""
        return float((dts_of(packet) + self._shift_of(packet)) * packet.time_base)

    def _shift_of(self, packet: av.Packet[Any]) -> int:
        """From a packet's times to the film's; another one from where a clock begins anew."""
        last = self._last_dts
        dts: int = dts_of(packet)
        if last is None or (last - dts - self._shift) * packet.time_base <= CLOCK_JUMP_S:
            return self._shift
        return last + self._step - dts

    def write(self, packet: av.Packet[Any]) -> None:
        """Add a packet; a broken one is left out."""
        import av

        shift = self._shift_of(packet)
        dts = dts_of(packet) + shift
        if self._last_dts is not None and dts <= self._last_dts:
            return  # a container takes times that run forwards only
        self._shift, self._last_dts, self._step = shift, dts, packet.duration or 1
        try:  # what is copied, too: what a container finds broken can cost the film
            sounds: list[Any] = packet.decode()
        except av.FFmpegError:
            self._broken += 1
            return
        if self._encodes:
            for sound in sounds:
                sound.pts = None if sound.pts is None else sound.pts + shift
                self._encode(sound)
            return
        for sound in sounds:
            self._watch(sound, float(dts * packet.time_base))
        packet.pts = None if packet.pts is None else packet.pts + shift
        packet.dts = dts
        packet.stream = self._stream
        self._mux([packet])

    def _encode(self, sound: av.AudioFrame) -> None:
        """Add sound; where films were joined it may be of another rate or layout than before."""
        import av

        form = (sound.format.name, sound.layout.name, sound.sample_rate)
        try:
            if form != self._form:
                self._drain()
                coder: Any = self._stream.codec_context
                self._form = form
                self._resampler = av.AudioResampler(coder.format, coder.layout, coder.rate)
            for fitted in self._resampler.resample(sound) if self._resampler else []:
                self._mux(self._stream.encode(fitted))
        except av.FFmpegError:
            self._broken += 1

    def _drain(self) -> None:
        """Encode what the resampler still holds."""
        if self._resampler is not None:
            for fitted in self._resampler.resample(None):
                self._mux(self._stream.encode(fitted))

    def _watch(self, sound: av.AudioFrame, time_s: float) -> None:
        """Tell where copied sound is no longer what the film says of it."""
        # Any decoder takes mono for stereo, and SBR that sets in doubles rate and samples.
        form = Fraction(sound.samples, sound.sample_rate), max(sound.layout.nb_channels, 2)
        if self._form is not None and form != self._form and self._bound:
            self._bound = False
            self._warn(
                f"{_name(self._source)} changes to {sound.sample_rate:,} Hz, {sound.layout.name} "
                f"after {time_s:.1f} s, which only .ts keeps: it may sound wrong from there on"
            )
        self._form = form

    def _mux(self, packets: Iterable[av.Packet[Any]]) -> None:
        import av

        for packet in packets:
            try:
                with suppress(av.error.ArgumentError):  # two films overlap a little where they join
                    self._container.mux(packet)
            except av.error.InvalidDataError:
                self._broken += 1

    def finish(self) -> None:
        """Write what the encoder still holds."""
        import av

        if self._encodes:
            with suppress(av.FFmpegError):
                self._drain()
                self._mux(self._stream.encode(None))
        if self._broken:
            self._warn(f"{_name(self._source)} lacks its broken packets: {self._broken}")


def dts_of(packet: av.Packet[Any]) -> Any:
    """When a packet is decoded, by the source's own clock; None if it does not say."""
    return packet.pts if packet.dts is None else packet.dts


def _name(source: av.AudioStream) -> str:
    """What to call a stream in a warning."""
    return f"the sound of stream {source.index} ({source.codec_context.name})"


def _is_kept(codec: str, suffix: str) -> bool:
    """Whether a container may be trusted with a codec."""
    copied = COPIED.get(suffix)
    return copied is None or codec in copied or ("pcm" in copied and codec.startswith("pcm_"))


def _is_taken(container: av.container.OutputContainer, source: av.AudioStream) -> bool:
    """Whether a container takes a stream as it is: the header of another one is written."""
    import av

    with suppress(ValueError, av.FFmpegError):
        with av.open(io.BytesIO(), "w", format=container.format.name) as trial:
            trial.add_stream_from_template(source)
            trial.start_encoding()
        return True
    return False


def _taken_layout(encoder: str, rate: int, given: av.AudioLayout) -> str:
    """Name of a layout of so many channels that an encoder takes; the given one if it does.

    Raises:
        ValueError: it takes none.
    """
    import av

    codec: Any = av.Codec(encoder, "w")
    for name in (given.name, USUAL_LAYOUTS.get(given.nb_channels, given.name)):
        trial: Any = av.CodecContext.create(codec)
        with suppress(ValueError, av.FFmpegError):
            trial.sample_rate, trial.format, trial.layout = rate, codec.audio_formats[0], name
            trial.open()
            return name
    raise ValueError(f"{encoder} takes no sound of {given.nb_channels} channels")
