import os
from fractions import Fraction

import numpy as np
import pytest

from conftest import blob_image
from faceresnet import VideoError
from faceresnet.apps.anonymise import Covering
from faceresnet.apps.anonymise import video as video_module
from faceresnet.apps.anonymise.filling import Filling
from faceresnet.apps.anonymise.video import anonymise_video
from faceresnet.detections import Detections

av = pytest.importorskip("av")
pytest.importorskip("trackers")

RATE = 25
SIZE = (96, 160)
SIDE = 40
BOX = Covering("box", shape="rectangle")


def place(number):
    """Where the face is in a frame: it walks from left to right."""
    return 30 + 1.5 * number


def make_clip(path, frames=60, *, times=None, rotation=None, sound=True, metadata=None):
    """A walking face with a tone."""
    with av.open(str(path), "w", options={"movflags": "use_metadata_tags"}) as container:
        container.metadata.update(metadata or {})
        pictures = container.add_stream("libx264", rate=RATE)
        pictures.height, pictures.width = SIZE
        pictures.pix_fmt, pictures.options = "yuv444p", {"preset": "ultrafast", "crf": "10"}
        base = Fraction(1, 1000)
        pictures.time_base = pictures.codec_context.time_base = base
        if rotation is not None:
            pictures.set_display_rotation(rotation)
        tone = container.add_stream("aac", rate=44_100) if sound else None
        for number in range(frames):
            image = blob_image(SIZE, (place(number), 48, SIDE))
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = times[number] if times else number * 1000 // RATE
            frame.time_base = base
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode())
        if tone is not None:
            wave = np.sin(np.arange(44_100 * frames // RATE) / 16).astype(np.float32)[None]
            for start in range(0, wave.shape[1], 1024):
                part = np.ascontiguousarray(wave[:, start : start + 1024])
                sound_frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
                sound_frame.sample_rate, sound_frame.pts = 44_100, start
                container.mux(tone.encode(sound_frame))
            container.mux(tone.encode())
    return path


def detector(misses=lambda number: False, score=0.9):
    """Finds red pixels, but not in the frames it is told to miss: it counts what it is shown."""
    shown = iter(range(10**6))

    def detect(image):
        red = image[:, :, 0].astype(int) - image[:, :, 1:].max(axis=2) > 60
        if misses(next(shown)) or not red.any():
            return Detections.empty(image.shape[:2])
        y, x = np.nonzero(red)
        box = [x.min(), y.min(), x.max() + 1, y.max() + 1]
        scores = np.array([score], np.float32)
        return Detections(np.array([box], np.float32), scores, image.shape[:2])

    return detect


def uncovered(path):
    """Numbers of the frames in which some of the face shows, and of how many."""
    shows = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            image = frame.to_ndarray(format="rgb24").astype(int)
            shows.append(bool((image[:, :, 0] - image[:, :, 1:].max(axis=2) > 60).any()))
    return [number for number, red in enumerate(shows) if red], len(shows)


def test_the_clip_shows_the_face_in_every_frame(tmp_path):
    assert len(uncovered(make_clip(tmp_path / "a.mp4"))[0]) == 60


@pytest.mark.parametrize(
    "misses",
    [
        lambda number: False,
        lambda number: number % 3 > 0,
        lambda number: 10 <= number < 50,
        lambda number: number < 12,
        lambda number: number >= 48,
        lambda number: number % 12 > 1,
        lambda number: number != 30 and number != 31 and (number < 20 or number > 40),
    ],
    ids=["none", "two of three", "40 in a row", "the first", "the last", "most", "all but a few"],
)
def test_no_frame_is_uncovered_though_the_detector_misses_many(tmp_path, misses):
    """Up to bridge_s between detections, and hold_s at the ends."""
    source = make_clip(tmp_path / "in.mp4", sound=False)
    target = tmp_path / "out.mp4"
    filling = Filling(hold_s=1.0, growth=0.4)
    result = anonymise_video(source, target, detector(misses), BOX, filling=filling, threads=1)
    assert result.frames == 60
    assert uncovered(target) == ([], 60)


def test_faint_faces_are_followed_as_well(tmp_path):
    source = make_clip(tmp_path / "in.mp4", sound=False)
    faint = detector(lambda number: 10 <= number < 50, score=0.1)
    anonymise_video(source, tmp_path / "out.mp4", faint, BOX, threads=1)
    assert uncovered(tmp_path / "out.mp4") == ([], 60)


def test_what_is_not_covered_looks_as_it_did(tmp_path):
    y, x = np.mgrid[:96, :160]
    waves = (127 + 60 * np.sin(x / 2) * np.cos(y / 3)).astype(np.uint8)[:, :, None].repeat(3, 2)
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    with av.open(str(source), "w") as film:
        pictures = film.add_stream("libx264", rate=RATE)
        pictures.height, pictures.width, pictures.pix_fmt = *SIZE, "yuv420p"
        pictures.options = {"preset": "ultrafast", "crf": "1"}
        for number in range(5):
            moved = np.roll(waves, 3 * number, axis=1)
            film.mux(pictures.encode(av.VideoFrame.from_ndarray(moved, format="rgb24")))
        film.mux(pictures.encode())
    anonymise_video(source, target, detector(), BOX, threads=1)
    with av.open(str(source)) as before, av.open(str(target)) as after:
        for old, new in zip(before.decode(video=0), after.decode(video=0), strict=True):
            images = (frame.to_ndarray(format="rgb24").astype(int) for frame in (old, new))
            assert np.abs(np.subtract(*images)).mean() < 3


def test_without_filling_the_same_frames_show_the_face(tmp_path):
    """The proof is one: what fills the gaps is `Filling`, and nothing else."""
    source = make_clip(tmp_path / "in.mp4", sound=False)
    missed = detector(lambda number: 10 <= number < 50)
    filling = Filling(hold_s=0, doubtful_hold_s=0, bridge_s=0)
    anonymise_video(source, tmp_path / "out.mp4", missed, BOX, filling=filling, threads=1)
    frames, count = uncovered(tmp_path / "out.mp4")
    assert set(range(12, 50)) <= set(frames)
    assert count == 60


def described(path):
    """What a film says about itself, and its streams."""
    with av.open(str(path)) as container:
        said = {**container.metadata}
        for stream in container.streams:
            said.update(stream.metadata)
        times = sorted(
            packet.pts * packet.time_base for packet in container.demux(video=0) if packet.size
        )
        return said, [stream.type for stream in container.streams], times


def sound_of(path):
    with av.open(str(path)) as container:
        return b"".join(bytes(packet) for packet in container.demux(audio=0) if packet.size)


def test_sound_and_times_stay_and_what_the_film_says_goes(tmp_path):
    metadata = {
        "title": "Anna's birthday",
        "location": "+52.5200+013.4050/",
        "com.apple.quicktime.location.ISO6709": "+52.5200+013.4050+034.000/",
        "com.apple.quicktime.model": "iPhone",
        "creation_time": "2024-05-01T12:00:00Z",
        "artist": "Anna",
    }
    times = [number * 40 + (number % 5) * 7 for number in range(50)]
    source = make_clip(tmp_path / "in.mp4", 50, times=times, metadata=metadata)
    target = tmp_path / "out.mp4"
    anonymise_video(source, target, detector(), BOX, threads=1)
    before, streams, old_times = described(source)
    after, new_streams, new_times = described(target)
    assert before["title"] == "Anna's birthday"
    assert set(after) <= {*("major_brand", "minor_version", "compatible_brands", "encoder")} | {
        *("language", "handler_name", "vendor_id")
    }
    assert not [word for word in (b"Anna", b"iPhone", b"52.52") if word in target.read_bytes()]
    assert new_streams == streams == ["video", "audio"]
    assert [float(t) for t in new_times] == pytest.approx([float(t) for t in old_times], abs=1e-3)
    assert sound_of(target) == sound_of(source)
    anonymise_video(source, target, detector(), BOX, sound=False, threads=1)
    assert described(target)[1] == ["video"]


def test_a_cover_picture_is_left_out(tmp_path):
    """Music and phones keep a still of the film in the file, with the face in it."""
    plain = make_clip(tmp_path / "plain.mkv", 10, sound=False)
    source = tmp_path / "in.mp4"
    with av.open(str(plain)) as old, av.open(str(source), "w") as new:
        copy = new.add_stream_from_template(old.streams.video[0])
        still = new.add_stream("png", rate=1)
        still.width, still.height, still.pix_fmt = 160, 96, "rgb24"
        still.disposition = type(still.disposition).attached_pic
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = copy
                new.mux(packet)
        frame = av.VideoFrame.from_ndarray(blob_image(SIZE, (60, 48, SIDE)), format="rgb24")
        new.mux(still.encode(frame))
        new.mux(still.encode())
    assert len(described(source)[1]) == 2
    anonymise_video(source, tmp_path / "out.mp4", detector(), BOX, threads=1)
    assert described(tmp_path / "out.mp4")[1] == ["video"]
    assert uncovered(tmp_path / "out.mp4") == ([], 10)


def test_pictures_beside_the_main_ones_are_named_as_left_out(tmp_path):
    film = make_clip(tmp_path / "film.mp4", 10, sound=False)
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    with av.open(str(film)) as old, av.open(str(source), "w") as new:
        preview = new.add_stream("mjpeg", rate=RATE, width=64, height=48)
        preview.pix_fmt = "yuvj420p"
        copy = new.add_stream_from_template(old.streams.video[0])
        frame = av.VideoFrame.from_ndarray(blob_image((48, 64), (30, 24, 20)), format="rgb24")
        new.mux(preview.encode(frame))
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = copy
                new.mux(packet)
    result = anonymise_video(source, target, detector(), BOX, threads=1)
    assert uncovered(target) == ([], 10)
    taken, left = "stream 1 (h264, 160×96)", "stream 0 (mjpeg, 64×48)"
    assert result.notes == (f"pictures but those of {taken} are left out: {left}",)


def test_a_turned_film_is_upright_and_covered(tmp_path):
    source = make_clip(tmp_path / "in.mov", 20, rotation=90, sound=False)
    anonymise_video(source, tmp_path / "out.mov", detector(), BOX, threads=1)
    with av.open(str(tmp_path / "out.mov")) as film:
        frame = next(film.decode(video=0))
        assert (frame.height, frame.width) == SIZE[::-1]
    assert uncovered(tmp_path / "out.mov") == ([], 20)


def test_a_cut_film_loses_its_end_only(tmp_path):
    whole = make_clip(tmp_path / "whole.mkv", sound=False)
    content = whole.read_bytes()
    (tmp_path / "in.mkv").write_bytes(content[: len(content) // 2])
    result = anonymise_video(tmp_path / "in.mkv", tmp_path / "o.mkv", detector(), BOX, threads=1)
    assert 1 < result.frames < 60
    assert uncovered(tmp_path / "o.mkv") == ([], result.frames)


def test_what_cannot_be_done_leaves_nothing_behind(tmp_path, monkeypatch):
    source = make_clip(tmp_path / "in.mp4", 20, sound=False)
    content = source.read_bytes()
    os.symlink(source, tmp_path / "link.mp4")
    os.link(source, tmp_path / "hard.mp4")
    for name in ("in.mp4", "link.mp4", "hard.mp4"):
        with pytest.raises(ValueError, match="is the video"):
            anonymise_video(source, tmp_path / name, detector(), BOX)
    (tmp_path / "text.mp4").write_text("no film")
    with pytest.raises(VideoError, match=r"text\.mp4"):
        anonymise_video(tmp_path / "text.mp4", tmp_path / "out.mp4", detector(), BOX)

    def breaks(image):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        anonymise_video(source, tmp_path / "out.mp4", breaks, BOX)

    def late(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(video_module, "cover", late)
        with pytest.raises(KeyboardInterrupt):
            anonymise_video(source, tmp_path / "out.mp4", detector(), BOX)
    assert source.read_bytes() == content
    assert sorted(os.listdir(tmp_path)) == ["hard.mp4", "in.mp4", "link.mp4", "text.mp4"]


def test_a_film_that_changes_between_the_passes_is_refused(tmp_path):
    source = make_clip(tmp_path / "in.mp4", 20, sound=False)
    other = make_clip(tmp_path / "other.mp4", 30, sound=False, times=[n * 50 for n in range(30)])

    def watch(title, total, frames):
        if title == "Looking":
            yield from frames
            os.replace(other, source)
        else:
            yield from frames

    with pytest.raises(VideoError, match="changed while it was read"):
        anonymise_video(source, tmp_path / "out.mp4", detector(), BOX, watch=watch)
    assert not (tmp_path / "out.mp4").exists()


def test_faces_are_counted_by_track(tmp_path):
    source = make_clip(tmp_path / "in.mp4", 30, sound=False)
    result = anonymise_video(source, tmp_path / "out.mp4", detector(), BOX, threads=1)
    assert (result.faces, result.broken, result.notes) == (1, 0, ())
