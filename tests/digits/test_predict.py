import cv2
import numpy as np
import pytest

from faceresnet.digits.data import read_digits
from faceresnet.digits.predict import predict, prepare
from faceresnet.errors import ImageError

#: Whether the ink is darker than the paper, and what both are.
POLARITIES = {"dark": (30, 235), "light": (240, 10), "faint": (120, 160)}


def written(digit="5", size=(400, 300), *, ink=30, paper=235, at=(90, 250)):
    image = np.full((*size, 3), paper, np.uint8)
    cv2.putText(image, digit, at, cv2.FONT_HERSHEY_SIMPLEX, 5, (ink,) * 3, 14, cv2.LINE_AA)
    return image


def centre(image):
    mass = image.astype(float) / image.sum()
    return [(mass.sum(axis=1 - axis) * np.arange(28)).sum() for axis in (0, 1)]


def box(image):
    rows, columns = (np.flatnonzero((image > 20).any(axis=axis)) for axis in (1, 0))
    return rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1


def likeness(a, b) -> float:
    """Correlation of two digits, which rounding may have put one pixel apart."""
    steps = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    moved = [np.roll(a, step, (0, 1)).ravel() for step in steps]
    return max(float(np.corrcoef(one, b.ravel())[0, 1]) for one in moved)


@pytest.mark.parametrize("polarity", POLARITIES)
def test_a_digit_is_put_as_mnist_puts_it(polarity) -> None:
    ink, paper = POLARITIES[polarity]
    found = prepare(written(ink=ink, paper=paper))
    assert found.shape == (28, 28)
    assert found.dtype == np.uint8
    assert found[0].max() == 0  # paper
    assert found.max() == 255
    assert 19 <= max(box(found)) <= 20
    assert np.abs(np.array(centre(found)) - 14).max() <= 0.6


@pytest.mark.parametrize("polarity", POLARITIES)
@pytest.mark.parametrize("scale", [0.1, 0.5, 3.0])
def test_size_polarity_and_place_make_no_difference(polarity, scale) -> None:
    ink, paper = POLARITIES[polarity]
    expected = prepare(written())
    other = written(ink=ink, paper=paper, at=(150, 360), size=(420, 330))
    other = cv2.resize(other, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    assert likeness(prepare(other), expected) > 0.93


def test_uneven_light_and_grain_make_no_difference() -> None:
    image = written(paper=200).astype(float)
    light = np.linspace(-60, 40, 400)[:, None] + np.linspace(-20, 15, 300)[None]
    grain = np.random.default_rng(0).normal(0, 6, image.shape[:2])
    photo = np.clip(image + (light + grain)[..., None], 0, 255).astype(np.uint8)
    assert likeness(prepare(photo), prepare(written())) > 0.93


def test_a_digit_that_touches_the_border_is_no_paper() -> None:
    image = np.full((200, 200, 3), 235, np.uint8)
    cv2.line(image, (60, 0), (60, 199), (30, 30, 30), 20)
    cv2.line(image, (60, 190), (199, 190), (30, 30, 30), 20)
    framed = np.pad(image, ((40, 40), (40, 40), (0, 0)), constant_values=235)
    assert likeness(prepare(image), prepare(framed)) > 0.98


@pytest.mark.parametrize(("ink", "shows"), [(192, False), (180, True)])
def test_what_hardly_differs_from_the_paper_is_no_ink(ink, shows) -> None:
    image = written(paper=200, ink=ink)
    if shows:
        assert prepare(image).max() == 255
    else:
        with pytest.raises(ImageError, match="shows no digit"):
            prepare(image)


def test_specks_are_left_out() -> None:
    image = written()
    image[20:24, 280:284] = 0
    assert likeness(prepare(image), prepare(written())) > 0.98


def test_thin_pens_are_thickened() -> None:
    thin, thick = (
        cv2.polylines(
            np.full((400, 300, 3), 235, np.uint8),
            [np.array([(80, 80), (220, 80), (120, 330)])],
            isClosed=False,
            color=(30, 30, 30),
            thickness=width,
            lineType=cv2.LINE_AA,
        )
        for width in (2, 24)
    )
    assert (prepare(thin) > 127).sum() > 0.75 * (prepare(thick) > 127).sum()


def test_what_is_in_mnists_form_already_stays_so() -> None:
    first = prepare(written())
    again = prepare(np.repeat(first[:, :, None], 3, axis=2))
    assert likeness(first, again) > 0.97


@pytest.mark.parametrize("size", [(1, 1), (28, 28), (500, 20)])
@pytest.mark.parametrize("grey", [0, 128, 255])
def test_an_empty_photo_is_refused(size, grey) -> None:
    with pytest.raises(ImageError, match=r"here\.png shows no digit"):
        prepare(np.full((*size, 3), grey, np.uint8), "here.png")


@pytest.mark.parametrize("size", [(1, 40), (5, 300), (3, 3)])
def test_odd_shapes_do_not_fail(size) -> None:
    image = np.full((*size, 3), 255, np.uint8)
    image[size[0] // 2, size[1] // 2] = 0
    assert prepare(image).shape == (28, 28)


class Sure:
    """An engine that is sure of a digit."""

    def logits(self, images):
        assert images.shape == (1, 28, 28)
        return np.array([[0, 0, 0, 5, 0, 0, 0, 0, 0, 0]], np.float32)


def test_a_prediction_says_how_sure_it_is(tmp_path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), written())
    for source in (tmp_path / "a.png", (tmp_path / "a.png").read_bytes()):
        found = predict(Sure(), source)
        assert found.digit == 3
        assert found.probability == pytest.approx(np.exp(5) / (np.exp(5) + 9))
        assert found.probabilities.sum() == pytest.approx(1)


@pytest.mark.data
def test_mnist_stays_as_it_is(data_folder) -> None:
    some = read_digits(data_folder / "mnist", "test").images[:200]
    alike = [likeness(prepare(np.repeat(one[:, :, None], 3, axis=2)), one) for one in some]
    assert np.mean(alike) > 0.9
    assert np.mean(np.array(alike) > 0.8) > 0.9
