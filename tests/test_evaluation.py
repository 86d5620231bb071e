from __future__ import annotations

import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faceresnet.evaluation import (
    SCORES,
    Report,
    average_precision,
    evaluate,
)
from faceresnet.matching import legacy_iou
from faceresnet.widerface import Photo, Predictions, read_results, write_results


def official(
    predictions: Predictions, photos: list[Photo], keeps: list[np.ndarray]
) -> tuple[float, list[float], list[float]]:
    """The MATLAB tools (read_pred, norm_score, evaluation, VOCap), step by step, in scalars.

    Two departures where MATLAB's behaviour is no use: equal scores (0/0 there) become 1, and the
    NaN precision of thresholds without detections, which MATLAB's max skips, is 0.
    """
    tables = {}
    for photo in photos:
        boxes, scores = predictions.get(photo.name, (np.zeros((0, 4)), np.zeros(0)))
        rows = [
            (
                float(b[0]),
                float(b[1]),
                float(b[2]) - float(b[0]),
                float(b[3]) - float(b[1]),
                float(s),
            )
            for b, s in zip(boxes, scores, strict=True)
        ]
        tables[photo.name] = sorted(rows, key=lambda row: -row[4])
    every = [row[4] for rows in tables.values() for row in rows]
    low, high = min(every, default=0.0), max(every, default=0.0)
    curve = [[0, 0] for _ in range(1000)]
    count_face = 0
    for photo, keep in zip(photos, keeps, strict=True):
        count_face += sum(map(bool, keep))
        rows = tables[photo.name]
        if not rows or not len(photo.faces):
            continue
        recall_list = [0] * len(photo.faces)
        proposal_list = [1] * len(rows)
        pred_recall = [0] * len(rows)
        norm = [(row[4] - low) / (high - low) if high > low else 1.0 for row in rows]
        for h, (x, y, w, h_, _) in enumerate(rows):
            best, index = -1.0, -1
            for k, (gx1, gy1, gx2, gy2) in enumerate(photo.faces.astype(float).tolist()):
                iw = min(x + w, gx2) - max(x, gx1) + 1
                ih = min(y + h_, gy2) - max(y, gy1) + 1
                overlap = 0.0
                if iw > 0 and ih > 0:
                    union = (w + 1) * (h_ + 1) + (gx2 - gx1 + 1) * (gy2 - gy1 + 1) - iw * ih
                    overlap = iw * ih / union
                if overlap > best:
                    best, index = overlap, k
            if best >= 0.5:
                if not keep[index]:
                    recall_list[index] = -1
                    proposal_list[h] = -1
                elif recall_list[index] == 0:
                    recall_list[index] = 1
            pred_recall[h] = sum(value == 1 for value in recall_list)
        for t in range(1, 1001):
            reached = [i for i, score in enumerate(norm) if score >= 1 - t / 1000]
            if reached:
                curve[t - 1][0] += sum(value == 1 for value in proposal_list[: reached[-1] + 1])
                curve[t - 1][1] += pred_recall[reached[-1]]
    precision = [right / shown if shown else 0.0 for shown, right in curve]
    recall = [right / count_face if count_face else 0.0 for _, right in curve]
    mrec, mpre = [0.0, *recall, 1.0], [0.0, *precision, 0.0]
    for i in range(len(mpre) - 2, -1, -1):
        mpre[i] = max(mpre[i], mpre[i + 1])
    ap = sum(
        (mrec[i] - mrec[i - 1]) * mpre[i] for i in range(1, len(mrec)) if mrec[i] != mrec[i - 1]
    )
    return (ap if count_face else math.nan), recall, precision


def photo(name: str, faces: list, ignore: list | None = None) -> Photo:
    box = np.array(faces, np.float32).reshape(-1, 4)
    flags = np.array(ignore, bool) if ignore is not None else np.zeros(len(box), bool)
    return Photo(name, box, flags, Path("nowhere"))


def found(*rows: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    table = np.array(rows, np.float32).reshape(-1, 5)
    return table[:, :4], table[:, 4]


@st.composite
def sets(draw: st.DrawFn) -> tuple[Predictions, list[Photo]]:
    """Photos with faces, and detections made of faces, shifted faces and noise; ties are common."""
    scores = st.sampled_from([0.01, 0.1, 0.25, 0.5, 0.5009, 0.75, 0.9, 1.0]) | st.floats(0, 1)
    corner, side = st.integers(-5, 40), st.integers(0, 30)
    box = st.tuples(corner, corner, side, side).map(
        lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
    )
    photos, predictions = [], {}
    for index in range(draw(st.integers(1, 4))):
        faces = draw(st.lists(box, max_size=6))
        ignore = draw(st.lists(st.booleans(), min_size=len(faces), max_size=len(faces)))
        name = f"event{index % 2}/{index}.jpg"
        photos.append(photo(name, faces, ignore))
        near = st.sampled_from(faces) if faces else box
        shift = st.sampled_from([0, 0, 1, -1, 2, 0.5, -3.25])
        shifted = st.builds(
            lambda b, dx, dy, dw: (b[0] + dx, b[1] + dy, b[2] + dx + dw, b[3] + dy),
            near, shift, shift, shift,
        )  # fmt: skip
        rows = draw(st.lists(st.tuples(shifted | box, scores), max_size=12))
        if rows or draw(st.booleans()):
            predictions[name] = found(*((*b, s) for b, s in rows))
    return predictions, photos


@settings(max_examples=150, deadline=None)
@given(sets())
def test_agrees_with_the_official_tools(drawn: tuple[Predictions, list[Photo]]) -> None:
    predictions, photos = drawn
    report = evaluate(predictions, photos, protocol="drawn")
    ap, recall, precision = official(predictions, photos, [~p.ignore for p in photos])
    curve = report.curves["all"]
    np.testing.assert_allclose(curve.ap, ap, atol=1e-12)
    np.testing.assert_allclose(curve.recall, recall, atol=1e-12)
    np.testing.assert_allclose(curve.precision, precision, atol=1e-12)
    if all(len(p.faces) for p in photos):
        assert curve.precision_everywhere.tobytes() == curve.precision.tobytes()


@settings(max_examples=50, deadline=None)
@given(sets(), st.randoms())
def test_difficulties_and_events_agree_too(
    drawn: tuple[Predictions, list[Photo]], random: object
) -> None:
    predictions, photos = drawn
    easy = [np.array([random.random() < 0.5 for _ in p.faces], bool) for p in photos]
    hard = [mask | ~p.ignore for mask, p in zip(easy, photos, strict=True)]
    report = evaluate(predictions, photos, protocol="x", subsets={"easy": easy, "hard": hard})
    for name, keeps in (("easy", easy), ("hard", hard)):
        ap, _, _ = official(predictions, photos, keeps)
        np.testing.assert_allclose(report.curves[name].ap, ap, atol=1e-12)
    assert report.ap == report.curves["hard"].ap or math.isnan(report.ap)
    for event, curve in report.events.items():
        rows = [i for i, p in enumerate(photos) if p.event == event]
        ap, _, _ = official(predictions, [photos[i] for i in rows], [hard[i] for i in rows])
        np.testing.assert_allclose(curve.ap, ap, atol=1e-12)


@settings(max_examples=100, deadline=None)
@given(sets())
def test_the_parts_add_up(drawn: tuple[Predictions, list[Photo]]) -> None:
    predictions, photos = drawn
    report = evaluate(predictions, photos, protocol="drawn", threshold=0.5)
    faces = report.curves["all"].faces
    assert sum(size.faces for size in report.sizes) == faces
    assert sum(curve.faces for curve in report.events.values()) == faces
    missed = sum(int(errors.missed.sum()) for errors in report.photos)
    by_size = sum(size.recall * size.faces for size in report.sizes if size.faces)
    np.testing.assert_allclose(by_size, faces - missed)
    for errors in report.photos:
        assert not (errors.missed & errors.ignore).any()
        assert (errors.scores >= 0.5).all()
        assert (np.diff(errors.scores) <= 0).all()


FACE = (10.0, 10.0, 50.0, 50.0)


def test_perfect_and_empty() -> None:
    photos = [photo("x/a.jpg", [FACE, (60, 10, 90, 50)]), photo("x/b.jpg", [FACE])]
    perfect = {
        "x/a.jpg": found((*FACE, 0.9), (60, 10, 90, 50, 0.3)),
        "x/b.jpg": found((*FACE, 0.6)),
    }
    report = evaluate(perfect, photos, protocol="original", threshold=0.5)
    assert report.ap == 1
    assert [errors.missed.tolist() for errors in report.photos] == [[False, True], [False]]
    nothing = evaluate({}, photos, protocol="original")
    assert nothing.ap == 0
    assert nothing.unanswered == ("x/a.jpg", "x/b.jpg")
    assert [errors.cost for errors in nothing.photos] == [2, 1]


def test_equal_scores_are_no_division_by_zero() -> None:
    report = evaluate(
        {"x/a.jpg": found((*FACE, 0.7), (100, 100, 120, 120, 0.7))},
        [photo("x/a.jpg", [FACE])],
        protocol="original",
    )
    assert report.ap == 0.5


def test_the_first_detection_of_a_face_is_right_and_the_next_wrong() -> None:
    report = evaluate(
        {"x/a.jpg": found((*FACE, 0.8), (11, 10, 51, 50, 0.9), (200, 200, 210, 210, 0.2))},
        [photo("x/a.jpg", [FACE])],
        protocol="original",
        threshold=0.5,
    )
    errors = report.photos[0]
    assert errors.boxes[0].tolist() == [11, 10, 51, 50]
    assert errors.wrong.tolist() == [False, True]
    assert errors.cost == 1


def test_of_many_equal_scores_the_first_comes_first() -> None:
    rng = np.random.default_rng(0)
    boxes = rng.uniform(0, 900, (500, 4)).astype(np.float32)
    scores = rng.choice(np.array([0.6, 0.7, 0.8], np.float32), 500)
    report = evaluate({"x/a.jpg": (boxes, scores)}, [photo("x/a.jpg", [FACE])], protocol="x")
    expected = [box for score in (0.8, 0.7, 0.6) for box in boxes[np.isclose(scores, score)]]
    np.testing.assert_array_equal(report.photos[0].boxes, expected)


def test_hardly_less_than_half_is_not_enough() -> None:
    nearly = np.array([[0, 0, 9, 3.999_999_999]]), np.array([0.9])  # 4 as a float32
    assert evaluate({"x/a.jpg": nearly}, [photo("x/a.jpg", [(0, 0, 9, 9)])], protocol="x").ap == 0


def test_an_ignored_face_is_neither_missed_nor_wrong() -> None:
    faces = [FACE, (100, 10, 140, 50)]
    report = evaluate(
        {"x/a.jpg": found((*FACE, 0.8), (100, 10, 140, 50, 0.9), (101, 10, 141, 50, 0.85))},
        [photo("x/a.jpg", faces, [False, True])],
        protocol="original",
        threshold=0.1,
    )
    assert report.ap == 1
    assert report.curves["all"].faces == 1
    assert report.photos[0].cost == 0


def test_a_photo_without_faces_does_not_lower_the_official_figure_but_is_named() -> None:
    photos = [photo("x/a.jpg", [FACE]), photo("x/none.jpg", [])]
    report = evaluate(
        {"x/a.jpg": found((*FACE, 0.8)), "x/none.jpg": found((*FACE, 0.9))},
        photos,
        protocol="original",
    )
    assert report.ap == 1
    assert report.photos[1].cost == 1


def test_sizes() -> None:
    small, large = (0, 0, 7, 7), (100, 100, 400, 400)
    report = evaluate(
        {"x/a.jpg": found((*large, 0.9), (500, 500, 507, 507, 0.95), (700, 0, 1000, 300, 0.2))},
        [photo("x/a.jpg", [small, large])],
        protocol="original",
        threshold=0.5,
    )
    rows = {size.low: size for size in report.sizes}
    assert (rows[0].faces, rows[0].ap, rows[0].recall) == (1, 0, 0)
    assert (rows[256].faces, rows[256].ap, rows[256].recall) == (1, 1, 1)
    assert rows[16].faces == 0
    assert math.isnan(rows[16].ap)


def test_a_false_box_counts_against_the_faces_of_its_size_if_there_are_any_in_its_photo() -> None:
    large = (100, 100, 400, 400)
    predictions = {
        "x/a.jpg": found((*large, 0.5), (700, 0, 1000, 300, 0.9), (500, 500, 507, 507, 0.95)),
        "x/none.jpg": found((0, 0, 300, 300, 0.99)),
    }
    photos = [photo("x/a.jpg", [large]), photo("x/none.jpg", [])]
    rows = evaluate(predictions, photos, protocol="original").sizes
    assert [row.ap for row in rows if row.faces] == [0.5]


def test_each_size_begins_where_the_one_before_ends() -> None:
    faces = [(0, 0, side, side) for side in (7, 8, 15, 16, 31, 32, 63, 64, 127, 128, 255, 256, 999)]
    rows = evaluate({}, [photo("x/a.jpg", faces)], protocol="original").sizes
    assert [(row.low, row.high) for row in rows] == [
        *((0, 8), (8, 16), (16, 32), (32, 64), (64, 128), (128, 256), (256, math.inf))
    ]
    assert [row.faces for row in rows] == [1, 2, 2, 2, 2, 2, 2]


def test_a_false_box_is_of_the_size_that_begins_with_its_own() -> None:
    face8, face7, away = (0, 0, 8, 8), (40, 0, 47, 7), (200, 200, 208, 208)
    predictions = {"x/a.jpg": found((*face8, 0.5), (*face7, 0.5), (*away, 0.9))}
    rows = evaluate(predictions, [photo("x/a.jpg", [face8, face7])], protocol="x").sizes
    assert [row.ap for row in rows[:2]] == [1, 0.5]


def test_the_threshold_itself_is_reported_by_size_and_by_photo() -> None:
    predictions = {"x/a.jpg": found((*FACE, 0.5))}
    report = evaluate(predictions, [photo("x/a.jpg", [FACE])], protocol="x", threshold=0.5)
    assert [row.recall for row in report.sizes if row.faces] == [1]
    assert report.photos[0].missed.tolist() == [False]


def test_sizes_and_photos_are_of_the_set_with_all_faces() -> None:
    easy, hard = [np.array([True, False])], [np.array([True, True])]
    report = evaluate(
        {},
        [photo("x/a.jpg", [FACE, (60, 10, 90, 50)])],
        protocol="original",
        subsets={"easy": easy, "hard": hard},
    )
    assert report.whole.name == "hard"
    assert sum(row.faces for row in report.sizes) == 2
    assert report.photos[0].missed.tolist() == [True, True]
    assert report.events["x"].faces == 2


def test_an_event_is_measured_as_if_it_were_alone() -> None:
    photos = [photo("x/a.jpg", [FACE]), photo("y/b.jpg", [FACE]), photo("y/c.jpg", [FACE])]
    away = (100, 100, 140, 140)
    predictions = {"x/a.jpg": found((*FACE, 0.5)), "y/b.jpg": found((*away, 0.9))}
    events = evaluate(predictions, photos, protocol="original").events
    assert {name: (c.photos, c.ap, c.plain_ap) for name, c in events.items()} == {
        "x": (1, 1, 1),
        "y": (2, 0, 0),
    }


def test_legacy_iou_is_the_plus_one_rule() -> None:
    a = np.array([[0, 0, 9, 9]], np.float32)
    b = np.array([[0, 0, 9, 4], [9, 9, 20, 20], [10, 10, 20, 20], [11, 0, 20, 9]], np.float32)
    np.testing.assert_allclose(legacy_iou(a, b), [[0.5, 1 / (100 + 144 - 1), 0, 0]])


def test_plain_ap_has_no_plus_one() -> None:
    # 8×8 against 8×8 moved by 3: IoU 40/88 < 0.5, with +1 54/108 = 0.5.
    report = evaluate(
        {"x/a.jpg": found((3, 0, 11, 8, 0.9))}, [photo("x/a.jpg", [(0, 0, 8, 8)])], protocol="x"
    )
    assert report.ap == 1
    assert report.curves["all"].plain_ap == 0


def test_plain_ap_reads_every_score_and_every_photo() -> None:
    photos = [photo("x/a.jpg", [FACE, (100, 0, 140, 40)], [False, False]), photo("x/none.jpg", [])]
    predictions = {
        "x/a.jpg": found((*FACE, 0.90001), (100, 0, 140, 40, 0.1)),
        "x/none.jpg": found((*FACE, 0.90002)),
    }
    curve = evaluate(predictions, photos, protocol="x").curves["all"]
    assert curve.plain_ap == pytest.approx(0.5 * 2 / 3 + 0.5 * 2 / 3)
    assert curve.ap == 1


@settings(max_examples=100, deadline=None)
@given(sets())
def test_plain_ap_is_that_of_pascal_voc(drawn: tuple[Predictions, list[Photo]]) -> None:
    predictions, photos = drawn
    rows, count = [], 0
    for p in photos:
        count += int((~p.ignore).sum())
        boxes, scores = predictions.get(p.name, (np.zeros((0, 4)), np.zeros(0)))
        taken = set()
        for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
            overlaps = [scalar_iou(boxes[i].tolist(), face) for face in p.faces.tolist()]
            best = int(np.argmax(overlaps)) if overlaps else -1
            if best >= 0 and overlaps[best] >= 0.5:
                if not p.ignore[best]:
                    rows.append((float(scores[i]), best not in taken))
                    taken.add(best)
            else:
                rows.append((float(scores[i]), False))
    expected, best_precision, last = 0.0, 0.0, 1.0
    for level in sorted({score for score, _ in rows}):
        reached = [right for score, right in rows if score >= level]
        recall = sum(reached) / count if count else 0.0
        expected += (last - recall) * best_precision if last < 1 or best_precision else 0.0
        best_precision, last = max(best_precision, sum(reached) / len(reached)), recall
    expected += last * best_precision if rows else 0.0
    plain = evaluate(predictions, photos, protocol="x").curves["all"].plain_ap
    np.testing.assert_allclose(plain, expected if count else math.nan, atol=1e-12)


def scalar_iou(a: list[float], b: list[float]) -> float:
    width, height = (min(a[k + 2], b[k + 2]) - max(a[k], b[k]) for k in (0, 1))
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def test_average_precision_takes_the_envelope() -> None:
    recall, precision = np.array([0.2, 0.4, 0.4, 0.8]), np.array([1.0, 0.5, 0.25, 0.75])
    assert average_precision(recall, precision) == pytest.approx(0.2 * 1 + 0.6 * 0.75)


def test_arguments() -> None:
    photos = [photo("x/a.jpg", [FACE])]
    with pytest.raises(ValueError, match="no photos"):
        evaluate({}, [], protocol="vga")
    with pytest.raises(ValueError, match="twice"):
        evaluate({}, photos * 2, protocol="vga")
    with pytest.raises(ValueError, match=r"x/a\.jpg must be boxes"):
        evaluate({"x/a.jpg": (np.zeros((2, 4)), np.zeros(3))}, photos, protocol="vga")
    with pytest.raises(ValueError, match="finite"):
        evaluate({"x/a.jpg": found((*FACE, np.nan))}, photos, protocol="vga")
    with pytest.raises(ValueError, match="at least one set of faces"):
        evaluate({}, photos, protocol="vga", subsets={})


def crowd(photo_count: int, face_count: int, found_count: int) -> tuple[Predictions, list[Photo]]:
    random = np.random.default_rng(0)
    photos, predictions = [], {}
    for index in range(photo_count):
        corner = random.uniform(0, 900, (face_count, 2))
        side = random.uniform(6, 80, (face_count, 2))
        faces = np.concatenate([corner, corner + side], axis=1).astype(np.float32)
        near = faces[random.integers(0, face_count, found_count)]
        shifted = near + random.normal(0, 4, (found_count, 4)).astype(np.float32)
        name = f"e{index % 3}/{index}.jpg"
        photos.append(photo(name, faces.tolist(), (random.random(face_count) < 0.1).tolist()))
        predictions[name] = (shifted, random.beta(0.3, 0.6, found_count).astype(np.float32))
    return predictions, photos


def test_result_files_do_not_change_the_figure(tmp_path: Path) -> None:
    predictions, photos = crowd(6, 10, 40)
    write_results(tmp_path / "results", predictions)
    read = read_results(tmp_path / "results", [p.name for p in photos])
    direct = evaluate(predictions, photos, protocol="x")
    again = evaluate(read, photos, protocol="x")
    assert again.ap == pytest.approx(direct.ap, abs=5e-5)
    ap, _, _ = official(predictions, photos, [~p.ignore for p in photos])
    assert 0.2 < ap < 0.9
    assert direct.ap == pytest.approx(ap, abs=1e-9)


def test_is_fast() -> None:
    predictions, photos = crowd(100, 12, 500)
    start = time.process_time()
    evaluate(predictions, photos, protocol="x")
    # The full set has 32 times as many photos: the whole of it stays far below a minute.
    assert time.process_time() - start < 2


def test_precision_and_recall_by_score_are_those_of_the_detections_from_it_on() -> None:
    """Four faces; found at .9, .55 and .35, with false boxes at .45 and .25."""
    faces = [[x, 10, x + 20, 30] for x in (10, 60, 110, 160)]
    away = [[x, 200, x + 20, 220] for x in (10, 60)]
    found = (
        np.array([*faces[:3], *away], np.float32),
        np.array([0.9, 0.55, 0.35, 0.45, 0.25], np.float32),
    )
    report = evaluate({"x/a.jpg": found}, [photo("x/a.jpg", faces)], protocol="x", threshold=0.55)
    by_score = {score: (precision, recall) for score, precision, recall in report.by_score()}
    assert list(by_score) == sorted({*SCORES, 0.55})
    assert by_score[0.8] == (1, 1 / 4)
    assert by_score[0.6] == (1, 1 / 4)
    assert by_score[0.5] == (1, 2 / 4)
    assert by_score[0.4] == (2 / 3, 2 / 4)
    assert by_score[0.3] == (3 / 4, 3 / 4)
    assert by_score[0.2] == (3 / 5, 3 / 4)
    assert report.whole.at(0.25) == (3 / 5, 3 / 4), "the score itself counts"
    precision, recall = report.whole.at(0.95)
    assert math.isnan(precision)
    assert recall == 0
    rows = report.to_json()["scores"]
    assert {"score": 0.4, "precision": 2 / 3, "recall": 0.5} in rows


def test_precision_by_score_counts_false_boxes_where_no_face_is() -> None:
    photos = [photo("x/a.jpg", [FACE]), photo("x/none.jpg", [])]
    predictions = {"x/a.jpg": found((*FACE, 0.9)), "x/none.jpg": found((*FACE, 0.9))}
    report = evaluate(predictions, photos, protocol="x")
    assert report.whole.at(0.8) == (0.5, 1)
    assert {row[1:] for row in report.by_score()} == {(0.5, 1)}
    assert report.ap == 1, "the official figure stays"
    assert report.whole.precision.tolist() == [1] * 1000


def test_the_best_score_is_above_false_boxes_where_no_face_is() -> None:
    photos = [photo("x/a.jpg", [FACE, (100, 0, 140, 40)]), photo("x/none.jpg", [])]
    faces = found((*FACE, 0.9), (100, 0, 140, 40, 0.6))
    away = found(*((*FACE, score) for score in (0.8, 0.75, 0.7, 0.65, 0.1)))
    report = evaluate({"x/a.jpg": faces, "x/none.jpg": away}, photos, protocol="x")
    assert report.whole.best_score() == pytest.approx(0.9, abs=2e-3)
    alone = evaluate({"x/a.jpg": faces}, photos[:1], protocol="x")
    assert alone.whole.best_score() == pytest.approx(0.6, abs=2e-3)


def test_photos_without_a_listed_face_are_told_apart() -> None:
    photos = [photo("x/a.jpg", [FACE]), photo("x/b.jpg", []), photo("x/c.jpg", [])]
    box = (*FACE, 0.9)
    predictions = {
        "x/a.jpg": found(box, (100, 100, 120, 120, 0.8)),
        "x/b.jpg": found(box, (60, 60, 80, 80, 0.6), (90, 90, 99, 99, 0.4)),
        "x/c.jpg": found((*FACE, 0.5)),
    }
    report = evaluate(predictions, photos, protocol="x", threshold=0.55)
    assert report.faceless == (2, 1, 2)
    assert report.to_json()["faceless"] == {"photos": 2, "with_detections": 1, "detections": 2}
    assert evaluate(predictions, photos, protocol="x", threshold=0.3).faceless == (2, 2, 4)
    assert evaluate(predictions, photos[:1], protocol="x").faceless == (0, 0, 0)


def test_json_has_the_protocol_and_no_nan() -> None:
    report: Report = evaluate({}, [photo("x/a.jpg", [FACE])], protocol="vga")
    text = json.dumps(report.to_json(), allow_nan=False)
    assert json.loads(text)["protocol"] == "vga"
    assert json.loads(text)["iou"] == 0.5
    assert json.loads(text)["ap"]["all"] == {
        "ap": 0.0,
        "plain_ap": 0.0,
        "photos": 1,
        "faces": 1,
    }
