import io
import os

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageSequence, PngImagePlugin, TiffImagePlugin

from conftest import blob_image
from exif import BROKEN_TAGS, exif_with
from faceresnet import ImageError
from faceresnet.apps.anonymise import Covering, anonymise_photo, least_score, locate_with, photos

SQUARE = (60, 50, 40)  # centre x, centre y, side px
BOX = Covering("box", shape="rectangle")


@pytest.fixture
def locate(blob_detector):
    return locate_with(blob_detector)


def redness(image):
    """Share of pixels that are a face's still."""
    pixels = np.asarray(image.convert("RGB")).astype(int)
    return float((pixels[:, :, 0] - pixels[:, :, 1:].max(axis=2) > 100).mean())


@pytest.fixture
def run(tmp_path, locate):
    """Save a picture, anonymise the file, and open the result."""
    opened = []

    def run(picture, name, covering=BOX, **options):
        source, target = tmp_path / name, tmp_path / "out" / name
        picture.save(source, **options)
        result = anonymise_photo(source, target, locate, covering)
        opened.append(Image.open(target))
        return result, opened[-1]

    yield run
    for image in opened:
        image.close()


def test_pillows_own_limit_does_not_count(locate, tmp_path, monkeypatch):
    """A TIFF is held against it when its pixels are decoded, too."""
    source = tmp_path / "photo.tif"
    Image.fromarray(blob_image((96, 128), SQUARE)).save(source)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert anonymise_photo(source, tmp_path / "out.tif", locate, BOX).faces == 1
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize(
    "suffix", ["jpg", "png", "webp", "tif", "bmp", "tga", "ppm", "jp2", "avif"]
)
@pytest.mark.parametrize("method", ["blur", "pixelate", "box"])
def test_every_format_stays_and_is_covered(run, suffix, method):
    picture = Image.fromarray(blob_image((96, 128), SQUARE))
    result, image = run(picture, f"photo.{suffix}", Covering(method))
    with image:
        assert result.faces == 1
        assert image.size == (128, 96)
        assert image.format == Image.registered_extensions()[f".{suffix}"]
        pixels = np.asarray(image.convert("RGB")).astype(int)
        assert np.abs(pixels[:8] - 127).max() <= 4, "what is no face looks as it did"
        if method == "box":
            assert redness(image) == 0
            assert pixels[50, 60].max() < 10


def make_exif():
    """Camera, place, owner and a thumbnail that shows the face."""
    exif = Image.Exif()
    exif[0x010F], exif[0x013B], exif[0x0112] = "Canon", "Anna Example", 6
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 12.0), 3: "E", 4: (13.0, 24.0, 0.0)})
    exif.get_ifd(0x8769).update({0x9286: b"ASCII\0\0\0at home", 0x927C: b"maker note of Anna"})
    return exif


SECRETS = (
    b"Anna",
    b"Canon",
    b"GPS",
    b"maker note",
    b"at home",
    b"Exif",
    b"http://ns.adobe.com",
    b"8BIM",
)
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a>http://ns.adobe.com/ Anna</a></x:xmpmeta>'


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif"])
def test_metadata_is_gone_and_the_rotation_is_applied(run, tmp_path, suffix):
    picture = Image.fromarray(blob_image((96, 128), SQUARE))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    options = {"exif": make_exif(), "icc_profile": profile}
    if suffix == "jpg":
        options |= {"comment": b"Anna's birthday", "xmp": XMP}
    if suffix == "png":
        text = PngImagePlugin.PngInfo()
        text.add_text("Author", "Anna")
        text.add_itxt("XML:com.adobe.xmp", XMP.decode())
        options["pnginfo"] = text
    if suffix in ("webp", "avif"):
        options["xmp"] = XMP
    _, image = run(picture, f"photo.{suffix}", **options)
    before = (tmp_path / f"photo.{suffix}").read_bytes()
    after = (tmp_path / "out" / f"photo.{suffix}").read_bytes()
    assert any(secret in before for secret in SECRETS)
    assert not [secret for secret in SECRETS if secret in after]
    with image:
        assert image.size == (96, 128), "turned"
        assert not set(image.getexif()) & {0x010F, 0x013B, 0x0112, 0x8825, 0x8769, 0x02BC}
        assert "xmp" not in image.info
        assert "comment" not in image.info
        assert image.info["icc_profile"] == profile
        turned = np.asarray(image.convert("RGB"))
        assert turned[60, 96 - 50].max() < 30, "the black box is where the face is now"


@pytest.mark.parametrize("tag", BROKEN_TAGS.values(), ids=BROKEN_TAGS)
def test_the_rotation_is_applied_beside_a_broken_tag(run, tag):
    picture = Image.fromarray(blob_image((96, 128), SQUARE))
    result, image = run(picture, "photo.jpg", exif=exif_with(tag))
    with image:
        assert (result.faces, image.size) == (1, (96, 128))
        assert not image.getexif()
        assert np.asarray(image)[60, 96 - 50].max() < 30, "the face was looked for upright"


def test_what_follows_a_photo_in_its_file_is_gone(run, tmp_path, locate):
    """Second pictures, depth maps and gain maps show the face, too."""
    source = tmp_path / "phone.jpg"
    picture = Image.fromarray(blob_image((96, 128), SQUARE))
    picture.save(source, save_all=True, append_images=[picture], format="MPO")
    with Image.open(source) as before:
        assert before.format == "MPO"
    with source.open("ab") as file:
        file.write(b"SEFT trailer of Anna's phone")
    result = anonymise_photo(source, tmp_path / "out.jpg", locate, BOX)
    assert result.notes == ("its 1 further pictures are left out",)
    after = (tmp_path / "out.jpg").read_bytes()
    assert after.count(b"\xff\xd8\xff") == 1
    assert after.endswith(b"\xff\xd9")
    with Image.open(tmp_path / "out.jpg") as image:
        assert (image.format, redness(image)) == ("JPEG", 0)


@pytest.mark.parametrize(("lossless", "most"), [(True, 0), (False, 0.5)])
def test_webp_stays_lossless_or_nearly(run, tmp_path, lossless, most):
    grey = np.random.default_rng(0).integers(0, 256, (96, 128), np.uint8)
    picture = Image.fromarray(grey[:, :, None].repeat(3, axis=2))
    _, image = run(picture, "photo.webp", lossless=lossless, quality=95)
    with Image.open(tmp_path / "photo.webp") as before:
        difference = np.asarray(image).astype(int) - np.asarray(before.convert("RGB"))
    assert np.abs(difference).mean() <= most


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("words", [b"long", b"VP8L"])
def test_webp_stays_lossless_whatever_lies_before_its_pixels(tmp_path, words, frames, lossless):
    profile = bytearray(words * 2_000)
    profile[16:20] = b"RGB "
    pictures = [Image.new("RGB", (64, 48), (90, 90, 90 + number)) for number in range(frames)]
    more = {"save_all": True, "append_images": pictures[1:]} if frames > 1 else {}
    source, out = tmp_path / "photo.webp", tmp_path / "out.webp"
    pictures[0].save(source, lossless=lossless, icc_profile=bytes(profile), **more)
    anonymise_photo(source, out, lambda image: np.zeros((0, 4), np.float32), BOX)
    for path in (source, out):
        assert (b"VP8L" in path.read_bytes().replace(profile, b"")) is lossless
    with Image.open(out) as image:
        assert image.info["icc_profile"] == profile


@pytest.mark.parametrize(
    ("compression", "kept"),
    [("tiff_lzw", "tiff_lzw"), ("packbits", "packbits"), ("zstd", "tiff_adobe_deflate")],
)
def test_tiff_keeps_its_compression_where_everybody_reads_it(run, compression, kept):
    _, image = run(Image.new("RGB", (32, 32)), "photo.tif", compression=compression)
    assert image.info["compression"] == kept


@pytest.mark.parametrize("progressive", [True, False])
def test_jpeg_stays_progressive_or_not(run, progressive):
    picture = Image.fromarray(blob_image((96, 128), SQUARE))
    _, image = run(picture, "photo.jpg", progressive=progressive)
    assert bool(image.info.get("progressive")) is progressive


def test_a_profile_of_other_pixels_goes(run):
    """Of colours, in a grey picture: programs would refuse it."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    _, image = run(Image.new("L", (32, 32), 90), "photo.png", icc_profile=profile)
    assert "icc_profile" not in image.info


def test_jpeg_keeps_its_quality(run, tmp_path):
    y, x = np.mgrid[:256, :256]
    waves = [127 + 90 * np.sin(x / 9 + shift) * np.cos(y / 7) for shift in (0, 1, 2)]
    picture = Image.fromarray(np.stack(waves, axis=2).astype(np.uint8))
    for quality, subsampling in ((98, 0), (60, 2)):
        _, image = run(picture, "photo.jpg", quality=quality, subsampling=subsampling)
        sizes = [(tmp_path / place / "photo.jpg").stat().st_size for place in ("", "out")]
        assert sizes[1] == pytest.approx(sizes[0], rel=0.05)
        with Image.open(tmp_path / "photo.jpg") as before, image:
            assert image.quantization == before.quantization
            difference = np.asarray(image).astype(int) - np.asarray(before)
            assert np.abs(difference).mean() < 1.5


def renumbered(jpeg, numbers, *, transform=None):
    """A JPEG whose quantization tables have other numbers, and maybe another colour transform."""
    content, at = bytearray(jpeg), 2
    while content[at + 1] != 0xDA:  # the picture
        marker, end = content[at + 1], at + 2 + int.from_bytes(content[at + 2 : at + 4])
        places = {0xDB: range(at + 4, end, 65), 0xC0: range(at + 12, end, 3)}.get(marker, ())
        for place in places:
            content[place] = numbers[content[place]]
        if marker == 0xEE and transform is not None:
            content[end - 1] = transform
        at = end
    return bytes(content)


def tables_of(jpeg):
    """The quantization table of each channel."""
    return [jpeg.quantization[channel[3]] for channel in jpeg.layer]


FINE, COARSE, THIRD = ([factor] * 64 for factor in (2, 9, 5))


@pytest.mark.parametrize(
    ("mode", "tables", "numbers"),
    [
        ("L", [FINE], [1]),
        ("RGB", [FINE], [3, 3]),
        ("RGB", [FINE, COARSE], [0, 2]),
        ("RGB", [FINE, COARSE], [1, 0]),
        ("RGB", [FINE, COARSE, THIRD], [2, 0, 3]),
        ("CMYK", [FINE, COARSE, COARSE, FINE], [0, 1, 2, 3]),
    ],
)
def test_jpeg_keeps_the_table_of_each_channel(tmp_path, locate, mode, tables, numbers):
    source, target = tmp_path / "photo.jpg", tmp_path / "out.jpg"
    picture = Image.fromarray(blob_image((96, 128), SQUARE)).convert(mode)
    picture.save(source, qtables=tables)
    source.write_bytes(renumbered(source.read_bytes(), numbers))
    anonymise_photo(source, target, locate, BOX)
    with Image.open(source) as before, Image.open(target) as after:
        assert tables_of(after) == tables_of(before)


def test_jpeg_whose_tables_are_for_other_channels_or_unknown(tmp_path, locate):
    """YCCK, which is written as CMYK; a channel that means a table no one has."""
    picture = Image.fromarray(blob_image((96, 128), SQUARE))
    source, target = tmp_path / "photo.jpg", tmp_path / "out.jpg"
    picture.convert("CMYK").save(source, qtables=[FINE, COARSE, COARSE, FINE])
    source.write_bytes(renumbered(source.read_bytes(), [0, 1, 2, 3], transform=2))
    anonymise_photo(source, target, locate, BOX)
    with Image.open(target) as after:
        assert tables_of(after) == [FINE] * 4
    picture.save(source, quality=40)
    with Image.open(source) as photo:
        del photo.quantization[1]
        assert photos._jpeg_options(photo)["quality"] == photos.QUALITY


@pytest.mark.parametrize("mode", ["L", "1", "LA", "P", "CMYK", "YCbCr", "RGBA", "I;16"])
def test_kinds_of_pixels(run, tmp_path, mode, monkeypatch):
    """Greys hold no red square: the detector is told where the face is."""
    picture = Image.fromarray(blob_image((96, 128), SQUARE))
    suffix = "jpg" if mode in ("CMYK", "YCbCr") else "tif" if mode == "1" else "png"
    picture = (
        Image.fromarray((np.asarray(picture.convert("L")).astype(np.uint16) + 1) * 250)
        if mode == "I;16"
        else picture.convert(mode)
    )
    source = tmp_path / f"photo.{suffix}"
    picture.save(source)
    box = np.array([[40, 30, 80, 70]], np.float32)
    anonymise_photo(source, tmp_path / f"o.{suffix}", lambda image: box, BOX)
    with Image.open(source) as before, Image.open(tmp_path / f"o.{suffix}") as after:
        assert after.mode == {"1": "L", "P": "RGB", "YCbCr": "RGB"}.get(mode, before.mode)
        values = np.asarray(after.convert("RGB"))
        assert values[35:65, 45:75].max() < 12
        if mode == "I;16":
            assert np.asarray(after)[5, 5] == np.asarray(before)[5, 5] == 128 * 250
        assert abs(values[5, 5].astype(int) - np.asarray(before.convert("RGB"))[5, 5]).max() <= 3


@pytest.mark.parametrize("order", ["<", ">"])
def test_deep_greys_are_blurred_whichever_byte_comes_first(tmp_path, order):
    deep = np.random.default_rng(0).integers(29_000, 31_000, (96, 128)).astype(np.uint16)
    mode = "I;16B" if order == ">" else "I;16"
    picture = Image.frombytes(mode, (128, 96), deep.astype(f"{order}u2").tobytes())
    picture.save(tmp_path / "deep.tif")
    box = np.array([[40, 30, 80, 70]], np.float32)
    anonymise_photo(
        tmp_path / "deep.tif", tmp_path / "o.tif", lambda image: box, Covering("blur", 0)
    )
    with Image.open(tmp_path / "o.tif") as after:
        assert after.mode == mode
        values = np.array(after).astype(int)
    assert (values[:20] == deep[:20]).all()
    assert abs(values[40:60, 50:70] - 30_000).max() < 500
    assert values[40:60, 50:70].std() < deep[40:60, 50:70].std() / 2


def test_sixteen_bits_of_colour_become_eight_and_that_is_said(tmp_path, locate):
    cv2 = pytest.importorskip("cv2")
    deep = blob_image((96, 128), SQUARE)[:, :, ::-1].astype(np.uint16) * 257
    assert cv2.imwrite(str(tmp_path / "deep.png"), deep)
    result = anonymise_photo(tmp_path / "deep.png", tmp_path / "o.png", locate, BOX)
    assert result.notes == ("16 bits a channel became 8",)
    with Image.open(tmp_path / "o.png") as image:
        assert redness(image) == 0


@pytest.mark.parametrize(
    ("kind", "largest", "notes"),
    [
        ("P5", 65535, ()),
        ("P6", 65535, ("16 bits a channel became 8",)),
        ("P6", 163, ()),
    ],
)
def test_only_what_became_eight_bits_is_said_to(tmp_path, kind, largest, notes):
    """Greys of 16 bits stay; 163 is no number of bits."""
    channels, depth = (1 if kind == "P5" else 3), np.dtype(">u2" if largest > 255 else "u1")
    values = np.linspace(0, largest, 32 * 32 * channels).astype(depth)
    source, target = tmp_path / "photo.ppm", tmp_path / "o.ppm"
    source.write_bytes(f"{kind}\n32 32\n{largest}\n".encode() + values.tobytes())
    nothing = np.zeros((0, 4), np.float32)
    assert anonymise_photo(source, target, lambda image: nothing, BOX).notes == notes
    with Image.open(source) as before, Image.open(target) as after:
        np.testing.assert_array_equal(np.asarray(after), np.asarray(before))


def test_the_stride_of_a_bitmap_is_no_number_of_bits(run):
    picture = Image.fromarray(blob_image((96, 536), SQUARE))  # 1608 bytes a row
    assert run(picture, "photo.bmp")[0].notes == ()


def test_a_face_that_transparency_hides_is_covered(run):
    """Pixels that are not seen are still in the file."""
    pixels = np.dstack([blob_image((96, 128), SQUARE), np.full((96, 128), 255, np.uint8)])
    for alpha in (0, 8, 128):
        pixels[20:80, 30:90, 3] = alpha
        result, image = run(Image.fromarray(pixels), "photo.png")
        with image:
            values = np.asarray(image)
            assert redness(Image.fromarray(values[:, :, :3])) == 0
            covered = (values[:, :, :3] == 0).all(axis=2) & (values[:, :, 3] == 255)
            assert covered[30:70, 40:80].all()
            np.testing.assert_array_equal(values[~covered, 3], pixels[~covered, 3])
            assert (~covered).mean() > 0.6
            assert result.faces == 1
    palette = Image.fromarray(blob_image((96, 128), SQUARE)).quantize(4)
    red = palette.getpixel((60, 50))
    _, image = run(palette, "palette.png", transparency=red)
    with image:
        assert redness(Image.fromarray(np.asarray(image.convert("RGBA"))[:, :, :3])) == 0


def test_colours_that_nobody_sees_are_gone(tmp_path):
    pixels = np.random.default_rng(0).integers(1, 256, (96, 128, 4), np.uint8)
    pixels[80:, :, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    nothing = np.zeros((0, 4), np.float32)
    anonymise_photo(tmp_path / "photo.png", tmp_path / "o.png", lambda image: nothing, BOX)
    with Image.open(tmp_path / "o.png") as after:
        values = np.asarray(after)
    assert values[80:].max() == 0
    np.testing.assert_array_equal(values[:80], pixels[:80])


@pytest.mark.parametrize("method", ["blur", "pixelate", "box"])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_a_picture_in_the_transparency_is_covered(tmp_path, mode, method):
    """Black ink of which some places take less shows a face over any background."""
    ink = np.random.default_rng(0).integers(0, 256, (96, 128), np.uint8)
    colours = Image.new(mode, (128, 96))
    colours.putalpha(Image.fromarray(ink))
    source, target = tmp_path / "ink.png", tmp_path / "out.png"
    colours.save(source)
    seen = []

    def locate(image):
        seen.append(image)
        return np.array([[40, 30, 80, 70]], np.float32)

    assert anonymise_photo(source, target, locate, Covering(method)).faces == 1
    assert len(seen) == 1  # and not the ink without its transparency, which is one colour
    with Image.open(target) as after:
        assert after.mode == mode
        alpha = np.asarray(after)[:, :, -1]
    inside, face = alpha[35:65, 45:75].astype(float), ink[35:65, 45:75].astype(float)
    assert inside.std() < 0.4 * face.std()
    if method != "box":
        assert abs(np.corrcoef(inside.ravel(), face.ravel())[0, 1]) < 0.4
    np.testing.assert_array_equal(alpha[:10], ink[:10])


def frames_of(path):
    with Image.open(path) as image:
        return [
            (frame.convert("RGBA"), frame.info.get("duration"))
            for frame in ImageSequence.Iterator(image)
        ]


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_every_frame_of_an_animation_is_covered(run, tmp_path, suffix):
    frames = [Image.fromarray(blob_image((96, 128), (40 + 6 * n, 50, 40))) for n in range(6)]
    for number, frame in enumerate(frames):  # frames that are the same would be joined
        frame.paste((0, 0, 255), (8 * number, 0, 8 * number + 8, 8))
    result, image = run(
        frames[0],
        f"film.{suffix}",
        save_all=True,
        append_images=frames[1:],
        duration=[80, 120, 80, 80, 80, 200],
        loop=3,
    )
    with image:
        assert image.info["loop"] == 3
    after = frames_of(tmp_path / "out" / f"film.{suffix}")
    assert [duration for _, duration in after] == [80, 120, 80, 80, 80, 200]
    assert [redness(frame) for frame, _ in after] == [0] * 6
    assert result.frames == 6


def test_a_face_that_moves_a_little_from_frame_to_frame_is_covered_once_in_each(tmp_path):
    frames = [Image.new("RGB", (128, 96), (grey,) * 3) for grey in (90, 120)]
    frames[0].save(tmp_path / "film.webp", save_all=True, append_images=frames[1:], duration=100)
    lefts = iter([40, 50])

    def locate(image):
        left = next(lefts)
        return np.array([[left, 30, left + 40, 70]], np.float32)

    assert anonymise_photo(tmp_path / "film.webp", tmp_path / "o.webp", locate, BOX).faces == 2


def test_a_picture_for_programs_that_show_no_animation_has_no_duration(tmp_path):
    frames = [Image.new("RGB", (128, 96), (grey,) * 3) for grey in (60, 90, 120)]
    frames[0].save(
        tmp_path / "film.png",
        save_all=True,
        append_images=frames[1:],
        default_image=True,
        duration=[300, 70],
    )
    nothing = np.zeros((0, 4), np.float32)
    anonymise_photo(tmp_path / "film.png", tmp_path / "o.png", lambda image: nothing, BOX)
    durations = [
        [duration for _, duration in frames_of(tmp_path / name)] for name in ("film.png", "o.png")
    ]
    assert durations[1] == durations[0]


def test_what_moves_over_nothing_leaves_no_trail(tmp_path):
    frames = [Image.new("RGBA", (128, 96)) for _ in range(3)]
    for number, frame in enumerate(frames):
        frame.paste((0, 200, 0, 255), (30 * number, 10, 30 * number + 20, 30))
    frames[0].save(
        tmp_path / "film.gif", save_all=True, append_images=frames[1:], duration=100, disposal=2
    )
    nothing = np.zeros((0, 4), np.float32)
    anonymise_photo(tmp_path / "film.gif", tmp_path / "o.gif", lambda image: nothing, BOX)
    seen = [np.asarray(frame)[:, :, 3] > 0 for frame, _ in frames_of(tmp_path / "o.gif")]
    assert [int(one.sum()) for one in seen] == [400] * 3


def test_a_frame_in_which_the_face_is_missed_is_covered_by_its_neighbours(tmp_path):
    frames = [Image.fromarray(blob_image((96, 128), SQUARE)) for n in range(6)]
    for number, frame in enumerate(frames):
        frame.putpixel((number, 0), (0, 0, 255))
    source = tmp_path / "film.webp"
    frames[0].save(source, save_all=True, append_images=frames[1:], duration=100, lossless=True)
    seen = iter([True, False, False, True, False, False])

    def locate(image):
        return np.array([[40, 30, 80, 70]] if next(seen) else np.zeros((0, 4)), np.float32)

    result = anonymise_photo(source, tmp_path / "o.webp", locate, BOX)
    after = frames_of(tmp_path / "o.webp")
    assert len(after) == 6
    assert [redness(frame) for frame, _ in after] == [0] * 6
    assert result.faces == 6


def test_every_page_of_a_document_is_covered(run, tmp_path):
    pages = [
        Image.fromarray(blob_image((96, 128), SQUARE)),
        Image.fromarray(blob_image((150, 100), (50, 80, 60))),
        Image.fromarray(blob_image((96, 128))).convert("L"),
    ]
    result, _ = run(
        pages[0], "scan.tif", save_all=True, append_images=pages[1:], compression="tiff_lzw"
    )
    after = frames_of(tmp_path / "out" / "scan.tif")
    assert (result.frames, result.faces) == (3, 2)
    assert [page.size for page, _ in after] == [(128, 96), (100, 150), (128, 96)]
    assert [redness(page) for page, _ in after] == [0] * 3


def write_pages(path, *pages):
    """A TIFF of pages, each with tags of its own."""
    with TiffImagePlugin.AppendingTiffWriter(path, new=True) as file:
        for page, tags in pages:
            page.save(file, format="TIFF", tiffinfo=tags)
            file.newFrame()


@pytest.mark.parametrize("tags", [{254: 1}, {254: 5}, {255: 2}])
@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_a_page_that_is_a_thumbnail_is_left_out(tmp_path, locate, tags, first):
    picture = Image.fromarray(blob_image((96, 128), SQUARE))
    pages = [(picture, {254: 0}), (picture.resize((32, 24)), tags)]
    write_pages(tmp_path / "photo.tif", *(pages[::-1] if first else pages))
    result = anonymise_photo(tmp_path / "photo.tif", tmp_path / "o.tif", locate, BOX)
    assert (result.frames, result.notes) == (1, ("its smaller copies (1) are left out",))
    (page,) = frames_of(tmp_path / "o.tif")
    assert (page[0].size, redness(page[0])) == ((128, 96), 0)


def test_a_file_of_thumbnails_alone_is_kept(tmp_path, locate):
    write_pages(tmp_path / "a.tif", (Image.fromarray(blob_image((96, 128), SQUARE)), {254: 1}))
    result = anonymise_photo(tmp_path / "a.tif", tmp_path / "o.tif", locate, BOX)
    assert (result.faces, result.frames, result.notes) == (1, 1, ())


@pytest.mark.parametrize("sizes", [[(128, 96), (33, 25)], [(33, 25), (128, 96)]])
def test_a_face_found_in_one_page_is_covered_in_its_copy_of_another_size(tmp_path, sizes):
    picture = Image.fromarray(blob_image((96, 128), SQUARE))
    pages = [picture.resize(size) for size in (*sizes, (128, 128), (130, 97))]
    source = tmp_path / "photo.tif"
    pages[0].save(source, save_all=True, append_images=pages[1:])
    seen = iter([True, False, False, False])

    def locate(image):
        scale = image.shape[1] / 128
        boxes = [[40 * scale, 30 * scale, 80 * scale, 70 * scale]] if next(seen) else []
        return np.array(boxes, np.float32).reshape(-1, 4)

    result = anonymise_photo(source, tmp_path / "o.tif", locate, BOX)
    shows = [redness(page) > 0 for page, _ in frames_of(tmp_path / "o.tif")]
    # The third has other proportions; the fourth is a copy of the small page alone.
    assert shows == [False, False, True, sizes[0] == (128, 96)]
    assert result.faces == sum(not show for show in shows)


def test_every_page_counts_before_any_is_decoded(tmp_path, locate, monkeypatch):
    pages = [Image.new("L", (16, 16)), Image.new("L", (300, 300))]
    source = tmp_path / "bomb.tif"
    pages[0].save(source, save_all=True, append_images=pages[1:])
    monkeypatch.setattr(TiffImagePlugin.TiffImageFile, "load", lambda _: pytest.fail("decoded"))
    with pytest.raises(ImageError, match="has 90,256 pixels in all its frames, more than"):
        anonymise_photo(source, tmp_path / "o.tif", locate, BOX, max_pixels=90_000)


def test_what_cannot_be_done_is_said_and_leaves_nothing_behind(tmp_path, locate):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    picture = Image.fromarray(blob_image((96, 128), SQUARE))
    picture.save(tmp_path / "cut.png")
    content = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    picture.save(tmp_path / "icon.ico")
    for name, message in {
        "broken.jpg": "broken.jpg: it",
        "cut.png": "cut.png: it cannot be read",
        "icon.ico": "which cannot be written: convert it",
        "gone.png": "cannot read .*gone.png: No such file",
    }.items():
        with pytest.raises(ImageError, match=message):
            anonymise_photo(tmp_path / name, tmp_path / "out" / name, locate, Covering())
    picture.save(tmp_path / "film.gif", save_all=True, append_images=[picture.rotate(90)] * 9)
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "cut.png").write_bytes(content)
    with pytest.raises(ImageError, match=r"cut\.png: cannot write "):
        anonymise_photo(tmp_path / "cut.png", tmp_path / "file" / "o.png", locate, BOX)
    with pytest.raises(ImageError, match="pixels in all its frames, more than the limit of 20,000"):
        anonymise_photo(
            tmp_path / "film.gif", tmp_path / "out/f.gif", locate, Covering(), max_pixels=20_000
        )
    assert not (tmp_path / "out").exists() or not os.listdir(tmp_path / "out")


def test_the_photo_itself_is_never_the_target(tmp_path, locate):
    picture = Image.fromarray(blob_image((96, 128), SQUARE))
    picture.save(tmp_path / "photo.png")
    content = (tmp_path / "photo.png").read_bytes()
    os.symlink(tmp_path / "photo.png", tmp_path / "link.png")
    os.link(tmp_path / "photo.png", tmp_path / "hard.png")
    for target in ("photo.png", "link.png", "hard.png"):
        with pytest.raises(ValueError, match="is the photo itself"):
            anonymise_photo(tmp_path / "photo.png", tmp_path / target, locate, Covering())
    assert (tmp_path / "photo.png").read_bytes() == content


def test_the_least_score_is_half_the_models_unless_given(blob_model, blob_detector):
    from faceresnet import FaceDetector

    assert least_score(blob_detector) == 0.25
    assert least_score(FaceDetector(blob_model, threshold=0.7, threads=1)) == 0.7


def test_a_real_photo_is_recognised_no_more(tmp_path):
    """The astronaut and a crowd: the detector itself finds next to nothing afterwards."""
    pytest.importorskip("skimage")
    from faceresnet import FaceDetector, images
    from faceresnet.apps.demo import make_crowd

    crowd, in_picture = make_crowd()
    images.write(crowd, tmp_path / "crowd.png")
    detector = FaceDetector(threads=1)
    result = anonymise_photo(tmp_path / "crowd.png", tmp_path / "o.png", locate_with(detector), BOX)
    assert result.faces >= 0.9 * in_picture
    found = detector(tmp_path / "crowd.png")
    pixels = images.read(tmp_path / "o.png")
    for x1, y1, x2, y2 in found.boxes.astype(int).tolist():
        centre = pixels[(y1 + y2) // 2, (x1 + x2) // 2]
        assert centre.max() == 0


def test_encoded_pixels_are_all_there_is(run, tmp_path):
    """A PNG without faces: header, profile and pixels, nothing more."""
    picture = Image.fromarray(blob_image((32, 32)))
    run(picture, "photo.png", dpi=(300, 300), exif=make_exif())
    data, kinds = io.BytesIO((tmp_path / "out/photo.png").read_bytes()[8:]), []
    while length := data.read(4):
        kinds.append(data.read(4))
        data.read(int.from_bytes(length, "big") + 4)
    assert kinds == [b"IHDR", b"IDAT", b"IEND"]
