from fractions import Fraction

import numpy as np
import pytest

from clips import av, grey_ramp
from faceresnet.video.reading import open_video
from faceresnet.video.writing import VideoWriter

LENGTH_S = 1
PICTURE = grey_ramp((48, 64), 90)


def film(path, codec="aac", *, rate=48_000, layout="stereo", start_s=0):
    """A film of `LENGTH_S` with a tone of 440 Hz."""
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("libx264", rate=10, width=64, height=48)
        pictures.pix_fmt = "yuv420p"
        tone = container.add_stream(codec, rate=rate, layout=layout)
        if codec == "vorbis":
            tone.codec_context.options = {"strict": "experimental"}
        for number in range(10 * LENGTH_S):
            picture = av.VideoFrame.from_ndarray(PICTURE, format="rgb24")
            picture.pts, picture.time_base = start_s * 10 + number, Fraction(1, 10)
            container.mux(pictures.encode(picture))
        container.mux(pictures.encode())
        wave = np.sin(2 * np.pi * 440 * np.arange(rate * LENGTH_S) / rate).astype(np.float32) / 3
        for start in range(0, len(wave), 1024):
            part = np.tile(wave[start : start + 1024], (av.AudioLayout(layout).nb_channels, 1))
            sound = av.AudioFrame.from_ndarray(part, format="fltp", layout=layout)
            sound.sample_rate, sound.pts = rate, start_s * rate + start
            container.mux(tone.encode(sound))
        container.mux(tone.encode())
    return path


def joined(path, *parts):
    """Films put together as files."""
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def copied(source, target):
    """Write a film anew: how many pictures it has, and what was warned of."""
    with open_video(source, sound=True) as video, VideoWriter(target, like=video) as film:
        for frame in video:
            film.write(frame.image, frame)
    return film.frames, film.warnings


def heard(path):
    """Codec of the sound, how long it is by rate and channels, s, and its pitch at the end, Hz."""
    lengths_s, waves = {}, []
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        for sound in container.decode(stream):
            form = sound.sample_rate, sound.layout.nb_channels
            lengths_s[form] = lengths_s.get(form, 0) + sound.samples / sound.sample_rate
            step = 1 if sound.format.is_planar else form[1]
            waves.append(sound.to_ndarray()[0, ::step].astype(float))
        name = stream.codec_context.name.removeprefix("lib")
    wave = np.concatenate(waves)[-form[0] // 2 : -form[0] // 10]
    strengths = np.abs(np.fft.rfft(wave - wave.mean()))
    return name, lengths_s, strengths.argmax() / len(wave) * form[0]


@pytest.mark.parametrize(
    ("codec", "made", "written", "kept"),
    [
        ("aac", ".mp4", ".mov", "aac"),
        ("alac", ".mov", ".mov", "alac"),
        ("pcm_s16le", ".mkv", ".mov", "pcm_s16le"),
        ("pcm_f32le", ".mkv", ".mov", "pcm_f32le"),
        ("adpcm_ima_qt", ".mov", ".mov", "adpcm_ima_qt"),
        ("libmp3lame", ".mkv", ".mov", "mp3float"),
        ("ac3", ".mkv", ".mov", "ac3"),
        ("eac3", ".mkv", ".mov", "eac3"),
        ("libopus", ".mkv", ".mov", "aac"),
        ("flac", ".mkv", ".mov", "aac"),
        ("mp2", ".mkv", ".mov", "aac"),
        ("aac", ".mp4", ".ts", "aac"),
        ("mp2", ".mkv", ".ts", "mp2"),
        ("libmp3lame", ".mkv", ".ts", "mp3float"),
        ("ac3", ".mkv", ".ts", "ac3"),
        ("eac3", ".mkv", ".ts", "eac3"),
        ("libopus", ".mkv", ".ts", "opus"),
        ("pcm_s16le", ".mov", ".ts", "aac"),
        ("flac", ".mkv", ".ts", "aac"),
        ("alac", ".mov", ".ts", "aac"),
        ("vorbis", ".mkv", ".ts", "aac"),
        ("adpcm_ima_qt", ".mov", ".mkv", "aac"),
    ],
)
def test_each_container_keeps_the_sound(tmp_path, codec, made, written, kept):
    source = film(tmp_path / f"a{made}", codec)
    assert copied(source, tmp_path / f"b{written}") == (10, [])
    name, lengths_s, pitch = heard(tmp_path / f"b{written}")
    assert name == kept
    assert lengths_s == {(48_000, 2): pytest.approx(LENGTH_S, abs=0.07)}
    assert pitch == pytest.approx(440, rel=0.02)


def test_sound_of_many_channels_is_encoded_with_all_of_them(tmp_path):
    source = film(tmp_path / "a.mkv", "flac", layout="5.1")
    assert copied(source, tmp_path / "b.ts") == (10, [])
    assert heard(tmp_path / "b.ts")[1] == {(48_000, 6): pytest.approx(LENGTH_S, abs=0.07)}


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".ts"])
def test_sound_of_which_nothing_can_be_decoded_does_not_cost_the_film(tmp_path, suffix):
    source = film(tmp_path / "a.ts")
    content = bytearray(source.read_bytes())
    for start in range(0, len(content), 188):
        if content[start + 1] & 0x1F == 1 and content[start + 2] == 1:  # 0x101, the sound
            content[start + 4 : start + 188] = b"\xff" * 184
    source.write_bytes(content)
    message = "the sound of stream 1 (aac) is of no known rate or layout: it is left out"
    assert copied(source, tmp_path / f"b{suffix}") == (10, [message])
    with av.open(str(tmp_path / f"b{suffix}")) as container:
        assert not container.streams.audio


@pytest.mark.parametrize("rate", [44_100, 22_050])
@pytest.mark.parametrize("codec", ["aac", "mp2"])
def test_sound_that_is_encoded_goes_on_at_another_rate(tmp_path, codec, rate):
    one = film(tmp_path / "one.ts", codec)
    two = film(tmp_path / "two.ts", codec, rate=rate, layout="mono", start_s=1)
    source = joined(tmp_path / "a.ts", one, two)
    assert copied(source, tmp_path / "b.webm") == (20, [])
    name, lengths_s, pitch = heard(tmp_path / "b.webm")
    assert name == "opus"
    assert {rate for rate, _ in lengths_s} == {48_000}
    assert sum(lengths_s.values()) == pytest.approx(2 * LENGTH_S, abs=0.25)
    assert pitch == pytest.approx(440, rel=0.02)


def test_copied_sound_that_a_film_cannot_follow_is_told(tmp_path):
    one = film(tmp_path / "one.ts")
    two = film(tmp_path / "two.ts", rate=44_100, start_s=1)
    source = joined(tmp_path / "a.ts", one, two, film(tmp_path / "three.ts", start_s=2))
    message = (
        "the sound of stream 1 (aac) changes to 44,100 Hz, stereo after 1.0 s, which only .ts "
        "keeps: it may sound wrong from there on"
    )
    for suffix in (".mp4", ".mkv"):
        assert copied(source, tmp_path / f"b{suffix}") == (30, [message])
    assert copied(source, tmp_path / "b.ts") == (30, [])
    assert heard(tmp_path / "b.ts")[1].keys() == {(48_000, 2), (44_100, 2)}


def test_mono_and_stereo_may_follow_each_other(tmp_path):
    one = film(tmp_path / "one.ts", layout="mono")
    two = film(tmp_path / "two.ts", start_s=1)
    source = joined(tmp_path / "a.ts", one, two)
    assert copied(source, tmp_path / "b.mp4") == (20, [])


@pytest.mark.parametrize("codecs", ["aac aac aac ac3", "ac3 ac3 ac3 aac"])
def test_sound_of_another_codec_costs_sound_only_and_is_told(tmp_path, codecs):
    parts = [
        film(tmp_path / f"{number}.ts", codec, start_s=number * LENGTH_S)
        for number, codec in enumerate(codecs.split())
    ]
    source = joined(tmp_path / "a.ts", *parts)
    for suffix in (".mp4", ".mkv", ".webm"):
        frames, (warning,) = copied(source, tmp_path / f"b{suffix}")
        assert frames == 40
        message = f"the sound of stream 1 ({codecs[:3]}) lacks its broken packets: "
        assert warning.startswith(message)
        assert sum(heard(tmp_path / f"b{suffix}")[1].values()) == pytest.approx(3, abs=0.2)
