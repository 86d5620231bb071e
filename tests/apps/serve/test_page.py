"""The page in a real browser: photos in, boxes over them, slider, downloads, keyboard, webcam."""

import base64
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import blob_image
from faceresnet import FaceDetector

from .conftest import Server, encode

sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
expect = sync_api.expect

CHROMIUM = os.environ.get("FACERESNET_CHROMIUM", "/usr/bin/chromium")
#: (height, width) px, and blobs of four scores.
SIZE = (240, 320)
BLOBS = [(84, 84, 18), (132, 84, 14), (180, 84, 22), (236, 84, 16)]
TIMEOUT_MS = 30_000


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not Path(CHROMIUM).exists():
        pytest.skip("apt install chromium")
    camera = tmp_path_factory.mktemp("camera") / "camera.y4m"
    camera.write_bytes(clip(blob_image((240, 320), (84, 84, 42))))
    arguments = [
        *("--headless", "--no-sandbox", "--use-fake-ui-for-media-stream"),
        *("--use-fake-device-for-media-stream", f"--use-file-for-fake-video-capture={camera}"),
    ]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


def clip(image, frames=4):
    """An uncompressed video of one image, which Chromium takes for a webcam."""
    height, width = image.shape[:2]
    y, cb, cr = (np.asarray(band) for band in Image.fromarray(image).convert("YCbCr").split())
    y, cb, cr = (16 + y * (219 / 255), 128 + (cb - 128.0) * 0.875, 128 + (cr - 128.0) * 0.875)
    planes = [y, cb[::2, ::2], cr[::2, ::2]]
    frame = b"FRAME\n" + b"".join(plane.round().astype(np.uint8).tobytes() for plane in planes)
    return f"YUV4MPEG2 W{width} H{height} F10:1 Ip A1:1 C420mpeg2\n".encode() + frame * frames


@pytest.fixture
def page(browser, server):
    """The page; afterwards it has asked no other host for anything, and had no error."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    context.set_default_timeout(TIMEOUT_MS)
    expect.set_options(timeout=TIMEOUT_MS)
    page = context.new_page()
    asked, wrong = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "console",
        lambda message: message.type in ("error", "warning") and wrong.append(message.text),
    )
    page.wrong = wrong
    page.goto(server.address)
    expect(page.locator("#model")).to_have_text("blob")
    yield page
    others = [url for url in asked if not url.startswith((f"{server.address}/", "blob:"))]
    context.close()
    assert not others
    assert not wrong


@pytest.fixture(scope="module")
def blobs():
    return encode(blob_image(SIZE, *BLOBS), "PNG")


def file(name, content, kind="image/png"):
    return {"name": name, "mimeType": kind, "buffer": content}


def choose(page, *files):
    page.set_input_files("#files", list(files))


def boxes(page):
    return page.locator(".photo .box:visible")


def slide(page, value):
    page.locator("#threshold").fill(str(value))


def test_a_photo_and_its_boxes(page, blobs, blob_model):
    """Boxes lie where the detector found faces, at whatever size the page shows the photo."""
    choose(page, file("blobs.png", blobs))
    expect(boxes(page)).to_have_count(4)
    expect(page.locator(".found").last).to_have_text("4 faces")
    expect(page.locator("#total")).to_have_text("4 faces in 1 photo")
    assert "320 × 240 px" in page.locator(".timing").inner_text()
    expected = FaceDetector(blob_model, threads=1)(blobs)
    for width in (1200, 360):
        page.set_viewport_size({"width": width, "height": 800})
        page.wait_for_timeout(200)
        photo = page.locator(".photo img").bounding_box()
        scale = photo["width"] / SIZE[1]
        for number, (box, score) in enumerate(expected):
            shown = boxes(page).nth(number).bounding_box()
            corners = [shown["x"] - photo["x"], shown["y"] - photo["y"]]
            corners += [corners[0] + shown["width"], corners[1] + shown["height"]]
            assert np.abs(np.array(corners) - box * scale).max() < 2
            assert boxes(page).nth(number).inner_text() in (f"{score:.2f}", "")


def test_the_slider_filters_at_once(page, blobs):
    choose(page, file("blobs.png", blobs))
    expect(boxes(page)).to_have_count(4)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    for value, left in ((0.95, 2), (0.92, 3), (1, 1), (0.05, 4)):
        slide(page, value)
        assert boxes(page).count() == left
        expect(page.locator("#threshold-value")).to_have_text(f"{value:.2f}")
        expect(page.locator("#total")).to_have_text(f"{left} face{'s' * (left != 1)} in 1 photo")
    assert not asked


def test_several_photos_and_their_removal(page, blobs):
    one = encode(blob_image((96, 96), (52, 52, 28)), "JPEG")
    choose(page, file("a.png", blobs), file("b.jpg", one, "image/jpeg"))
    expect(page.locator("#total")).to_have_text("5 faces in 2 photos")
    assert page.locator(".photo h3").all_inner_texts() == ["b.jpg", "a.png"]
    page.get_by_role("button", name="Remove a.png").click()
    expect(page.locator("#total")).to_have_text("1 face in 1 photo")
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#total")).to_have_text("No photo yet")
    assert page.locator(".photo").count() == 0


def transfer(page, content, name="dropped.png", kind="image/png"):
    """A DataTransfer with a file, as drops and pastes bring it."""
    return page.evaluate_handle(
        """([bytes, name, type]) => {
            const transfer = new DataTransfer();
            const content = Uint8Array.from(atob(bytes), (letter) => letter.charCodeAt(0));
            transfer.items.add(new File([content], name, { type }));
            return transfer;
        }""",
        [base64.b64encode(content).decode(), name, kind],
    )


def test_drop(page, blobs):
    dropped = transfer(page, blobs)
    page.dispatch_event("#drop", "dragenter", {"dataTransfer": dropped})
    expect(page.locator("#drop")).to_contain_class("over")
    page.dispatch_event("#drop", "drop", {"dataTransfer": dropped})
    expect(page.locator("#drop")).not_to_contain_class("over")
    expect(boxes(page)).to_have_count(4)
    assert page.locator(".photo h3").inner_text() == "dropped.png"


def test_paste(page, blobs):
    pasted = transfer(page, blobs, "pasted.png")
    page.evaluate(
        "data => document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data }))",
        pasted,
    )
    expect(boxes(page)).to_have_count(4)


def test_a_file_that_is_no_photo(page, blobs):
    choose(page, file("notes.jpg", b"hello", "image/jpeg"), file("blobs.png", blobs))
    expect(page.locator(".photo.failed .found")).to_contain_text("This is no photo")
    expect(page.locator("#total")).to_have_text("4 faces in 1 photo")
    assert page.get_by_role("button", name="JSON of notes.jpg").is_disabled()
    # The browser itself notes that an answer was a refusal.
    assert [text for text in page.wrong if "415" in text] == page.wrong
    page.wrong.clear()


def test_a_kind_of_photo_that_the_browser_cannot_show(page):
    content = encode(blob_image(SIZE, *BLOBS), "TIFF")
    choose(page, file("scan.tif", content, "image/tiff"))
    expect(boxes(page)).to_have_count(4)


def test_downloads(page, blobs):
    choose(page, file("blobs.png", blobs))
    expect(boxes(page)).to_have_count(4)
    slide(page, 0.95)
    with page.expect_download() as saved:
        page.get_by_role("button", name="JSON of blobs.png").click()
    assert saved.value.suggested_filename == "blobs.json"
    found = json.loads(Path(saved.value.path()).read_text())
    assert (found["width"], found["height"], found["threshold"]) == (320, 240, 0.95)
    assert [face["score"] >= 0.95 for face in found["faces"]] == [True, True]
    with page.expect_download() as saved:
        page.get_by_role("button", name="All as JSON").click()
    everything = json.loads(Path(saved.value.path()).read_text())
    assert everything == {"model": "blob", "threshold": 0.95, "images": [found]}
    with page.expect_download() as saved:
        page.get_by_role("button", name="Image with boxes of blobs.png").click()
    assert saved.value.suggested_filename == "blobs-faces.png"
    drawn = np.asarray(Image.open(saved.value.path()).convert("RGB"))
    before = np.asarray(Image.open(io.BytesIO(blobs)).convert("RGB"))
    assert drawn.shape == before.shape
    changed = np.argwhere((drawn != before).any(axis=2))
    corners = np.array([face["box"] for face in found["faces"]])
    assert abs(changed[:, 0].max() - corners[:, 3].max()) <= 2
    assert abs(changed[:, 1].min() - corners[:, 0].min()) <= 2


def test_the_table_of_boxes(page, blobs):
    choose(page, file("blobs.png", blobs))
    expect(boxes(page)).to_have_count(4)
    page.get_by_text("Boxes", exact=True).click()
    expect(page.locator(".photo tbody tr")).to_have_count(4)
    slide(page, 0.95)
    expect(page.locator(".photo tbody tr")).to_have_count(2)


def test_with_the_keyboard_alone(page, blobs):
    """Tab to the file dialogue, choose, tab to the slider, filter, tab to a download."""

    def tab_to(condition):
        for _ in range(20):
            page.keyboard.press("Tab")
            if page.evaluate(f"() => document.activeElement.matches({json.dumps(condition)})"):
                return
        raise AssertionError(f"the keyboard does not reach {condition}")

    page.on("filechooser", lambda chooser: None)  # from here on Playwright takes the dialogue
    tab_to("#files")
    outline = page.locator("label[for=files]").evaluate("e => getComputedStyle(e).outlineStyle")
    assert outline == "solid"  # where the keyboard is can be seen
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files([file("blobs.png", blobs)])
    expect(boxes(page)).to_have_count(4)
    tab_to("#threshold")
    page.keyboard.press("End")
    expect(boxes(page)).to_have_count(1)  # the one whose score is rounded to 1
    page.keyboard.press("Home")
    expect(boxes(page)).to_have_count(4)
    tab_to(".save-json")
    with page.expect_download():
        page.keyboard.press("Enter")
    tab_to(".remove")
    page.keyboard.press("Space")
    expect(page.locator(".photo")).to_have_count(0)


def test_everything_has_a_name(page, blobs):
    """What a screen reader reads: every control and picture has a name of its own."""
    choose(page, file("blobs.png", blobs))
    expect(boxes(page)).to_have_count(4)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, a, video, .photo img")]
            .filter((e) => !(e.getAttribute("aria-label") || e.textContent.trim() || e.alt
                || e.labels?.length))
            .map((e) => e.outerHTML)"""
    )
    assert nameless == []
    assert page.locator("#total").get_attribute("aria-live") == "polite"


def test_the_webcam(page):
    page.get_by_role("button", name="Use the webcam").click()
    expect(page.locator("#camera .box")).to_have_count(1)
    expect(page.locator("#camera-found")).to_contain_text("1 face · ")
    slide(page, 1)
    expect(page.locator("#camera .box:visible")).to_have_count(0)
    slide(page, 0.5)
    page.get_by_role("button", name="Take a photo").click()
    expect(page.locator(".photo h3")).to_have_text("webcam-1.jpg")
    expect(boxes(page)).to_have_count(1)
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#camera")).to_be_hidden()


def test_light_and_dark(page):
    def background():
        return page.evaluate("() => getComputedStyle(document.body).backgroundColor")

    light = background()
    page.get_by_role("button", name="Dark").click()
    dark = background()
    assert light != dark
    page.reload()
    assert background() == dark
    page.get_by_role("button", name="Light").click()
    assert background() == light


def test_the_documentation(page):
    page.get_by_role("link", name="API", exact=True).click()
    expect(page.locator("#post-v1-detect h2")).to_contain_text("/v1/detect")
    expect(page.locator("#post-v1-detect")).to_contain_text("image_too_large")
    expect(page.locator("#post-v1-detect pre").first).to_contain_text("curl -F file=@photo.jpg")
    expect(page.locator("#schema-Face")).to_contain_text("x1, y1, x2, y2")


def test_a_service_that_asks_for_a_key(browser, blob_model, blobs):
    server = Server(
        *("--model", blob_model, "--threads", "1"),
        environment={"FACERESNET_API_KEY": "open sesame"},
    ).wait_until_ready()
    try:
        context = browser.new_context()
        context.set_default_timeout(TIMEOUT_MS)
        page = context.new_page()
        page.goto(server.address)
        page.get_by_label("API key").fill("wrong")
        page.keyboard.press("Enter")
        page.get_by_label("API key").fill("open sesame")
        page.keyboard.press("Enter")
        expect(page.locator("#model")).to_have_text("blob")
        choose(page, file("blobs.png", blobs))
        expect(boxes(page)).to_have_count(4)
        context.close()
    finally:
        server.end()
