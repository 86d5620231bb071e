import numpy as np
import pytest

from faceresnet import Detections, images
from faceresnet.errors import DataError
from faceresnet.relabel import Doubt, relabel, write_relabelled
from faceresnet.shards import pack
from faceresnet.widerface import Photo, format_labels, read_split

FACE, HEAD = (10, 10, 30, 34), (50, 10, 90, 60)
IN_HEAD, ELSEWHERE = (55, 20, 80, 50), (110, 40, 130, 64)


def photo(tmp_path, event="crowd"):
    return Photo(
        f"{event}/one.png",
        np.array([FACE, HEAD], np.float32),
        np.array([False, True]),
        tmp_path / "one.png",
    )


def found(*scored):
    boxes = np.array([box for box, _ in scored], np.float32).reshape(-1, 4)
    return Detections(boxes, np.array([score for _, score in scored], np.float32), (80, 160))


def labels(one):
    return [
        (tuple(box), bool(ignored))
        for box, ignored in zip(one.faces.tolist(), one.ignore, strict=True)
    ]


KEPT = [(FACE, False), (HEAD, True)]


@pytest.mark.parametrize(
    ("detection", "added"),
    [
        ((FACE, 0.9), []),
        (((12, 12, 31, 34), 0.9), []),
        ((IN_HEAD, 0.9), [(IN_HEAD, False)]),
        ((IN_HEAD, 0.4), []),
        ((ELSEWHERE, 0.9), [(ELSEWHERE, True)]),
        ((ELSEWHERE, 0.2), []),
        (((19, 10, 39, 34), 0.9), []),  # IoU with the face 0.38
        (((21, 10, 41, 34), 0.9), [((21, 10, 41, 34), True)]),  # 0.29
        (((77, 20, 97, 50), 0.9), [((77, 20, 97, 50), False)]),  # 0.65 of it in the head
        (((79, 20, 99, 50), 0.9), [((79, 20, 99, 50), True)]),  # 0.55
    ],
)
def test_what_a_detection_changes(tmp_path, detection, added):
    again = relabel(photo(tmp_path), found(detection), Doubt(teach=0.5, ignore=0.3))
    assert labels(again) == KEPT + added


def test_nothing_found_changes_nothing(tmp_path):
    assert labels(relabel(photo(tmp_path), found(), Doubt())) == KEPT


def test_unless_told_half_a_score_teaches_and_three_tenths_raise_doubt(tmp_path):
    scored = found((IN_HEAD, 0.45), (ELSEWHERE, 0.25))
    assert labels(relabel(photo(tmp_path), scored, Doubt())) == KEPT
    scored = found((IN_HEAD, 0.55), (ELSEWHERE, 0.35))
    assert labels(relabel(photo(tmp_path), scored, Doubt())) == [
        *(*KEPT, (IN_HEAD, False), (ELSEWHERE, True))
    ]


def test_a_complete_list_gets_no_ignored_boxes_but_faces_in_its_heads(tmp_path):
    doubt = Doubt(complete=frozenset(["heads"]))
    both = found((IN_HEAD, 0.9), (ELSEWHERE, 0.9))
    assert labels(relabel(photo(tmp_path, "heads"), both, doubt)) == [*KEPT, (IN_HEAD, False)]
    assert len(relabel(photo(tmp_path, "other"), both, doubt).faces) == 4


@pytest.mark.parametrize("field", ["teach", "ignore"])
@pytest.mark.parametrize("score", [0, 1.1])
def test_scores_lie_between_0_and_1(field, score):
    with pytest.raises(ValueError, match=field):
        Doubt(**{field: score})


@pytest.fixture
def data(tmp_path):
    root = tmp_path / "data"
    for split in ("train", "val"):
        images.write(np.zeros((80, 160, 3), np.uint8), root / f"WIDER_{split}/images/crowd/one.png")
        lists = root / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt"
        lists.parent.mkdir(exist_ok=True)
        lists.write_text(format_labels([photo(tmp_path)]))
    return root


def test_the_new_data_set_has_the_same_photos_and_new_lists(data, tmp_path):
    out = tmp_path / "deep" / "again"

    def relabelled(split):
        for one in read_split(data, split):
            yield relabel(one, found((IN_HEAD, 0.9), (ELSEWHERE, 0.9)), Doubt())

    for _ in range(2):  # the second time over the first
        counts = write_relabelled(data, out, ["train"], relabelled)
        assert counts == {"train": (2, 2)}
    (again,) = read_split(out, "train")
    assert labels(again) == [*KEPT, (IN_HEAD, False), (ELSEWHERE, True)]
    assert np.array_equal(again.read(), read_split(data, "train")[0].read())
    assert labels(read_split(data, "train")[0]) == KEPT


def test_a_shard_is_refused(data, tmp_path):
    shard = tmp_path / "data.zip"
    pack({"train": read_split(data, "train")}, shard)
    with pytest.raises(DataError, match=r"data\.zip is a shard"):
        write_relabelled(shard, tmp_path / "out", ["train"], lambda split: [])


def test_photos_of_another_data_set_are_refused_before_anything_is_written(data, tmp_path):
    def looked(split):
        pytest.fail("the photos were looked at")

    out, other = tmp_path / "again", tmp_path / "other"
    write_relabelled(data, out, ["train"], lambda split: read_split(data, split))
    before = (out / "wider_face_split/wider_face_train_bbx_gt.txt").read_bytes()
    data.rename(other)
    images.write(np.zeros((8, 8, 3), np.uint8), data / "WIDER_train/images/crowd/one.png")
    for split in ("train", "val"):
        images.write(np.zeros((8, 8, 3), np.uint8), data / f"WIDER_{split}/images/crowd/two.png")
    (out / "WIDER_train").unlink()
    (out / "WIDER_val").symlink_to(other / "WIDER_val")
    with pytest.raises(DataError, match="WIDER_val holds photos of another data set: name another"):
        write_relabelled(data, out, ["train", "val"], looked)
    assert not (out / "WIDER_train").exists()
    assert (out / "wider_face_split/wider_face_train_bbx_gt.txt").read_bytes() == before


def test_a_link_to_the_old_list_is_refused(data, tmp_path):
    out = tmp_path / "again"
    out.mkdir()
    (out / "wider_face_split").symlink_to(data / "wider_face_split")
    with pytest.raises(DataError, match="is the list as annotated: name another --out"):
        write_relabelled(data, out, ["train"], lambda _: pytest.fail("looked"))


def test_a_place_that_cannot_be_written_is_refused_before_the_photos_are_looked_at(data, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write the data set"):
        write_relabelled(data, tmp_path / "file/out", ["train"], lambda _: pytest.fail("looked"))
