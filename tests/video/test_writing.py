import errno
import os
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from clips import av, grey_ramp, make_clip, streams, truncate
from faceresnet import VideoError
from faceresnet.video.reading import Frame, open_video
from faceresnet.video.writing import VideoWriter


def copy(source, target, **options):
    """Write a video anew, and read the result."""
    with (
        open_video(source, sound=True) as video,
        VideoWriter(target, like=video, **options) as film,
    ):
        for frame in video:
            film.write(frame.image, frame)
    with open_video(target) as video:
        return list(video), film


def hidden(folder):
    return [name for name in os.listdir(folder) if name.startswith(".")]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".m4v", ".ts", ".webm"])
def test_pictures_times_and_sound(tmp_path, suffix):
    times_s = [0, 0.02, 0.3, 0.6, 1.0, 1.5]
    source = make_clip(tmp_path / "a.mp4", times_s=times_s, sound="aac")
    frames, film = copy(source, tmp_path / f"new/b{suffix}")
    np.testing.assert_allclose([frame.time_s for frame in frames], times_s, atol=0.03)
    middle = [int(frame.image[48, 64, 1]) for frame in frames]
    np.testing.assert_allclose(middle, 40 + 5 * np.arange(6), atol=6)
    found = streams(tmp_path / f"new/b{suffix}")
    assert found["video"][0] == ("vp9" if suffix == ".webm" else "h264")
    assert found["audio"][0].removeprefix("lib") == ("opus" if suffix == ".webm" else "aac")
    assert found["audio"][1] == pytest.approx(1.5, abs=0.1)
    assert film.warnings == []
    assert hidden(tmp_path / "new") == []


def test_sound_that_fits_is_copied_bit_by_bit(tmp_path):
    source = make_clip(tmp_path / "a.mp4", frames=20, sound="aac")
    copy(source, tmp_path / "b.mp4")

    def sound(path):
        with av.open(str(path)) as container:
            return [
                (packet.pts, bytes(packet)) for packet in container.demux(audio=0) if packet.size
            ]

    assert sound(tmp_path / "b.mp4") == sound(source)


@pytest.mark.parametrize(("codec", "suffix"), [("pcm_s16le", ".mov"), ("flac", ".mkv")])
def test_sound_that_does_not_fit_is_encoded_anew(tmp_path, codec, suffix):
    source = make_clip(tmp_path / f"a{suffix}", frames=30, sound=codec)
    copy(source, tmp_path / "b.mp4")
    assert streams(tmp_path / "b.mp4")["audio"] == ("aac", pytest.approx(1, abs=0.1))


def uncompressed(path, rate, layout):
    """A clip of a second whose sound is PCM."""
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("mpeg4", rate=10, width=64, height=48)
        sound = container.add_stream("pcm_s16le", rate=rate, layout=layout)
        samples = np.zeros((1, rate // 10 * len(av.AudioLayout(layout).channels)), np.int16)
        for number in range(10):
            picture = av.VideoFrame.from_ndarray(grey_ramp((48, 64), 90), format="rgb24")
            picture.pts = number
            container.mux(pictures.encode(picture))
            wave = av.AudioFrame.from_ndarray(samples, format="s16", layout=layout)
            wave.sample_rate, wave.pts = rate, number * (rate // 10)
            container.mux(sound.encode(wave))
        container.mux(pictures.encode())
        container.mux(sound.encode())
    return path


@pytest.mark.parametrize(
    ("name", "rate", "layout", "kept"),
    [
        ("a.avi", 8_000, "mono", (8_000, "mono")),
        ("a.avi", 44_100, "stereo", (44_100, "stereo")),
        ("a.avi", 11_024, "mono", (48_000, "mono")),
        ("a.mkv", 192_000, "stereo", (48_000, "stereo")),
        ("a.mkv", 44_100, "7.1", (44_100, "7.1")),
    ],
)
def test_sound_of_any_rate_whose_layout_has_no_name(tmp_path, name, rate, layout, kept):
    source = uncompressed(tmp_path / name, rate, layout)
    with av.open(str(source)) as container:
        assert "channels" in container.streams.audio[0].layout.name
    _, film = copy(source, tmp_path / "b.mp4")
    assert film.warnings == []
    with av.open(str(tmp_path / "b.mp4")) as container:
        sound = container.streams.audio[0]
        assert (sound.codec_context.name, sound.rate, sound.layout.name) == ("aac", *kept)
        length_s = sum(frame.samples for frame in container.decode(sound)) / sound.rate
    assert length_s == pytest.approx(1, abs=0.1)


def test_sound_that_no_encoder_takes_is_left_out(tmp_path):
    source = uncompressed(tmp_path / "a.mkv", 48_000, "22.2")
    frames, film = copy(source, tmp_path / "b.mp4")
    assert len(frames) == 10
    assert film.warnings == [".mp4 takes no sound: pcm_s16le is left out"]
    assert streams(tmp_path / "b.mp4").keys() == {"video"}


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_sound_of_joined_films_goes_on_where_their_clocks_begin_anew(tmp_path, suffix):
    one = make_clip(tmp_path / "one.ts", frames=60, sound="aac").read_bytes()
    (tmp_path / "a.ts").write_bytes(3 * one)
    target = tmp_path / f"b{suffix}"
    frames, _ = copy(tmp_path / "a.ts", target)
    assert frames[-1].time_s == pytest.approx(6, abs=0.1)
    with av.open(str(target)) as container:
        sounds = list(container.decode(audio=0))
    assert sum(sound.samples / sound.sample_rate for sound in sounds) == pytest.approx(6, abs=0.2)
    times_s = [sound.time for sound in sounds]
    assert times_s == sorted(times_s)
    assert times_s[-1] == pytest.approx(6, abs=0.2)


def test_sound_and_pictures_keep_step_whatever_their_start(tmp_path):
    source = make_clip(tmp_path / "a.mkv", frames=30, sound="aac", start_s=100)
    frames, _ = copy(source, tmp_path / "b.mp4")
    assert frames[0].time_s == pytest.approx(0, abs=0.03)
    ends_s = [end_s for _, end_s in streams(tmp_path / "b.mp4").values()]
    assert ends_s == [pytest.approx(29 / 30, abs=0.06)] * 2


def test_sound_ends_where_the_pictures_were_stopped(tmp_path):
    source = make_clip(tmp_path / "a.mp4", frames=90, sound="aac")
    with (
        open_video(source, sound=True) as video,
        VideoWriter(tmp_path / "b.mp4", like=video) as film,
    ):
        for frame in video:
            film.write(frame.image, frame)
            if frame.index == 30:
                break
    found = streams(tmp_path / "b.mp4")
    assert found["video"][1] == pytest.approx(1.0, abs=0.01)
    assert found["audio"][1] == pytest.approx(1.0, abs=0.08)


def test_sound_of_a_truncated_film_is_kept(tmp_path):
    source = make_clip(tmp_path / "a.mp4", frames=90, sound="aac", movflags="+faststart")
    frames, _ = copy(truncate(source, 0.6), tmp_path / "b.mp4")
    assert 10 < len(frames) < 90
    assert streams(tmp_path / "b.mp4")["audio"][1] > 0.2


def test_odd_sizes_and_colours(tmp_path):
    picture = grey_ramp((97, 129), 90)
    source = make_clip(
        tmp_path / "a.mov", frames=3, picture=lambda _: picture, codec="png", pix_fmt="rgb24"
    )
    with open_video(source) as video:
        assert video.size == (97, 129)
        np.testing.assert_array_equal(next(video).image, picture)
    frames, _ = copy(source, tmp_path / "b.mp4", quality=4)
    assert frames[0].image.shape == (98, 130, 3)
    difference = np.abs(frames[0].image[:97, :129].astype(int) - picture)
    assert np.percentile(difference, 95) <= 4
    assert np.abs(frames[0].image[97, 2:60].astype(int) - picture[96, 2:60]).max() < 30


def test_high_definition_keeps_its_colours(tmp_path):
    picture = np.full((720, 64, 3), (200, 30, 30), np.uint8)
    source = make_clip(
        tmp_path / "a.mov", frames=1, picture=lambda _: picture, codec="png", pix_fmt="rgb24"
    )
    frames, _ = copy(source, tmp_path / "b.mp4")
    assert np.abs(frames[0].image[99, 9].astype(int) - picture[99, 9]).max() <= 4


def test_titles_are_copied_unless_unwanted(tmp_path):
    source = make_clip(
        tmp_path / "a.mov", frames=2, metadata={"title": "Holiday", "location": "+48.1+011.5/"}
    )
    for metadata in (True, False):
        copy(source, tmp_path / "b.mp4", metadata=metadata)
        with av.open(str(tmp_path / "b.mp4")) as container:
            assert container.metadata.get("title") == ("Holiday" if metadata else None)
            assert ("location" in container.metadata) == metadata


def tell(source, target, comment):
    """The film with a comment in the header of its Vorbis sound."""
    empty = b"\x03vorbis" + bytes(8) + b"\x01"
    told = b"\x03vorbis" + struct.pack("<III", 0, 1, len(comment)) + comment + b"\x01"
    with av.open(str(source)) as film, av.open(str(target), "w") as container:
        sound = film.streams.audio[0]
        copies = {stream: container.add_stream_from_template(stream) for stream in film.streams}
        header = bytes(sound.codec_context.extradata)
        assert header[2] == len(empty)
        header = header[:2] + bytes([len(told)]) + header[3:].replace(empty, told)
        copies[sound].codec_context.extradata = header
        for packet in film.demux():
            if packet.dts is not None:
                packet.stream = copies[packet.stream]
                container.mux(packet)


def test_sound_that_tells_whose_it_is_is_encoded_anew(tmp_path):
    source = make_clip(tmp_path / "plain.mkv", frames=20, sound="vorbis")
    tell(source, tmp_path / "a.mkv", b"ARTIST=Anna")
    for metadata in (True, False):
        copy(tmp_path / "a.mkv", tmp_path / "b.mkv", metadata=metadata)
        assert (b"Anna" in (tmp_path / "b.mkv").read_bytes()) == metadata
        with av.open(str(tmp_path / "b.mkv")) as container:
            assert sum(frame.samples for frame in container.decode(audio=0)) > 10_000


def test_turned_films_are_written_upright(tmp_path):
    frames, _ = copy(make_clip(tmp_path / "a.mp4", frames=2, rotation=90), tmp_path / "b.mp4")
    assert frames[0].image.shape == (128, 96, 3)
    assert frames[0].image[5, 5, 1] > 150, "green came to the top left"


@pytest.mark.parametrize(
    ("rotation", "aspect"), [(0, Fraction(4, 3)), (90, Fraction(3, 4)), (180, Fraction(4, 3))]
)
def test_pixels_that_are_not_square_are_turned_with_the_film(tmp_path, rotation, aspect):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10, width=96, height=64)
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        stream.set_display_rotation(rotation)
        picture = av.VideoFrame.from_ndarray(grey_ramp((64, 96), 90), format="rgb24")
        container.mux(stream.encode(picture))
        container.mux(stream.encode())
    copy(tmp_path / "a.mp4", tmp_path / "b.mp4")
    with av.open(str(tmp_path / "b.mp4")) as container:
        stream = container.streams.video[0]
        size = (64, 96) if rotation == 90 else (96, 64)
        assert (stream.width, stream.height, stream.sample_aspect_ratio) == (*size, aspect)


def test_faststart(tmp_path):
    copy(make_clip(tmp_path / "a.mp4", frames=2), tmp_path / "b.mp4")
    content = (tmp_path / "b.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_pictures_of_another_size_are_scaled(tmp_path):
    with (
        open_video(make_clip(tmp_path / "a.mp4", frames=2)) as video,
        VideoWriter(tmp_path / "b.mp4", like=video) as film,
    ):
        for frame in video:
            film.write(grey_ramp((48, 64), 200), frame)
    with open_video(tmp_path / "b.mp4") as video:
        assert video.size == (96, 128)


def test_times_that_stand_still_move_on(tmp_path):
    image = grey_ramp((96, 128), 50)
    with (
        open_video(make_clip(tmp_path / "a.mp4", frames=1)) as video,
        VideoWriter(tmp_path / "b.mp4", like=video) as film,
    ):
        for pts in (0, 500, 500, 400, 1000):
            film.write(image, Frame(image, 0, 0, pts))
    with open_video(tmp_path / "b.mp4") as video:
        assert len(list(video)) == 5


def test_an_error_leaves_nothing_behind_and_what_was_there(tmp_path):
    (tmp_path / "b.mp4").write_text("old")
    source = make_clip(tmp_path / "a.mp4", frames=4)

    def write(frames, error=None):
        with open_video(source) as video, VideoWriter(tmp_path / "b.mp4", like=video) as film:
            for frame in list(video)[:frames] * 20:
                film.write(frame.image, frame)
            if error:
                assert hidden(tmp_path)
                raise error

    with pytest.raises(RuntimeError, match="out of order"):
        write(4, RuntimeError("out of order"))
    with pytest.raises(VideoError, match="no picture"):
        write(0)
    assert (tmp_path / "b.mp4").read_text() == "old"
    assert hidden(tmp_path) == []


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("a.mp4", "is the video that is read"),
        ("link.mp4", "is the video that is read"),
        ("b.avi", "ends in .mp4"),
        ("b.jpg", "ends in .mp4"),
        ("b", "ends in .mp4"),
        ("folder.mp4", "is a folder"),
    ],
)
def test_targets_that_are_refused(tmp_path, monkeypatch, target, message):
    monkeypatch.chdir(tmp_path)
    make_clip(Path("a.mp4"), frames=2)
    Path("link.mp4").symlink_to("a.mp4")
    Path("folder.mp4").mkdir()
    before = Path("a.mp4").read_bytes()
    with open_video("a.mp4") as video, pytest.raises(ValueError, match=message):
        VideoWriter(target, like=video)
    assert Path("a.mp4").read_bytes() == before


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with (
        open_video(make_clip(tmp_path / "a.mp4", frames=1)) as video,
        pytest.raises(VideoError, match="cannot write"),
        VideoWriter(tmp_path / "file/b.mp4", like=video),
    ):
        pass


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, of Linux")
def test_a_full_disk(tmp_path, monkeypatch):
    from contextlib import contextmanager

    @contextmanager
    def full(target):
        link = tmp_path / "full.mkv"
        link.symlink_to("/dev/full")
        yield link

    monkeypatch.setattr("faceresnet.video.writing.replacing", full)
    noise = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)

    def write():
        with (
            open_video(make_clip(tmp_path / "a.mp4", frames=40)) as video,
            VideoWriter(tmp_path / "b.mkv", like=video, quality=0) as film,
        ):
            for frame in video:
                film.write(noise, frame)

    with pytest.raises(VideoError, match=os.strerror(errno.ENOSPC)):
        write()
