import csv
import io
import json

import numpy as np
import pytest

from faceresnet import Detections

BOXES = np.array([[10, 20, 30, 60], [-5, 0, 15, 10], [0, 0, 100, 50]], np.float32)
SCORES = np.array([0.9, 0.75, 0.5], np.float32)
SIZE = (50, 100)


@pytest.fixture
def faces():
    return Detections(BOXES, SCORES, SIZE)


@pytest.fixture
def image():
    return np.arange(50 * 100 * 3, dtype=np.uint32).reshape(50, 100, 3).astype(np.uint8)


def test_boxes_are_clipped_to_the_image(faces):
    assert faces.boxes.tolist() == [[10, 20, 30, 50], [0, 0, 15, 10], [0, 0, 100, 50]]


def test_nothing_can_be_changed(faces):
    with pytest.raises(AttributeError):
        faces.size = (1, 1)
    with pytest.raises(ValueError, match="read-only"):
        faces.boxes[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        faces.scores[0] = 0
    assert BOXES[1, 0] == -5, "the caller's own array stays as it was"


@pytest.mark.parametrize(
    ("boxes", "scores"),
    [(BOXES[:2], SCORES), (BOXES[:, :3], SCORES), (BOXES, SCORES[:, None])],
)
@pytest.mark.usefixtures("unchecked")
def test_boxes_and_scores_must_fit(boxes, scores):
    with pytest.raises(ValueError, match="one score for each"):
        Detections(boxes, scores, SIZE)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_boxes_and_scores_are_finite(value):
    boxes, scores = np.float32([(1, 2, 3, 4)]), np.float32([0.5])
    with pytest.raises(ValueError, match="must be finite"):
        Detections(boxes * np.float32(value), scores, (10, 10))
    with pytest.raises(ValueError, match="must be finite"):
        Detections(boxes, scores * np.float32(value), (10, 10))


def test_length_iteration_and_truth(faces):
    assert len(faces) == 3
    assert [score for _, score in faces] == pytest.approx([0.9, 0.75, 0.5])
    assert next(iter(faces))[0].tolist() == [10, 20, 30, 50]
    assert not Detections.empty(SIZE)


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (0, [0]),
        (-1, [2]),
        (np.int64(1), [1]),
        (slice(1, None), [1, 2]),
        ([2, 0], [2, 0]),
        ([], []),
        ((1,), [1]),
        ((2, 0), [2, 0]),
        (range(1, 3), [1, 2]),
        (np.array([True, False, True]), [0, 2]),
        (np.array([1, 1]), [1, 1]),
    ],
)
def test_indexing_gives_detections(faces, index, expected):
    part = faces[index]
    assert part == Detections(BOXES[expected], SCORES[expected], SIZE)


def test_indexing_beyond_the_end(faces):
    with pytest.raises(IndexError, match="3 detections"):
        faces[3]


def test_equality(faces):
    assert faces == Detections(BOXES, SCORES, SIZE)
    assert faces != faces[:2]
    assert faces != Detections(BOXES, SCORES, (60, 100))
    assert faces != "faces"


def test_filter(faces):
    assert faces.filter(min_score=0.75) == faces[:2]
    assert faces.filter(min_size=15) == faces[[0, 2]]
    assert faces.filter(min_score=0.8, min_size=25) == faces[[]]
    assert Detections.empty(SIZE).filter(min_size=1) == Detections.empty(SIZE)
    for wrong in ({"min_size": float("nan")}, {"min_score": -1}):
        with pytest.raises(ValueError, match="must not be negative"):
            faces.filter(**wrong)


def test_scaled_to(faces, tracked):
    half = SIZE[0] // 2, SIZE[1] * 2
    scaled = faces.scaled_to(half)
    assert scaled.size == half
    np.testing.assert_allclose(scaled.xyxyn, faces.xyxyn, rtol=1e-6)
    np.testing.assert_array_equal(scaled.boxes, faces.boxes * np.float32([2, 0.5, 2, 0.5]))
    assert scaled.scaled_to(SIZE) == faces
    assert faces.scaled_to(SIZE) is faces
    assert tracked.scaled_to(half).tracks.tolist() == [7, -1, 3]
    assert Detections.empty(SIZE).scaled_to(half) == Detections.empty(half)


def test_names_of_other_libraries(faces):
    assert faces.xyxy is faces.boxes
    assert faces.confidence is faces.conf is faces.scores
    assert faces.class_id.tolist() == [0, 0, 0]
    assert faces.xywh[0].tolist() == [20, 35, 20, 30]
    np.testing.assert_allclose(faces.xyxyn[0], [0.1, 0.4, 0.3, 1.0], rtol=1e-6)


def test_supervision(faces):
    sv = pytest.importorskip("supervision")
    theirs = faces.to_supervision()
    assert isinstance(theirs, sv.Detections)
    np.testing.assert_array_equal(theirs.xyxy, faces.boxes)
    np.testing.assert_array_equal(theirs.confidence, faces.scores)
    assert len(Detections.empty(SIZE).to_supervision()) == 0


def test_crops(faces, image):
    crops = faces.crops(image)
    assert [crop.shape for crop in crops] == [(30, 20, 3), (10, 15, 3), (50, 100, 3)]
    np.testing.assert_array_equal(crops[0], image[20:50, 10:30])
    crops[0][:] = 0
    assert image[20:50, 10:30].any(), "crops are copies"


def test_crops_with_margin_stop_at_the_border(faces, image):
    assert faces.crops(image, margin=0.5)[0].shape == (45, 40, 3)


def test_a_crop_has_at_least_a_pixel():
    tiny = Detections(
        np.array([[9.9, 9.9, 10, 10], [10, 10, 10, 10]], np.float32), SCORES[:2], SIZE
    )
    image = np.zeros((*SIZE, 3), np.uint8)
    assert all(crop.shape == (1, 1, 3) for crop in tiny.crops(image))
    corner = Detections(np.array([[100, 50, 100, 50]], np.float32), SCORES[:1], SIZE)
    assert corner.crops(image)[0].shape == (1, 1, 3)


@pytest.mark.parametrize("method", ["draw", "crops"])
def test_the_image_must_be_the_right_one(faces, method):
    with pytest.raises(ValueError, match="belong to an image"):
        getattr(faces, method)(np.zeros((100, 50, 3), np.uint8))


def test_draw_marks_the_boxes(faces, image):
    drawn = faces[:1].draw(image)
    assert drawn[20, 20].tolist() == [255, 0, 0]
    assert (drawn[35, 20] == image[35, 20]).all(), "the inside stays"


def test_json(faces):
    value = json.loads(faces.to_json("a.jpg"))
    assert value["image"] == "a.jpg"
    assert (value["width"], value["height"]) == (100, 50)
    assert value["faces"][0] == {"box": [10, 20, 30, 50], "score": 0.9}
    assert "image" not in json.loads(faces.to_json())


def test_csv(faces):
    rows = list(csv.reader(io.StringIO(faces.to_csv('odd "name", really.jpg'))))
    assert rows[0] == ["image", "x1", "y1", "x2", "y2", "score"]
    assert rows[1] == ['odd "name", really.jpg', "10.00", "20.00", "30.00", "50.00", "0.9000"]
    assert faces.to_csv(header=False).count("\n") == 3


@pytest.mark.parametrize("name", ["a\rb.jpg", "a\nb.jpg", "a\r\nb.jpg\r\n", "a,b.jpg"])
def test_a_name_with_line_breaks_is_one_field_of_csv(faces, name):
    rows = list(csv.reader(io.StringIO(faces.to_csv(name), newline="")))
    assert [row[0] for row in rows] == ["image", name, name, name]


def test_coco(faces):
    annotations = faces.to_coco(7, first_id=4)
    assert [annotation["id"] for annotation in annotations] == [4, 5, 6]
    assert annotations[0] == {
        "id": 4,
        "image_id": 7,
        "category_id": 1,
        "bbox": [10, 20, 20, 30],
        "area": 600,
        "iscrowd": 0,
        "score": 0.9,
    }
    json.dumps(annotations)


def test_yolo(faces):
    assert faces.to_yolo().splitlines()[0] == "0 0.200000 0.700000 0.200000 0.600000 0.9000"


def test_wider(faces):
    lines = faces.to_wider("0_Parade_1").splitlines()
    assert lines[:3] == ["0_Parade_1", "3", "10.00 20.00 20.00 30.00 0.900000"]
    assert Detections.empty(SIZE).to_wider("x") == "x\n0\n"


@pytest.fixture
def tracked():
    return Detections(BOXES, SCORES, SIZE, np.array([7, -1, 3]))


def test_tracks_follow_their_faces(tracked, faces):
    assert faces.tracks is None
    assert tracked[[2, 0]].tracks.tolist() == [3, 7]
    assert tracked.filter(min_score=0.75).tracks.tolist() == [7, -1]
    assert tracked[[]].tracks.tolist() == []
    assert faces[1:].tracks is None
    with pytest.raises(ValueError, match="read-only"):
        tracked.tracks[0] = 1


def test_tracks_count_in_equality(tracked, faces):
    assert tracked == Detections(BOXES, SCORES, SIZE, np.array([7, -1, 3]))
    assert tracked != faces
    assert tracked != Detections(BOXES, SCORES, SIZE, np.array([7, -1, 4]))


@pytest.mark.usefixtures("unchecked")
def test_each_face_needs_a_track():
    with pytest.raises(ValueError, match="one track for each of 3 boxes"):
        Detections(BOXES, SCORES, SIZE, np.array([7, 8]))


def test_tracks_in_json_and_csv(tracked, faces):
    assert [face["track"] for face in json.loads(tracked.to_json())["faces"]] == [7, None, 3]
    rows = list(csv.reader(io.StringIO(tracked.to_csv("a"))))
    assert rows[0][-1] == "track"
    assert [row[-1] for row in rows[1:]] == ["7", "", "3"]
    assert "track" not in faces.to_json() + faces.to_csv()


def test_tracks_in_supervision(tracked, faces):
    pytest.importorskip("supervision")
    assert tracked.to_supervision().tracker_id.tolist() == [7, -1, 3]
    assert faces.to_supervision().tracker_id is None


def test_supervision_and_back(tracked, faces):
    sv = pytest.importorskip("supervision")
    for ours in (tracked, faces, Detections.empty(SIZE)):
        assert Detections.from_supervision(ours.to_supervision(), SIZE) == ours
    bare = Detections.from_supervision(sv.Detections(xyxy=BOXES), SIZE)
    assert bare.scores.tolist() == [1, 1, 1]
    assert bare.tracks is None
    assert Detections.from_supervision(sv.Detections.empty(), SIZE) == Detections.empty(SIZE)
    kept = tracked.to_supervision()
    part = Detections.from_supervision(kept[kept.confidence > 0.6], SIZE)
    assert part == tracked.filter(min_score=0.6)
