# ruff: noqa: E501  the packets are as programs write them
import io
import os
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from exif import BROKEN_TAGS, exif_with
from faceresnet import DataError, ImageError, images
from faceresnet.apps.tag import TagOptions, packet, tag
from faceresnet.apps.tag.regions import Region, same, to_stored, unmatched
from faceresnet.detections import Detections

EMBED = TagOptions(embed=True)
SIDECAR = TagOptions()
MWG = "Xmp.mwg-rs.Regions"
SIZE = (120, 200)
BOXES = ((20, 30, 60, 80), (120, 40, 150, 90))


def detections(boxes=BOXES, size=SIZE, scores=None):
    scores = scores or np.linspace(0.9, 0.5, len(boxes))
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), size
    )


def picture(size=SIZE):
    """Nothing alike in it, so that pixels that changed show."""
    y, x = np.mgrid[: size[0], : size[1]]
    return Image.fromarray(np.stack([x % 256, y * 2 % 256, (x + y) % 256], axis=2).astype(np.uint8))


def areas(regions):
    return [[round(side, 4) for side in region.box] for region in regions]


XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="Adobe XMP Core 7.0">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="uuid:faf5bdd5-ba3d-11da-ad31-d33d75182f1b"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:crs="http://ns.adobe.com/camera-raw-settings/1.0/" xmlns:xmpMM="http://ns.adobe.com/xap/1.0/mm/"
    xmlns:stEvt="http://ns.adobe.com/xap/1.0/sType/ResourceEvent#"
   xmp:Rating='4' crs:Exposure2012="+0.35">
   <!-- somebody's remark -->
   <dc:title><rdf:Alt><rdf:li xml:lang="x-default">Ümläute &amp; mehr &lt;3</rdf:li></rdf:Alt></dc:title>
   <dc:subject><rdf:Bag><rdf:li>Reise</rdf:li><rdf:li>Meer</rdf:li></rdf:Bag></dc:subject>
   <xmpMM:History><rdf:Seq><rdf:li stEvt:action="saved" stEvt:when="2020-01-01"/></rdf:Seq></xmpMM:History>
   <crs:Masks><rdf:Seq><rdf:li><rdf:Description crs:What="M"><crs:In><rdf:Seq><rdf:li crs:W="2"/></rdf:Seq></crs:In></rdf:Description></rdf:li></rdf:Seq></crs:Masks>
   <foo:own xmlns:foo="http://example.com/foo/" rdf:parseType="Resource"><foo:a>1</foo:a></foo:own>
REGIONS  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""

#: As Lightroom writes them: a face with a name, a focus point; and an unnamed one of a camera.
REGIONS = """   <mwg-rs:Regions xmlns:mwg-rs="http://www.metadataworkinggroup.com/schemas/regions/"
     xmlns:stDim="http://ns.adobe.com/xap/1.0/sType/Dimensions#"
     xmlns:stArea="http://ns.adobe.com/xmp/sType/Area#" rdf:parseType="Resource">
    <mwg-rs:AppliedToDimensions stDim:w="200" stDim:h="120" stDim:unit="pixel"/>
    <mwg-rs:RegionList>
     <rdf:Bag>
      <rdf:li>
       <rdf:Description mwg-rs:Rotation="0.1" mwg-rs:Name="Anna &amp; Co" mwg-rs:Type="Face">
        <mwg-rs:Area stArea:h="0.6" stArea:w="0.3" stArea:x="0.2" stArea:y="0.45" stArea:unit="normalized"/>
       </rdf:Description>
      </rdf:li>
      <rdf:li rdf:parseType="Resource">
       <mwg-rs:Area rdf:parseType="Resource"><stArea:x>0.675</stArea:x><stArea:y>0.55</stArea:y><stArea:w>0.1</stArea:w><stArea:h>0.1</stArea:h></mwg-rs:Area>
       <mwg-rs:Type>Focus</mwg-rs:Type>
      </rdf:li>
     </rdf:Bag>
    </mwg-rs:RegionList>
   </mwg-rs:Regions>
"""
PLAIN, NAMED = XMP.replace("REGIONS", ""), XMP.replace("REGIONS", REGIONS)


# Coordinates


@pytest.mark.parametrize("orientation", range(1, 9))
def test_regions_mean_the_stored_picture_in_all_orientations(orientation, tmp_path):
    """The region, cut out of the stored pixels and turned as EXIF asks, is the face."""
    stored = picture()
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photo.png"
    stored.save(path, exif=exif)
    with Image.open(path) as photo:
        upright = ImageOps.exif_transpose(photo)
    assert upright.size == ((120, 200) if orientation > 4 else (200, 120))
    box = (11, 20, 57, 93)
    face = upright.crop(box)
    tag(path, detections([box], upright.size[::-1]), SIDECAR)
    (region,) = packet.read_regions((tmp_path / "photo.png.xmp").read_bytes())
    x1, y1, x2, y2 = (
        round(part * side) for part, side in zip(region.box, (200, 120) * 2, strict=True)
    )
    cut = stored.crop((x1, y1, x2, y2))
    cut.getexif()[0x0112] = orientation
    np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(cut)), np.asarray(face))
    text = (tmp_path / "photo.png.xmp").read_text()
    assert 'stDim:w="200" stDim:h="120" stDim:unit="pixel"' in text


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif"])
def test_every_format_says_its_stored_size(suffix, tmp_path):
    """Pillow names the upright size of a TIFF file, and the stored one of the others."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / f"photo.{suffix}"
    picture().save(path, exif=exif)
    tag(path, detections([(0, 0, 60, 50)], (200, 120)), SIDECAR)
    sidecar = (tmp_path / f"photo.{suffix}.xmp").read_bytes()
    assert b'stDim:w="200" stDim:h="120"' in sidecar
    assert areas(packet.read_regions(sidecar)) == [[0, 0.5, 0.25, 1]]


@given(st.integers(1, 8), st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4))
def test_turning_keeps_boxes_sound(orientation, sides):
    x1, x2 = sorted(sides[::2])
    y1, y2 = sorted(sides[1::2])
    box = np.array([[x1 * 60, y1 * 40, x2 * 60, y2 * 40]])
    ((a, b, c, d),) = to_stored(box, (40, 60), orientation)
    assert a <= c
    assert b <= d
    assert (c - a) * (d - b) == pytest.approx((x2 - x1) * (y2 - y1), abs=1e-6)
    assert min(a, b) >= -1e-6
    assert max(c, d) <= 1 + 1e-6


def test_an_orientation_that_is_none_means_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 77
    picture().save(tmp_path / "photo.jpg", exif=exif)
    tag(tmp_path / "photo.jpg", detections(), SIDECAR)
    regions = packet.read_regions((tmp_path / "photo.jpg.xmp").read_bytes())
    assert areas(regions)[0] == [0.1, 0.25, 0.3, 0.6667]


@pytest.mark.parametrize("broken", BROKEN_TAGS.values(), ids=BROKEN_TAGS)
def test_a_photo_is_turned_beside_a_broken_tag(tmp_path, broken):
    path = tmp_path / "photo.jpg"
    picture().save(path, exif=exif_with(broken))
    size = images.read(path).shape[:2]
    assert size == (200, 120)
    tag(path, detections([(0, 0, 60, 50)], size), SIDECAR)
    regions = packet.read_regions((tmp_path / "photo.jpg.xmp").read_bytes())
    assert areas(regions) == [[0, 0.5, 0.25, 1]]


# Sidecars


def test_a_sidecar_is_what_exiv2_and_any_reader_expect(tmp_path):
    path = tmp_path / "photo.jpg"
    picture().save(path)
    content, status = path.read_bytes(), path.stat()
    result = tag(path, detections(), SIDECAR)
    assert result == type(result)(tmp_path / "photo.jpg.xmp", 2, 0, 0, changed=True)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (content, status.st_mtime_ns)
    sidecar = (tmp_path / "photo.jpg.xmp").read_bytes()
    ElementTree.fromstring(sidecar)
    pyexiv2 = pytest.importorskip("pyexiv2")
    with pyexiv2.ImageData(sidecar) as image:
        said = image.read_xmp()
    item = f"{MWG}/mwg-rs:RegionList[2]/mwg-rs"
    assert said[f"{MWG}/mwg-rs:AppliedToDimensions/stDim:w"] == "200"
    assert said[f"{MWG}/mwg-rs:AppliedToDimensions/stDim:h"] == "120"
    assert said[f"{MWG}/mwg-rs:RegionList"] == 'type="Bag"'
    assert said[f"{item}:Type"] == "Face"
    assert said[f"{item}:Area/stArea:x"] == "0.675000"
    assert said[f"{item}:Area/stArea:y"] == "0.541667"
    assert said[f"{item}:Area/stArea:w"] == "0.150000"
    assert said[f"{item}:Area/stArea:h"] == "0.416667"
    assert said[f"{item}:Area/stArea:unit"] == "normalized"


def test_names_of_sidecars(tmp_path):
    picture().save(tmp_path / "a.b.jpg")
    tag(tmp_path / "a.b.jpg", detections(), TagOptions(naming="stem"))
    assert sorted(os.listdir(tmp_path)) == ["a.b.jpg", "a.b.xmp"]
    with pytest.raises(ValueError, match="naming must be one of full, stem, got 'short'"):
        TagOptions(naming="short")


@pytest.mark.parametrize("text", [PLAIN, NAMED], ids=["without regions", "with regions"])
def test_every_other_byte_of_a_sidecar_stays(tmp_path, text):
    picture().save(tmp_path / "photo.jpg")
    sidecar = tmp_path / "photo.jpg.xmp"
    sidecar.write_text(text, encoding="utf-8")
    os.chmod(sidecar, 0o640)
    assert tag(tmp_path / "photo.jpg", detections(), SIDECAR).changed
    after = sidecar.read_text(encoding="utf-8")
    assert after != text
    ours = re.findall(
        r" *<rdf:li[^>]*><rdf:Description mwg-rs:Type=.*?faceresnet:score.*?</rdf:li>\n", after
    )
    without = after
    for item in ours:
        without = without.replace(item, "")
    if text is PLAIN:
        without = re.sub(
            r" <rdf:Description xmlns:rdf.*</rdf:Description>\n ", "", without, flags=re.S
        )
    assert without == text
    assert sidecar.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("naming", "beside", "message"),
    [
        ("full", ["a.xmp"], "faces are marked in a.xmp: use --naming stem"),
        ("full", ["a.xmp", "a.jpg.xmp"], None),  # it has one of its own
        ("full", ["a.xmp", "a.CR2"], None),  # the raw picture's
        ("stem", ["a.xmp", "a.CR2"], "its sidecar a.xmp is that of a.CR2 too: use --naming full"),
        ("stem", ["a.xmp", "b.cr2"], None),
    ],
)
def test_a_sidecar_of_the_other_name_is_not_hidden_nor_a_raw_picture_s_taken(
    tmp_path, naming, beside, message
):
    picture().save(tmp_path / "a.jpg")
    for name in beside:
        (tmp_path / name).write_text(NAMED)
    before = {path.name for path in tmp_path.iterdir()}
    options = TagOptions(naming=naming)
    if message is None:
        assert tag(tmp_path / "a.jpg", detections(), options).changed
    else:
        with pytest.raises(DataError, match=re.escape(message)):
            tag(tmp_path / "a.jpg", detections(), options)
        assert {path.name for path in tmp_path.iterdir()} == before


def test_a_read_only_photo_stays(tmp_path):
    pytest.importorskip("pyexiv2")
    photo = tmp_path / "a.jpg"
    picture().save(photo)
    before = photo.read_bytes()
    photo.chmod(0o444)
    with pytest.raises(ImageError, match="it is read-only"):
        tag(photo, detections(), TagOptions(embed=True))
    assert photo.read_bytes() == before


@pytest.mark.parametrize("options", [SIDECAR, EMBED], ids=["sidecar", "embed"])
def test_a_second_run_changes_nothing(tmp_path, options):
    if options.embed:
        pytest.importorskip("pyexiv2")
    path = tmp_path / "photo.jpg"
    picture().save(path, xmp=NAMED.encode())
    first = tag(path, detections(), options)
    content = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in tmp_path.iterdir()}
    again = tag(path, detections(), options)
    nearly = detections([(20.4, 30.3, 60.2, 79.8), (120, 40.5, 150, 90)], scores=[0.91, 0.52])
    third = tag(path, nearly, options)
    assert first.changed
    assert not again.changed
    assert not third.changed, "another machine rounds otherwise"
    assert {
        file: (file.read_bytes(), file.stat().st_mtime_ns) for file in tmp_path.iterdir()
    } == content


def test_our_own_regions_follow_what_is_found(tmp_path):
    path, sidecar = tmp_path / "photo.jpg", tmp_path / "photo.jpg.xmp"
    picture().save(path)
    for boxes in (BOXES, BOXES[:1], [(90, 10, 110, 30), *BOXES], [], BOXES):
        tag(path, detections(boxes), SIDECAR)
        found = packet.read_regions(sidecar.read_bytes())
        expected = [
            [round(v / s, 4) for v, s in zip(b, (200, 120) * 2, strict=True)] for b in boxes
        ]
        assert areas(found) == expected
        assert all(region.own for region in found)


def test_nothing_found_writes_nothing(tmp_path):
    path = tmp_path / "photo.jpg"
    picture().save(path)
    result = tag(path, detections([]), SIDECAR)
    assert (result.target, result.changed) == (None, False)
    assert os.listdir(tmp_path) == ["photo.jpg"]


def test_regions_of_others_stay_and_their_faces_are_not_doubled(tmp_path):
    path, sidecar = tmp_path / "photo.jpg", tmp_path / "photo.jpg.xmp"
    picture().save(path)
    sidecar.write_text(NAMED, encoding="utf-8")
    result = tag(path, detections(), SIDECAR)
    assert (result.faces, result.known, result.named) == (2, 1, 1)
    regions = packet.read_regions(sidecar.read_bytes())
    assert [(r.type, r.name, r.own) for r in regions] == [
        ("Face", "Anna & Co", False),
        ("Focus", "", False),
        ("Face", "", True),
    ]
    assert areas(regions)[2] == [0.6, 0.3333, 0.75, 0.75], "a focus point is no face"
    tag(path, detections([]), SIDECAR)
    assert [r.name for r in packet.read_regions(sidecar.read_bytes())] == ["Anna & Co", ""]


def test_a_region_of_ours_that_somebody_names_is_theirs(tmp_path):
    path, sidecar = tmp_path / "photo.jpg", tmp_path / "photo.jpg.xmp"
    picture().save(path)
    tag(path, detections(), SIDECAR)
    text = sidecar.read_text()
    sidecar.write_text(text.replace('mwg-rs:Type="Face"', 'mwg-rs:Type="Face" mwg-rs:Name="Bo"', 1))
    result = tag(path, detections([(22, 32, 62, 82)]), SIDECAR)
    assert (result.known, result.named) == (1, 1)
    assert [r.name for r in packet.read_regions(sidecar.read_bytes())] == ["Bo"]


@pytest.mark.parametrize(
    ("pattern", "changed"),
    [
        ('mwg-rs:Type="Face"', 'mwg-rs:Type="Face" mwg-rs:Description="Anna\'s aunt"'),
        ('mwg-rs:Type="Face"', 'mwg-rs:Type="Pet"'),
        ('stArea:w="0.200000"', 'stArea:w="0.220000"'),
        ('stArea:w="0.200000"', 'stArea:w="0.202000"'),
        ("</rdf:Description></rdf:li>", "<dc:x xmlns:dc='d'>1</dc:x></rdf:Description></rdf:li>"),
    ],
    ids=["described", "of another type", "moved", "moved a little", "extended"],
)
def test_a_region_of_ours_that_somebody_changes_is_theirs(tmp_path, pattern, changed):
    path, sidecar = tmp_path / "photo.jpg", tmp_path / "photo.jpg.xmp"
    picture().save(path)
    tag(path, detections(BOXES[:1]), SIDECAR)
    text = sidecar.read_text()
    assert pattern in text
    sidecar.write_text(text.replace(pattern, changed, 1))
    (theirs,) = packet.read_regions(sidecar.read_bytes())
    assert not theirs.own
    tag(path, detections(BOXES[1:]), SIDECAR)
    assert changed in sidecar.read_text()
    tag(path, detections([]), SIDECAR)
    assert packet.read_regions(sidecar.read_bytes()) == [theirs]


@pytest.mark.parametrize("digits", ["", "00"], ids=["shorter", "longer"])
def test_numbers_written_anew_are_no_change(tmp_path, digits):
    path, sidecar = tmp_path / "photo.jpg", tmp_path / "photo.jpg.xmp"
    picture().save(path)
    tag(path, detections(), SIDECAR)
    text = re.sub(r'(stArea:[xywh]="\d\.\d{5})\d', rf"\g<1>{digits}", sidecar.read_text())
    sidecar.write_text(text)
    assert all(region.own for region in packet.read_regions(sidecar.read_bytes()))


def test_a_new_sidecar_takes_over_what_the_photo_says(tmp_path):
    """Readers of the sidecar see its regions only."""
    path = tmp_path / "photo.jpg"
    picture().save(path, xmp=NAMED.encode())
    tag(path, detections(), SIDECAR)
    sidecar = (tmp_path / "photo.jpg.xmp").read_bytes()
    assert [r.name for r in packet.read_regions(sidecar)] == ["Anna & Co", "", ""]
    ElementTree.fromstring(sidecar)
    assert b'mwg-rs:Rotation="0.1"' in sidecar


def test_zeros_after_what_a_photo_says_are_no_part_of_it(tmp_path):
    path = tmp_path / "photo.jpg"
    picture().save(path, xmp=NAMED.encode() + b"\0")
    assert tag(path, detections(BOXES[:1]), SIDECAR).named == 1


def test_what_we_wrote_into_the_photo_is_not_taken_over(tmp_path):
    path = tmp_path / "photo.jpg"
    ours = packet.with_faces(None, [Region((0.7, 0.7, 0.9, 0.9), own=True)], SIZE)
    picture().save(path, xmp=ours)
    tag(path, detections(BOXES[:1]), SIDECAR)
    (region,) = packet.read_regions((tmp_path / "photo.jpg.xmp").read_bytes())
    assert region.box[0] < 0.5


AREA_SPACE = ' xmlns:stArea="http://ns.adobe.com/xmp/sType/Area#"'


@pytest.mark.parametrize(
    "text",
    [
        NAMED.replace("<rdf:li>\n       <rdf:Desc", f"<rdf:li{AREA_SPACE}>\n       <rdf:Desc"),
        NAMED.replace(f"\n    {AREA_SPACE}", "")
        .replace("stArea:", "a:")
        .replace("<rdf:Bag>\n      <rdf:li>\n", f"<rdf:Bag{AREA_SPACE}>\n      <rdf:li>\n")
        .replace("<rdf:Bag xmlns:stArea", "<rdf:Bag xmlns:a"),
        NAMED.replace(f"\n    {AREA_SPACE}", "")
        .replace("    xmlns:xmp=", f"   {AREA_SPACE} xmlns:xmp=")
        .replace("<dc:subject>", '<dc:subject xmlns:stArea="urn:other">'),
    ],
    ids=["on the item", "on the list", "elsewhere another"],
)
def test_namespaces_of_what_is_taken_over(tmp_path, text):
    path = tmp_path / "photo.jpg"
    picture().save(path, xmp=text.encode())
    tag(path, detections(), SIDECAR)
    sidecar = (tmp_path / "photo.jpg.xmp").read_bytes()
    others = packet.read_regions(text.encode())
    assert others[0].name == "Anna & Co"
    assert packet.read_regions(sidecar)[:2] == others
    ElementTree.fromstring(sidecar)


def test_a_region_without_a_prefix_is_taken_over_with_its_namespace(tmp_path):
    item = re.search(r"<rdf:li>\s*<rdf:Description mwg-rs:Rot.*?</rdf:li>", NAMED, re.S)[0]
    bare = item.replace("rdf:li>", "li>")
    text = NAMED.replace(item, bare).replace(
        "<rdf:Bag>\n      <li>", f'<rdf:Bag xmlns="{packet.RDF}">\n      <li>'
    )
    assert packet.read_regions(text.encode())[0].name == "Anna & Co"
    path = tmp_path / "photo.jpg"
    picture().save(path, xmp=text.encode())
    tag(path, detections(), SIDECAR)
    sidecar = (tmp_path / "photo.jpg.xmp").read_bytes()
    others = packet.read_regions(text.encode())
    assert packet.read_regions(sidecar)[: len(others)] == others


def test_a_region_that_would_be_lost_on_the_way_is_an_error(tmp_path, monkeypatch):
    path = tmp_path / "photo.jpg"
    picture().save(path, xmp=NAMED.encode())
    monkeypatch.setattr(packet, "_item", lambda *_: b"")
    with pytest.raises(DataError, match=r"photo\.jpg: .*without a loss"):
        tag(path, detections(), SIDECAR)
    assert os.listdir(tmp_path) == ["photo.jpg"]


def test_regions_in_another_kind_of_list_are_not_touched(tmp_path):
    path, sidecar = tmp_path / "photo.jpg", tmp_path / "photo.jpg.xmp"
    picture().save(path)
    head, regions = NAMED.split("<mwg-rs:RegionList>")
    text = f"{head}<mwg-rs:RegionList>{regions.replace('rdf:Bag', 'rdf:Alt')}"
    sidecar.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"photo\.jpg: .* neither rdf:Bag nor rdf:Seq"):
        tag(path, detections(), SIDECAR)
    assert sidecar.read_text(encoding="utf-8") == text


def test_faces_that_the_photo_names_itself_need_no_sidecar(tmp_path):
    path = tmp_path / "photo.jpg"
    picture().save(path, xmp=NAMED.encode())
    result = tag(path, detections(BOXES[:1]), SIDECAR)
    assert (result.target, result.known, result.named) == (None, 1, 1)
    assert os.listdir(tmp_path) == ["photo.jpg"]


def test_regions_of_a_picture_of_another_shape_are_not_touched(tmp_path):
    path, sidecar = tmp_path / "photo.jpg", tmp_path / "photo.jpg.xmp"
    picture().save(path)
    turned = NAMED.replace('stDim:w="200" stDim:h="120"', 'stDim:w="120" stDim:h="200"')
    sidecar.write_text(turned, encoding="utf-8")
    with pytest.raises(DataError, match=r"photo.jpg: its face regions were drawn on .* 120×200 px"):
        tag(path, detections(), SIDECAR)
    assert sidecar.read_text(encoding="utf-8") == turned
    half = NAMED.replace('stDim:w="200" stDim:h="120"', 'stDim:w="100" stDim:h="60"')
    sidecar.write_text(half, encoding="utf-8")
    assert tag(path, detections(), SIDECAR).changed, (
        "parts of a picture do not change with its size"
    )


@pytest.mark.parametrize(("width", "refused"), [(201, False), (210, True)])
def test_a_hundredth_of_difference_in_shape_is_rounding(tmp_path, width, refused):
    path, sidecar = tmp_path / "photo.jpg", tmp_path / "photo.jpg.xmp"
    picture().save(path)
    sidecar.write_text(NAMED.replace('stDim:w="200"', f'stDim:w="{width}"'), encoding="utf-8")
    if refused:
        with pytest.raises(DataError, match="drawn on a picture of 210×120 px"):
            tag(path, detections(), SIDECAR)
    else:
        assert tag(path, detections(), SIDECAR).changed


def test_regions_without_any_list_and_empty_lists(tmp_path):
    path, sidecar = tmp_path / "photo.jpg", tmp_path / "photo.jpg.xmp"
    picture().save(path)
    dimensions = re.search(r" *<mwg-rs:Applied.*?/>\n", NAMED)[0]
    bare = (
        NAMED[: NAMED.index("    <mwg-rs:RegionList>")]
        + NAMED[NAMED.index("   </mwg-rs:Regions>") :]
    )
    empty = re.sub(
        r"<rdf:Bag>\s*<rdf:li>\s*<rdf:Description mwg-rs:Rot.*?</rdf:Bag>",
        "<rdf:Bag/>",
        NAMED,
        flags=re.S,
    )
    self_closed = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#"/></x:xmpmeta>'
    for text in (bare, bare.replace(dimensions, ""), empty, self_closed):
        sidecar.write_text(text, encoding="utf-8")
        tag(path, detections(), SIDECAR)
        ElementTree.fromstring(sidecar.read_bytes())
        assert len(packet.read_regions(sidecar.read_bytes())) == 2, text
        assert not tag(path, detections(), SIDECAR).changed


@pytest.mark.parametrize(
    "text",
    ["", "no xml", "<a/>", "<x:xmpmeta", PLAIN[:400], PLAIN.encode("utf-16").decode("latin-1")],
)
def test_a_broken_sidecar_stays_and_is_named(tmp_path, text):
    path, sidecar = tmp_path / "photo.jpg", tmp_path / "photo.jpg.xmp"
    picture().save(path)
    sidecar.write_text(text, encoding="latin-1" if "\0" in text else "utf-8")
    before = sidecar.read_bytes()
    if not text:
        tag(path, detections(), SIDECAR)
        return
    with pytest.raises(DataError, match=r"photo\.jpg: in photo\.jpg\.xmp, its XMP "):
        tag(path, detections(), SIDECAR)
    assert sidecar.read_bytes() == before


# Embedding


def rich(path, **options):
    """A photo with everything in it."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Camera", 1
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 12.0)})
    exif.get_ifd(0x8769).update({0x927C: bytes(range(256))})
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture().save(path, exif=exif, icc_profile=profile, **options)
    import pyexiv2

    with pyexiv2.Image(str(path)) as image:
        image.modify_raw_xmp(NAMED)


def everything_else(path):
    """Pixels and all metadata that Exiv2 knows but our regions."""
    import pyexiv2

    with pyexiv2.ImageData(path.read_bytes()) as image:
        xmp = {key: value for key, value in image.read_xmp().items() if not key.startswith(MWG)}
        said = image.read_exif(), image.read_iptc(), image.read_comment(), image.read_icc(), xmp
    for moved in ("StripOffsets", "XMLPacket", "ExifTag", "GPSTag", "TileOffsets"):
        said[0].pop(f"Exif.Image.{moved}", None)
    with Image.open(path) as image:
        return said, np.asarray(image).tobytes()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_embedding_changes_the_regions_and_nothing_else(tmp_path, suffix):
    pyexiv2 = pytest.importorskip("pyexiv2")
    path = tmp_path / f"photo.{suffix}"
    options = {"comment": "a remark"} if suffix == "jpg" else {}
    rich(path, **options)
    if suffix == "jpg":
        with pyexiv2.Image(str(path)) as image:
            image.modify_iptc({"Iptc.Application2.Keywords": ["sea", "travel"]})
    os.chmod(path, 0o604)
    before = everything_else(path)
    assert tag(path, detections(), EMBED).changed
    assert everything_else(path) == before
    assert path.stat().st_mode & 0o777 == 0o604
    assert os.listdir(tmp_path) == [path.name]
    with pyexiv2.ImageData(path.read_bytes()) as image:
        regions = packet.read_regions(image.read_raw_xmp().encode())
    assert [(r.name, r.type) for r in regions] == [
        ("Anna & Co", "Face"),
        ("", "Focus"),
        ("", "Face"),
    ]


def test_the_compressed_scan_and_every_segment_of_a_jpeg_stay(tmp_path):
    """Also what follows the picture: second pictures and makers' trailers."""
    pytest.importorskip("pyexiv2")
    path = tmp_path / "photo.jpg"
    rich(path, progressive=True, comment="a remark")
    second = io.BytesIO()
    picture().save(second, "JPEG")
    with path.open("ab") as file:
        file.write(second.getvalue() + b"SEFT trailer")
    before = path.read_bytes()
    tag(path, detections(), EMBED)
    after = path.read_bytes()

    def segments(data):
        at = 2
        while data[at + 1] != 0xDA:
            length = int.from_bytes(data[at + 2 : at + 4], "big")
            if b"adobe.com/xap" not in data[at : at + 40]:
                yield data[at : at + 2 + length]
            at += 2 + length
        yield data[at:]

    assert list(segments(after)) == list(segments(before))
    assert before != after


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_embedding_into_a_photo_that_says_nothing(tmp_path, suffix):
    pytest.importorskip("pyexiv2")
    path = tmp_path / f"photo.{suffix}"
    picture().save(path)
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert tag(path, detections(), EMBED).target == path
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), pixels)
        regions = packet.read_regions(image.info["xmp"].strip(b"\0"))
    assert [region.own for region in regions] == [True, True]
    assert not tag(path, detections(), EMBED).changed


def test_photos_that_hold_no_xmp_are_named_and_stay(tmp_path):
    pytest.importorskip("pyexiv2")
    for name in ("photo.bmp", "photo.gif"):
        picture().save(tmp_path / name)
        before = (tmp_path / name).read_bytes()
        with pytest.raises(ImageError, match=f"{name}: .*use --sidecar"):
            tag(tmp_path / name, detections(), EMBED)
        assert (tmp_path / name).read_bytes() == before
        assert tag(tmp_path / name, detections(), SIDECAR).changed


def test_more_faces_than_a_jpeg_holds(tmp_path):
    pytest.importorskip("pyexiv2")
    path = tmp_path / "crowd.jpg"
    picture((600, 900)).save(path, quality=30)
    before = path.read_bytes()
    boxes = [(x, y, x + 9, y + 9) for x in range(0, 890, 20) for y in range(0, 590, 20)]
    crowd = detections(boxes, (600, 900))
    with pytest.raises(ImageError, match=r"bytes of XMP do not fit into a JPEG file.*--sidecar"):
        tag(path, crowd, EMBED)
    assert path.read_bytes() == before
    assert tag(path, crowd, SIDECAR).changed
    assert len(packet.read_regions((tmp_path / "crowd.jpg.xmp").read_bytes())) == len(boxes)


@pytest.mark.parametrize(
    ("padding", "filler"), [(70_000, 0), (0, 62_000)], ids=["room at its end", "nearly full"]
)
def test_a_jpeg_holds_what_fits_into_one_segment(padding, filler):
    pytest.importorskip("pyexiv2")
    from faceresnet.apps.tag import embedding

    said = re.sub('rdf:about="[^"]*"', 'rdf:about=""', PLAIN)
    said = said.replace("Reise", "x" * filler + "Reise")
    said = said.replace("<?xpacket end", " " * padding + "<?xpacket end").encode()
    file = io.BytesIO()
    picture().save(file, "JPEG")
    with Image.open(io.BytesIO(embedding.write_packet(file.getvalue(), said))) as image:
        assert b"xReise" in image.info["xmp"] or not filler


def test_what_exiv2_would_lose_is_not_written(tmp_path, monkeypatch):
    pytest.importorskip("pyexiv2")
    from faceresnet.apps.tag import embedding

    path = tmp_path / "photo.jpg"
    rich(path)
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(embedding, "_with_own_parts", lambda photo, written: written[:-2] + b"\0\0")
        with pytest.raises(ImageError, match="change more than its XMP: use --sidecar"):
            tag(path, detections(), EMBED)
    with monkeypatch.context() as patch:
        answers = iter("ab")
        patch.setattr(embedding, "_statements", lambda said: next(answers))
        with pytest.raises(ImageError, match="lose some of its other XMP: use --sidecar"):
            tag(path, detections(), EMBED)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["photo.jpg"]


@pytest.mark.parametrize("what", ["pixels", "Exif"])
def test_a_photo_of_which_exiv2_would_change_anything_else_stays(tmp_path, monkeypatch, what):
    pytest.importorskip("pyexiv2")
    from faceresnet.apps.tag import embedding

    exif = Image.Exif()
    exif[0x013B] = "Anna Example"
    path = tmp_path / "photo.tif"
    picture().save(path, exif=exif)
    before = path.read_bytes()
    part = np.asarray(picture())[5].tobytes() if what == "pixels" else b"Anna Example"
    assert part in before

    def spoilt(photo, written):
        return written.replace(part, part[::-1])

    monkeypatch.setattr(embedding, "_with_own_parts", spoilt)
    with pytest.raises(ImageError, match="change more than its XMP: use --sidecar"):
        tag(path, detections(), EMBED)
    assert path.read_bytes() == before


def test_times_and_links(tmp_path):
    pytest.importorskip("pyexiv2")
    path = tmp_path / "real" / "photo.jpg"
    path.parent.mkdir()
    picture().save(path)
    os.utime(path, (1_000_000_000, 1_000_000_000))
    link = tmp_path / "link.jpg"
    link.symlink_to(path)
    tag(link, detections(), TagOptions(embed=True, keep_times=True))
    assert link.is_symlink()
    assert path.stat().st_mtime == 1_000_000_000
    with Image.open(path) as image:
        assert packet.read_regions(image.info["xmp"].strip(b"\0"))
    tag(link, detections(BOXES[:1]), EMBED)
    assert path.stat().st_mtime > 1_000_000_000


@pytest.mark.parametrize("options", [SIDECAR, EMBED], ids=["sidecar", "embed"])
def test_extended_attributes_stay(tmp_path, options):
    """KDE keeps tags and ratings there."""
    path = tmp_path / "photo.jpg"
    picture().save(path)
    target = path if options.embed else tmp_path / "photo.jpg.xmp"
    if options.embed:
        pytest.importorskip("pyexiv2")
    else:
        target.write_text(PLAIN, encoding="utf-8")
    try:
        os.setxattr(target, "user.xdg.tags", b"sea")
    except (AttributeError, OSError) as error:
        pytest.skip(f"no extended attributes here: {error}")
    os.utime(target, (1_000_000_000, 1_000_000_000))
    assert tag(path, detections(), options).changed
    assert os.getxattr(target, "user.xdg.tags") == b"sea"
    assert target.stat().st_mtime > 1_000_000_000


def test_wrong_faces_and_photos_are_refused(tmp_path):
    picture().save(tmp_path / "photo.jpg")
    with pytest.raises(
        DataError,
        match=r"photo.jpg: these faces were found in a picture of \(height, width\) \(200, 120\)",
    ):
        tag(tmp_path / "photo.jpg", detections([], (200, 120)), SIDECAR)
    (tmp_path / "text.jpg").write_text("no photo")
    for name in ("text.jpg", "gone.jpg"):
        with pytest.raises(ImageError, match=name):
            tag(tmp_path / name, detections(), SIDECAR)


def test_the_extra_is_named_where_it_is_missing(tmp_path, monkeypatch):
    from faceresnet import MissingExtraError

    picture().save(tmp_path / "photo.jpg")
    monkeypatch.setitem(__import__("sys").modules, "pyexiv2", None)
    with pytest.raises(MissingExtraError, match=r"pip install -c constraints.txt '\.\[tag\]'"):
        tag(tmp_path / "photo.jpg", detections(), EMBED)
    assert tag(tmp_path / "photo.jpg", detections(), SIDECAR).changed, "sidecars need nothing"


# Packets


@given(st.text(max_size=40), st.integers(0, 3), st.booleans())
@settings(deadline=None, max_examples=60)
def test_any_packet_keeps_its_other_bytes(text, faces, named):
    said = re.sub(r"[^\x20-\ud7ff\ue000-\ufffd]", "", text)
    said = said.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    before = (NAMED if named else PLAIN).replace("Reise", said).encode()
    found = [Region((0.5 + n / 10, 0.8, 0.55 + n / 10, 0.9), own=True) for n in range(faces)]
    after = packet.with_faces(before, found, SIZE)
    assert sum(region.own for region in packet.read_regions(after)) == faces
    assert packet.with_faces(after, found, SIZE) == after
    cleared = packet.with_faces(after, [], SIZE)
    assert sum(region.own for region in packet.read_regions(cleared)) == 0
    if named or not faces:
        assert cleared == before


def test_a_region_around_the_whole_head_means_its_face():
    head = [Region((0, 0, 0.3, 0.3), name="A")]
    face, part = Region((0.05, 0.05, 0.25, 0.25)), Region((0.05, 0.05, 0.2, 0.2))
    assert unmatched([face, part], head) == [part]  # IoU 0.44 and 0.25


def test_lists_are_the_same_if_every_region_is_nearly_that_of_the_other():
    one, near, smaller, other = (
        Region((x, 0, x + 0.1, height))
        for x, height in ((0, 0.1), (0, 0.095), (0, 0.08), (0.5, 0.1))
    )
    assert same([one], [near])
    assert not same([one], [smaller])
    assert not same([one, other], [one, near])
    assert not same([one, near], [one, other])


def test_faces_are_matched_by_overlap():
    there = [Region((0, 0, 0.2, 0.2), name="A"), Region((0.5, 0.5, 0.6, 0.6), type="Focus")]
    faces = [
        Region((0.02, 0.02, 0.18, 0.2)),
        Region((0.5, 0.5, 0.6, 0.6)),
        Region((0.15, 0.15, 0.4, 0.4)),
    ]
    assert unmatched(faces, there) == faces[1:]
    assert unmatched(faces, []) == faces
    assert unmatched([], there) == []
    assert same([], [])
    assert not same(faces[:1], [])
    assert same(faces[:2], faces[1::-1])
    assert not same(faces[:2], faces[1:])


def test_xmp_that_exiv2_cannot_read_is_left_as_it_is(tmp_path):
    pytest.importorskip("pyexiv2")
    path = tmp_path / "photo.jpg"
    picture().save(path, xmp=NAMED.replace("rdf:", "r:").replace("xmlns:rdf", "xmlns:r").encode())
    before = path.read_bytes()
    with pytest.raises(ImageError, match="would lose some of its other XMP: use --sidecar"):
        tag(path, detections(), TagOptions(embed=True))
    assert path.read_bytes() == before
