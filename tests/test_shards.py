from __future__ import annotations

import zipfile
from itertools import pairwise

import numpy as np
import pytest

from conftest import blob_image
from faceresnet import images
from faceresnet.errors import DataError, ImageError
from faceresnet.evaluation import evaluate
from faceresnet.protocols import predict
from faceresnet.shards import CHUNK, pack
from faceresnet.widerface import Photo, read_split

FACES = np.array([(10.5, 20.25, 40, 60), (100, 8, 110.125, 20), (30, 30, 31, 33)], np.float32)
IGNORE = np.array([False, True, False])


def photo(seed, size=(96, 160)):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (size[0] // 16, size[1] // 16, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((16, 16, 1), np.uint8))


def write(root, split, photos):
    lines = []
    for name, (pixels, faces, ignore) in photos.items():
        images.write(pixels, root / f"WIDER_{split}" / "images" / name)
        lines += [name, str(len(faces))]
        for (x1, y1, x2, y2), ignored in zip(faces.tolist(), ignore.tolist(), strict=True):
            lines.append(f"{x1} {y1} {x2 - x1} {y2 - y1} 0 0 0 {int(ignored)} 0 0")
    labels = root / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt"
    labels.parent.mkdir(parents=True, exist_ok=True)
    labels.write_text("\n".join(lines) + "\n")
    return read_split(root, split)


@pytest.fixture
def splits(tmp_path):
    nothing = (np.zeros((0, 4), np.float32), np.zeros(0, bool))
    train = {
        "a/one.png": (photo(0), FACES, IGNORE),
        "a/two.v2.jpg": (photo(1, (48, 80)), FACES / 4, IGNORE),
        "b/none.png": (photo(2), *nothing),
    }
    val = {"b/three.bmp": (photo(3, (320, 240)), FACES, IGNORE)}
    root = tmp_path / "data"
    return {"train": write(root, "train", train), "val": write(root, "val", val)}


def test_photos_are_stored_as_they_are(splits, tmp_path):
    file = tmp_path / "deep" / "shard.zip"
    size = pack(splits, file)
    assert size == file.stat().st_size
    for split, photos in splits.items():
        packed = read_split(file, split)
        assert [p.name for p in packed] == [p.name for p in photos]
        for ours, original in zip(packed, photos, strict=True):
            assert ours.read_bytes() == original.read_bytes()
            assert ours.event == original.event
            assert np.allclose(ours.faces, original.faces, atol=1e-3)
            assert ours.faces.shape == original.faces.shape
            assert ours.ignore.tolist() == original.ignore.tolist()
            assert np.array_equal(ours.read(), original.read())


def test_large_photos_are_reduced_and_their_faces_with_them(splits, tmp_path):
    file = tmp_path / "shard.zip"
    pack(splits, file, max_side=80)
    packed = {p.name: p for split in splits for p in read_split(file, split)}
    assert list(packed) == ["a/one.webp", "a/two.v2.jpg", "b/none.webp", "b/three.webp"]
    assert packed["a/one.webp"].read().shape == (48, 80, 3)
    assert np.allclose(packed["a/one.webp"].faces, FACES / 2, atol=1e-3)
    assert packed["a/one.webp"].ignore.tolist() == IGNORE.tolist()
    assert packed["b/three.webp"].read().shape == (80, 60, 3)
    assert np.allclose(packed["b/three.webp"].faces, FACES / 4, atol=1e-3)
    assert packed["a/two.v2.jpg"].read_bytes() == splits["train"][1].read_bytes()
    half = images.resize(photo(0), (48, 80)).astype(float)
    assert np.abs(packed["a/one.webp"].read() - half).mean() < 15


def test_faces_follow_when_sides_round(tmp_path):
    wide = {
        "x/wide.png": (
            np.zeros((8, 1000, 3), np.uint8),
            np.array([(500, 0, 1000, 8)], np.float32),
            IGNORE[:1],
        )
    }
    file = tmp_path / "shard.zip"
    pack({"val": write(tmp_path / "data", "val", wide)}, file, max_side=100)
    (packed,) = read_split(file, "val")
    assert packed.read().shape == (1, 100, 3)
    assert packed.faces.tolist() == [[50, 0, 100, 1]]


def test_no_photo_is_packed_larger_than_webp_can_be(tmp_path):
    wide = {"x/wide.png": (np.zeros((2, 20_000, 3), np.uint8), FACES[:0], IGNORE[:0])}
    file = tmp_path / "shard.zip"
    pack({"val": write(tmp_path / "data", "val", wide)}, file, max_side=17_000)
    (packed,) = read_split(file, "val")
    assert packed.read().shape == (2, 16_383, 3)


def test_unless_told_reduced_photos_have_quality_90(splits, tmp_path):
    stored = []
    for quality in (None, 90):
        file = tmp_path / f"{quality}.zip"
        pack(splits, file, max_side=80, quality=quality)
        stored.append(read_split(file, "train")[0].read_bytes())
    assert stored[0] == stored[1]


def test_a_photo_of_the_largest_side_stays_as_it_is(splits, tmp_path):
    pack(splits, tmp_path / "shard.zip", max_side=160)
    first = read_split(tmp_path / "shard.zip", "train")[0]
    assert first.read_bytes() == splits["train"][0].read_bytes()


def test_a_photo_larger_than_webp_can_be_is_not_encoded_in_its_own_size(tmp_path):
    wide = {"x/wide.png": (np.zeros((2, 20_000, 3), np.uint8), FACES[:0], IGNORE[:0])}
    (original,) = write(tmp_path / "data", "val", wide)
    pack({"val": [original]}, tmp_path / "shard.zip", quality=50)
    (packed,) = read_split(tmp_path / "shard.zip", "val")
    assert packed.read_bytes() == original.read_bytes()


def test_a_quality_encodes_all_photos(splits, tmp_path):
    errors, sizes = [], []
    for quality in (5, 95):
        file = tmp_path / f"{quality}.zip"
        sizes.append(pack(splits, file, quality=quality))
        packed = read_split(file, "train")
        assert [p.name for p in packed] == ["a/one.webp", "a/two.v2.webp", "b/none.webp"]
        assert all(p.read_bytes()[8:12] == b"WEBP" for p in packed)
        assert np.allclose(packed[0].faces, FACES, atol=1e-3)
        errors.append(np.abs(packed[0].read().astype(float) - photo(0)).mean())
    assert errors[1] < 0.7 * errors[0] < 30
    assert sizes[1] > 1.5 * sizes[0]


def test_photos_that_differ_in_their_suffix_only_keep_apart(tmp_path):
    faces = (FACES, IGNORE)
    photos = {
        f"a/one.{suffix}": (photo(seed), *faces)
        for seed, suffix in enumerate(["png", "bmp", "webp", "jpg"])
    }
    file = tmp_path / "shard.zip"
    pack({"train": write(tmp_path / "data", "train", photos)}, file, quality=95)
    packed = read_split(file, "train")
    assert [p.name for p in packed] == [
        "a/one.png.webp",
        "a/one.bmp.webp",
        "a/one.webp",
        "a/one.jpg.webp",
    ]
    for seed, ours in enumerate(packed):
        errors = [np.abs(ours.read().astype(float) - photo(other)).mean() for other in range(4)]
        assert int(np.argmin(errors)) == seed


def test_of_two_new_names_that_are_the_same_one_gives_way(tmp_path):
    photos = {f"a/one.{suffix}": (photo(0), FACES, IGNORE) for suffix in ("png", "bmp")}
    pack({"train": write(tmp_path / "data", "train", photos)}, tmp_path / "x.zip", quality=95)
    names = [p.name for p in read_split(tmp_path / "x.zip", "train")]
    assert names == ["a/one.webp", "a/one.bmp.webp"]


def test_more_photos_than_a_chunk_keep_their_order(tmp_path):
    pixels = np.zeros((8, 8, 3), np.uint8)
    photos = {
        f"a/{i}.png": (pixels, np.array([(0, 0, 1 + i % 7, 8)], np.float32), IGNORE[:1])
        for i in range(CHUNK + 5)
    }
    originals = write(tmp_path / "data", "train", photos)
    seen = []

    def progress(items):
        for item in items:
            seen.append(item.name)
            yield item

    calls = []

    def wrap(items):
        calls.append(items)
        return progress(items)

    pack({"train": originals, "val": originals[:2]}, tmp_path / "shard.zip", progress=wrap)
    packed = read_split(tmp_path / "shard.zip", "train")
    assert [p.name for p in packed] == list(photos)
    assert [p.faces[0, 2] for p in packed] == [1 + i % 7 for i in range(CHUNK + 5)]
    assert len(read_split(tmp_path / "shard.zip", "val")) == 2
    # One iterator over everything, so that one bar runs once from end to end.
    assert len(calls) == 1
    assert len(seen) == CHUNK + 7


@pytest.mark.parametrize("options", [{}, {"max_side": 40}])
def test_an_error_leaves_nothing(splits, tmp_path, options):
    file = tmp_path / "out" / "shard.zip"
    splits["train"][2].path.unlink()
    with pytest.raises(DataError, match=r"the photo b/none\.png is listed but cannot be read"):
        pack(splits, file, **options)
    assert list(file.parent.iterdir()) == []


def test_an_error_leaves_the_shard_that_was_there(splits, tmp_path):
    file = tmp_path / "shard.zip"
    pack(splits, file)
    before = file.read_bytes()
    splits["val"][0].path.write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"the photo b/three\.bmp in .* is broken"):
        pack(splits, file, quality=50)
    assert file.read_bytes() == before


def test_a_place_that_cannot_be_written_is_an_error(splits, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write the shard"):
        pack(splits, tmp_path / "file" / "shard.zip")


def test_a_shard_is_evaluated_like_a_folder(tmp_path, blob_detector):
    squares = [(60.0, 52.0, 16), (176.0, 80.0, 40)]
    boxes = np.array(
        [(x - s / 2, y - s / 2, x + s / 2, y + s / 2) for x, y, s in squares], np.float32
    )
    photos = {"e/a.png": (blob_image((160, 256), *squares), boxes, np.zeros(2, bool))}
    originals = write(tmp_path / "data", "val", photos)
    pack({"val": originals}, tmp_path / "shard.zip", quality=95)
    packed = read_split(tmp_path / "shard.zip", "val")
    reports = [
        evaluate(predict(blob_detector, photos, protocol="original"), photos, protocol="original")
        for photos in (originals, packed)
    ]
    assert reports[0].ap == pytest.approx(reports[1].ap, abs=1e-9)
    assert reports[0].ap > 0.9


def test_faces_keep_a_thousandth_of_a_pixel_far_to_the_right(tmp_path):
    faces = np.array([(123_456.78, 10, 123_470.25, 20)], np.float32)
    originals = write(tmp_path / "data", "val", {"a/x.png": (photo(0), faces, IGNORE[:1])})
    pack({"val": originals}, tmp_path / "shard.zip")
    (packed,) = read_split(tmp_path / "shard.zip", "val")
    assert np.abs(packed.faces - faces).max() < 0.02  # a float32 of this size


def test_labels_are_compressed_and_photos_are_not(splits, tmp_path):
    pack(splits, tmp_path / "shard.zip")
    with zipfile.ZipFile(tmp_path / "shard.zip") as archive:
        kinds = {info.filename: info.compress_type for info in archive.infolist()}
    assert {kinds[name] for name in kinds if "images" in name} == {zipfile.ZIP_STORED}
    assert {kinds[name] for name in kinds if "split" in name} == {zipfile.ZIP_DEFLATED}
    assert all(a != b for a, b in pairwise(sorted(kinds)))


def test_a_new_name_is_nobody_elses(tmp_path):
    names = ["a/one", "a/one.webp", "a/two.png", "a/two.webp", "a/two.png.webp"]
    images.write(photo(0), tmp_path / "photo.png")
    photos = [Photo(name, FACES, IGNORE, tmp_path / "photo.png") for name in names]
    pack({"train": photos}, tmp_path / "shard.zip", quality=50)
    assert [p.name for p in read_split(tmp_path / "shard.zip", "train")] == [
        "a/one.webp.webp",
        "a/one.webp",
        "a/two.png.webp.webp",
        "a/two.webp",
        "a/two.png.webp",
    ]


def test_a_shard_that_is_packed_anew_is_read_anew(tmp_path):
    file = tmp_path / "shard.zip"
    for grey in (10, 200):
        image = np.full((8, 8, 3), grey, np.uint8)
        source = write(tmp_path / str(grey), "val", {"x/a.png": (image, FACES[:0], IGNORE[:0])})
        pack({"val": source}, file)
        (photo,) = read_split(file, "val")
        assert photo.read().mean() == grey


def test_no_shard_takes_the_place_of_its_photos(splits, tmp_path):
    file = tmp_path / "shard.zip"
    pack(splits, file)
    before = file.read_bytes()
    again = {split: read_split(file, split) for split in splits}
    with pytest.raises(ValueError, match=r"shard\.zip is part of the data set"):
        pack(again, file, max_side=32)
    assert file.read_bytes() == before
