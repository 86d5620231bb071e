import io
import warnings
from contextlib import ExitStack, suppress

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from exif import BROKEN_TAGS, exif_with
from faceresnet import ImageError, images


@pytest.fixture
def photo():
    """Smooth, unlike in every corner."""
    y, x = np.mgrid[:40, :60]
    return np.stack([x * 4, y * 6, 255 - x * 4], axis=2).astype(np.uint8)


def encoded(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def test_every_kind_of_source(photo, tmp_path):
    picture = Image.fromarray(photo)
    path = tmp_path / "photo.png"
    picture.save(path)
    for source in (path, str(path), path.read_bytes(), path.open("rb"), picture):
        np.testing.assert_array_equal(images.read(source), photo)
        if hasattr(source, "close"):
            source.close()


def test_grey_shows_nothing():
    grey = images.grey((2, 3))
    assert grey.shape == (2, 3, 3)
    assert grey.dtype == np.uint8
    assert (grey == images.PADDING).all()


def test_the_array_is_the_callers_own(photo):
    picture = Image.fromarray(photo)
    image = images.read(picture)
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(np.asarray(picture), photo)


def test_exif_rotation(photo):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    image = images.read(encoded(Image.fromarray(photo), exif=exif))
    np.testing.assert_array_equal(image, np.rot90(photo, -1))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_a_tiff_file_on_its_side_is_the_same_by_its_path_and_by_its_bytes(tmp_path, photo, mode):
    """Its pixels, not compressed, could be mapped into memory."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "photo.tif"
    Image.fromarray(photo).convert(mode).save(path, exif=exif)
    upright = np.asarray(Image.fromarray(np.rot90(photo, -1)).convert(mode).convert("RGB"))
    np.testing.assert_array_equal(images.read(path.read_bytes()), upright)
    np.testing.assert_array_equal(images.read(path), upright)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_is_what_pillow_makes_of_it(photo, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(io.BytesIO(encoded(Image.fromarray(photo), exif=exif))) as picture:
        assert images.orientation(picture) == orientation
        turned = np.asarray(images.upright(picture))
        np.testing.assert_array_equal(turned, np.asarray(ImageOps.exif_transpose(picture)))


@pytest.mark.parametrize("tag", BROKEN_TAGS.values(), ids=BROKEN_TAGS)
def test_exif_rotation_beside_a_broken_tag(photo, tag):
    """Pillow's own turning stumbles when it writes the metadata anew."""
    image = images.read(encoded(Image.fromarray(photo), exif=exif_with(tag)))
    np.testing.assert_array_equal(image, np.rot90(photo, -1))


@pytest.mark.parametrize("content", [b"", b"Exif\0\0", b"Exif\0\0II*", exif_with(number="6")])
def test_exif_that_names_no_orientation_leaves_the_photo_as_it_is(photo, content):
    image = images.read(encoded(Image.fromarray(photo), exif=content))
    np.testing.assert_array_equal(image, photo)


@pytest.mark.parametrize("mode", ["L", "1", "LA", "P", "CMYK", "YCbCr", "HSV"])
def test_other_modes_become_rgb(photo, mode):
    picture = Image.fromarray(photo).convert(mode)
    image = images.read(picture)
    assert image.shape == photo.shape
    assert image.dtype == np.uint8
    expected = np.asarray(picture.convert("L"), int)
    assert abs(np.asarray(Image.fromarray(image).convert("L"), int) - expected).mean() < 3


def test_transparency_is_laid_over_white(photo):
    rgba = np.dstack([photo, np.full(photo.shape[:2], 255, np.uint8)])
    rgba[:20, :, 3] = 0
    rgba[20:30, :, 3] = 128
    image = images.read(encoded(Image.fromarray(rgba)))
    assert (image[:20] == 255).all()
    assert abs(image[25].astype(int) - (photo[25].astype(int) + 255) // 2).max() <= 2
    np.testing.assert_array_equal(image[30:], photo[30:])


def test_transparency_of_palettes_and_rgb(photo):
    palette = Image.fromarray(photo).quantize(8)
    index = palette.getpixel((0, 0))
    image = images.read(encoded(palette, transparency=index))
    assert image[0, 0].tolist() == [255, 255, 255]
    image = images.read(encoded(Image.fromarray(photo), transparency=tuple(photo[0, 0].tolist())))
    assert image[0, 0].tolist() == [255, 255, 255]
    assert image[20, 30].tolist() == photo[20, 30].tolist()


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_16_bits_keep_their_range(format):
    for values, expected in (
        ([0, 257, 32896, 65535], [0, 1, 128, 255]),
        ([128, 129, 257 * 7 + 128, 257 * 7 + 129], [0, 1, 7, 8]),  # rounded
        ([257, 32896, 65278, 0], [1, 128, 254, 0]),  # not stretched
    ):
        grey = np.array([values], np.uint16)
        image = images.read(encoded(Image.fromarray(grey), format))
        assert image[0, :, 0].tolist() == expected
        assert (image == image[:, :, :1]).all()


def test_big_endian_16_bits():
    grey = np.array([[0, 65535]], ">u2")
    picture = Image.frombytes("I;16B", (2, 1), grey.tobytes())
    assert images.read(picture)[0, :, 0].tolist() == [0, 255]


def test_floats_are_stretched():
    grey = np.array([[-1.0, 0.0, np.nan, 1.0]], np.float32)
    assert images.read(Image.fromarray(grey))[0, :, 1].tolist() == [0, 128, 128, 255]
    flat = np.full((2, 2), 3.5, np.float32)
    assert images.read(Image.fromarray(flat)).tolist() == np.zeros((2, 2, 3)).tolist()


def test_first_frame_of_an_animation(photo):
    frames = [Image.fromarray(photo), Image.fromarray(255 - photo)]
    gif = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert abs(images.read(gif).astype(int) - photo).mean() < 12


def test_missing_file(tmp_path):
    with pytest.raises(ImageError, match=r"nowhere\.jpg does not exist"):
        images.read(tmp_path / "nowhere.jpg")


def test_an_address_is_not_fetched():
    with pytest.raises(ImageError, match=r"http://h/a\.jpg is an address: download"):
        images.read("http://h/a.jpg")


def test_a_folder_is_no_photo(tmp_path):
    with pytest.raises(ImageError, match=str(tmp_path)):
        images.read(tmp_path)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"])
def test_truncated_files_are_named(photo, tmp_path, format):
    content = encoded(Image.fromarray(photo), format)
    path = tmp_path / "half"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageError, match="half"):
        images.read(path)


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"BM"]),
)
def test_garbage_is_an_image_error_or_an_image(content, magic):
    # Should these bytes decode after all, the array they give must be sound.
    with suppress(ImageError):
        images.check(images.read(magic + content))


def test_the_limit_of_pixels(photo):
    content = encoded(Image.fromarray(photo))
    with pytest.raises(ImageError, match="2,400 pixels"):
        images.read(content, max_pixels=2_399)
    assert images.read(content, max_pixels=2_400).shape == photo.shape
    assert images.read(content, max_pixels=None).shape == photo.shape


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "GIF", "WEBP", "BMP"])
def test_more_pixels_than_pillow_allows_by_itself(monkeypatch, photo, format):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        content = encoded(Image.fromarray(photo), format)
        assert images.read(content).shape == photo.shape
    assert Image.MAX_IMAGE_PIXELS == 100, "its limit is as it was"


def test_pillows_limit_comes_back_when_the_last_one_leaves(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    first, second = ExitStack(), ExitStack()
    first.enter_context(images.pillow_limit_lifted)
    second.enter_context(images.pillow_limit_lifted)
    assert Image.MAX_IMAGE_PIXELS is None
    first.close()
    assert Image.MAX_IMAGE_PIXELS is None
    second.close()
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("size", [(0, 0), (0, 7), (7, 0)])
def test_an_empty_pillow_image(size):
    with pytest.raises(ImageError, match=f"the Pillow image is empty: {size[0]}×{size[1]} px"):
        images.read(Image.new("RGB", size))


@pytest.mark.parametrize("source", [None, 5, [1, 2], {}])
def test_what_is_no_source(source):
    with pytest.raises(ValueError, match="an image is a path"):
        images.read(source)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        ([[1]], "NumPy array, got list"),
        (np.zeros((4, 4, 3), np.float32), "uint8"),
        (np.zeros((4, 4), np.uint8), "height, width, 3"),
        (np.zeros((4, 4, 4), np.uint8), "height, width, 3"),
        (np.zeros((3, 4, 4), np.uint8), "channels last"),
        (np.zeros((0, 4, 3), np.uint8), "empty"),
    ],
)
def test_check_says_what_is_wrong(array, message):
    with pytest.raises(ValueError, match=message):
        images.check(array)


@given(st.integers(1, 100), st.integers(1, 100), st.sampled_from([1, 32, 64]))
def test_letterbox_pads_right_and_bottom(height, width, multiple):
    image = np.full((height, width, 3), 9, np.uint8)
    padded = images.letterbox(image, multiple)
    assert padded.shape[:2] == images.padded_size((height, width), multiple)
    assert padded.shape[0] % multiple == padded.shape[1] % multiple == 0
    assert padded.shape[0] < height + multiple
    assert padded.shape[1] < width + multiple
    assert (padded[:height, :width] == 9).all()
    assert (padded[height:] == 127).all()
    assert (padded[:, width:] == 127).all()


def test_letterbox_of_a_window(photo):
    window = photo[5:25, 10:30]
    padded = images.letterbox(window, 4)
    assert padded.flags.c_contiguous
    np.testing.assert_array_equal(padded, window)


def test_resize_averages_when_it_shrinks():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    assert abs(images.resize(stripes, (8, 8)).astype(int) - 100).max() <= 1
    assert images.resize(stripes, (64, 64)) is stripes
    assert images.resize(stripes, (100, 90)).shape == (100, 90, 3)


@pytest.mark.parametrize("axis", [0, 1])
def test_resize_averages_when_one_side_alone_shrinks(axis):
    stripes = np.zeros((63, 63, 3), np.uint8)
    stripes[::3] = 240
    size = (21, 63)
    done = images.resize(stripes.swapaxes(0, axis).copy(), size if axis == 0 else size[::-1])
    assert (done == 80).all()


@pytest.mark.parametrize(
    ("size", "expected"),
    [((35, 100), (18, 50)), ((100, 33), (50, 16)), ((50, 50), (50, 50)), ((1, 200), (1, 50))],
)
def test_shrinking_keeps_the_proportions_to_the_nearest_pixel(size, expected):
    assert images.shrink(np.zeros((*size, 3), np.uint8), 50).shape[:2] == expected


@pytest.mark.parametrize("address", ["https://example.org/a.jpg", "HTTP://example.org/a.jpg"])
def test_an_address_is_no_path(address):
    with pytest.raises(ImageError, match="is an address: download the photo"):
        images.read(address)


def test_draw_scales_its_lines(photo):
    box = np.array([[10, 10, 30, 30]], np.float32)
    small = images.draw(photo, box)
    assert small[10, 20].tolist() == [255, 0, 0]
    assert (small[12, 20] == photo[12, 20]).all()
    large = images.draw(np.zeros((1280, 1280, 3), np.uint8), box * 20)
    assert (large[198:202, 400, 0] == 255).all()
    wide = images.draw(np.zeros((320, 1280, 3), np.uint8), box * 5)
    assert (wide[48:53, 100, 0] == 255).sum() >= 4
    outside = images.draw(photo, np.array([[-50, -50, 500, 500]], np.float32))
    assert outside[39, 59].tolist() == [255, 0, 0]


def test_write_is_whole_or_nothing(photo, tmp_path):
    images.write(photo, tmp_path / "new" / "a.png")
    np.testing.assert_array_equal(images.read(tmp_path / "new" / "a.png"), photo)
    images.write(photo, tmp_path / "a.JPG")
    assert abs(images.read(tmp_path / "a.JPG").astype(int) - photo).mean() < 5
    images.write(photo, tmp_path / "b.jfif")
    expected = encoded(Image.fromarray(photo), "JPEG", quality=92)
    assert (tmp_path / "b.jfif").read_bytes() == (tmp_path / "a.JPG").read_bytes() == expected
    with pytest.raises(ValueError, match="suffix"):
        images.write(photo, tmp_path / "a.txt")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ImageError, match=r"folder\.png"):
        images.write(photo, tmp_path / "folder.png")
    assert {path.name for path in tmp_path.iterdir()} == {
        "new",
        "a.JPG",
        "b.jfif",
        "folder.png",
    }


@pytest.mark.parametrize("name", ["a.txt", "a.psd", "a.FITS", "a"])
def test_formats_that_are_not_written_are_refused(photo, tmp_path, name):
    with pytest.raises(ValueError, match=f"has the suffix of .*{name}: use .png or .jpg"):
        images.write(photo, tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("a.jpg", 65_500),
        ("a.JFIF", 65_500),
        ("a.webp", 16_383),
        ("a.gif", 65_535),
        ("a.tga", 65_535),
        ("a.avif", 32_768),
    ],
)
def test_a_picture_too_long_for_its_format_is_refused(tmp_path, capfd, name, limit):
    """libjpeg would print a line of its own."""
    path = tmp_path / name
    images.write(np.zeros((1, limit, 3), np.uint8), path)
    assert images.read(path).shape == (1, limit, 3)
    path.unlink()
    for size in ((1, limit + 1), (limit + 1, 1)):
        with pytest.raises(ImageError, match=f"{name}: .*{limit:,} px a side.*: use .png") as error:
            images.write(np.zeros((*size, 3), np.uint8), path)
        assert f"{size[1]}×{size[0]} px" in str(error.value)
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")
    images.write(np.zeros((1, limit + 1, 3), np.uint8), tmp_path / "a.png")


def test_halving_first_gives_nearly_the_same_average():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    photo = images.resize(coarse, (480, 640))
    for size in ((125, 166), (60, 80), (118, 301)):
        direct = cv2.resize(photo, size[::-1], interpolation=cv2.INTER_AREA)
        done = images.resize(photo, size)
        assert done.shape == direct.shape
        assert np.abs(done.astype(int) - direct).mean() < 1.5


def test_no_program_is_run_for_a_file(tmp_path, monkeypatch):
    """EPS is a program, for which Pillow calls another one, whatever the file is named."""

    def runs(*_, **__):
        raise AssertionError("it ran")

    monkeypatch.setattr("subprocess.Popen", runs)
    monkeypatch.setattr("subprocess.check_call", runs)
    file = tmp_path / "holiday.jpg"
    file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n")
    with pytest.raises(ImageError, match="EPS, a program and no photo"):
        images.read(file)
