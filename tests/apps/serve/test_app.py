"""What the routes answer: faces, and every refusal with its status and code."""

import asyncio
import io
import json
import time

import numpy as np
import pytest
from PIL import Image

from conftest import blob_image
from faceresnet.apps.serve import photos
from faceresnet.apps.serve.app import create_app
from faceresnet.apps.serve.connections import Unread
from faceresnet.apps.serve.refusals import REFUSALS
from faceresnet.apps.serve.settings import Settings

from .conftest import Client, call, encode, grey, running, wait_for

JPEG = {"Content-Type": "image/jpeg"}


def code(response):
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert error["message"]
    assert REFUSALS[error["code"]][0] == response.status_code
    return response.status_code, error["code"]


def test_one_photo_in_a_form(blobs, photo, blob_detector):
    answer = blobs.post("/v1/detect", files={"file": ("party.jpg", photo)})
    assert answer.status_code == 200
    found = answer.json()
    (image,) = found["images"]
    assert image["image"] == "party.jpg"
    expected = blob_detector(photo).to_dict()
    assert {name: image[name] for name in expected} == expected
    assert len(image["faces"]) == 2
    assert (found["model"], found["threshold"]) == ("blob", 0.5)
    assert all(value >= 0 for value in [*image["timing_ms"].values(), found["timing_ms"]["total"]])


def test_one_photo_as_the_body(blobs, photo):
    for headers in (JPEG, {"Content-Type": "application/octet-stream"}, {}):
        answer = blobs.post("/v1/detect", content=photo, headers=headers)
        assert answer.status_code == 200
        assert len(answer.json()["images"][0]["faces"]) == 2
        assert answer.json()["images"][0].get("image") is None


def test_several_photos_stay_in_their_order(blobs, photo):
    files = [("file", ("b.png", grey(40, 64))), ("other", ("a.jpg", photo))]
    found = blobs.post("/v1/detect", files=files).json()["images"]
    assert [(image["image"], len(image["faces"])) for image in found] == [
        ("b.png", 0),
        ("a.jpg", 2),
    ]
    assert [(image["height"], image["width"]) for image in found] == [(40, 64), (96, 200)]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF"])
def test_kinds_of_photo(blobs, kind):
    content = encode(blob_image((96, 96), (52, 52, 28)), kind)
    answer = blobs.post("/v1/detect", content=content)
    assert answer.status_code == 200
    assert len(answer.json()["images"][0]["faces"]) == 1


def test_a_photo_that_lies_on_its_side(blobs):
    """Boxes are in px of the photo as browsers show it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    content = io.BytesIO()
    Image.fromarray(blob_image((96, 200), (36, 36, 18))).save(content, "JPEG", exif=exif)
    (image,) = blobs.post("/v1/detect", content=content.getvalue()).json()["images"]
    assert (image["width"], image["height"]) == (96, 200)
    x1, y1, x2, y2 = image["faces"][0]["box"]
    assert np.hypot((x1 + x2) / 2 - 60, (y1 + y2) / 2 - 36) < 4


def test_threshold(blobs, photo):
    faces = blobs.post("/v1/detect?threshold=0", content=photo).json()
    assert faces["threshold"] == 0
    scores = [face["score"] for face in faces["images"][0]["faces"]]
    assert len(scores) > 2
    assert blobs.post("/v1/detect?threshold=1", content=photo).json()["images"][0]["faces"] == []


def test_the_services_own_threshold(serve):
    answer = serve(threshold=0.2).post("/v1/detect", content=grey(32, 32))
    assert answer.json()["threshold"] == 0.2


def test_max_side_reduces_and_boxes_stay(serve, fake):
    client = serve(max_side=100)
    (image,) = client.post("/v1/detect?max_side=64", content=grey(100, 200)).json()["images"]
    assert fake.batches == [[(32, 64)]]
    assert (image["height"], image["width"]) == (100, 200)
    assert image["faces"][0]["box"] == [50, 25, 100, 50]
    client.post("/v1/detect?max_side=5000", content=grey(100, 200))
    assert fake.batches[1] == [(50, 100)]


@pytest.mark.parametrize(
    "query", ["threshold=2", "threshold=-0.1", "threshold=x", "threshold=nan", "max_side=0"]
)
def test_parameters_out_of_range(blobs, photo, query):
    assert code(blobs.post(f"/v1/detect?{query}", content=photo)) == (422, "invalid_request")


def test_bodies_that_are_too_large(blobs, photo):
    large = photo + bytes(400_000)
    assert code(blobs.post("/v1/detect", content=large)) == (413, "body_too_large")
    assert code(blobs.post("/v1/detect", files={"f": large})) == (413, "body_too_large")


@pytest.mark.parametrize(("size", "status"), [(1_000, 422), (150_000, 413)])
def test_photos_in_json(blobs, size, status):
    answer = blobs.post("/v1/detect", json={"image": "A" * size})
    assert answer.status_code == status
    assert "photos do not travel in JSON: send them as a form" in answer.json()["error"]["message"]


def test_photos_that_are_too_large(blobs):
    """1,000,000 pixels are allowed; one more is not, and it is not decoded."""
    assert blobs.post("/v1/detect", content=grey(1000, 1000)).status_code == 200
    assert code(blobs.post("/v1/detect", content=grey(1000, 1001))) == (413, "image_too_large")


def test_too_many_photos(blobs, photo):
    for count, status in ((4, 200), (5, 413), (50, 413)):
        answer = blobs.post("/v1/detect", files=[("file", (f"{n}", photo)) for n in range(count)])
        assert answer.status_code == status
    assert code(answer) == (413, "too_many_images")


@pytest.mark.parametrize("kind", ["text/plain", "video/mp4", "application/x-www-form-urlencoded"])
def test_bodies_of_a_wrong_type(blobs, photo, kind):
    answer = blobs.post("/v1/detect", content=photo, headers={"Content-Type": kind})
    assert code(answer) == (415, "unsupported_type")


@pytest.mark.parametrize(
    "content",
    [
        b"hello",
        b"%PDF-1.7",
        b"%!PS-Adobe-3.0 EPSF-3.0",
        b"<svg xmlns=''/>",
        bytes(100),
        b"PK\x03\x04",
    ],
)
def test_files_of_a_wrong_type(blobs, content):
    answer = blobs.post("/v1/detect", files={"file": ("photo.jpg", content)})
    assert code(answer) == (415, "unsupported_type")
    assert answer.json()["error"]["index"] == 0
    assert answer.json()["error"]["image"] == "photo.jpg"


def test_a_broken_photo_is_named(blobs, photo):
    files = [("file", ("good.jpg", photo)), ("file", ("../half.jpg", photo[: len(photo) // 2]))]
    answer = blobs.post("/v1/detect", files=files)
    assert code(answer) == (422, "unreadable_image")
    assert answer.json()["error"]["index"] == 1
    assert answer.json()["error"]["image"] == "half.jpg"


def test_no_photo(blobs):
    assert code(blobs.post("/v1/detect", content=b"")) == (422, "no_image")
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    assert code(blobs.post("/v1/detect", content=b"--x--\r\n", headers=form)) == (422, "no_image")


def test_options_do_not_belong_into_the_form(blobs, photo):
    answer = blobs.post("/v1/detect", files={"file": photo}, data={"threshold": "0.3"})
    assert code(answer) == (422, "invalid_request")
    assert "?threshold=" in answer.json()["error"]["message"]


@pytest.mark.parametrize("size", [100, 20_000])
def test_a_photo_in_a_form_needs_a_filename(blobs, size):
    """One that is written with an asterisk alone is none, by RFC 7578 §4.2."""
    part = b"Content-Disposition: form-data; name=file; filename*=utf-8''a.jpg\r\n\r\n"
    body = b"--x\r\n" + part + b"\xff" * size + b"\r\n--x--\r\n"
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = blobs.post("/v1/detect", content=body, headers=form)
    assert code(answer) == (422, "invalid_request")
    assert "a photo's part needs a filename" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"--x\r\n"),
        ("multipart/form-data; boundary=x", b"no boundary here"),
        (
            "multipart/form-data; boundary=x",
            b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--",
        ),
        ("multipart/form-data; boundary=x", b"--x\r\n" + b"A" * 50_000),
        ("multipart/form-data; boundary=" + "x" * 5000, b"--x--"),
        ("multipart/form-data; boundary=x; charset=nonsense", b"--y"),
        ("application/json", b"{"),
        ("application/json", b"[" * 90_000),
        ("application/json", b'{"url": 3}'),
        ("application/json", b'{"urls": []}'),
        ("application/json", b'{"urls": ["http://example.org", 7]}'),
        ("application/json", b'{"url": "http://example.org", "threshold": 1}'),
        ("application/json", b"\xff\xfe"),
    ],
)
def test_broken_forms_and_json(blobs, kind, body):
    answer = blobs.post("/v1/detect", content=body, headers={"Content-Type": kind})
    assert answer.status_code == 422
    assert code(answer)[1] in ("invalid_request", "no_image")


@pytest.mark.parametrize("charset", ["undefined", "punycode"])
def test_names_that_are_not_in_the_forms_charset(blobs, charset):
    body = b'--x\r\nContent-Disposition: form-data; name="a..\xff"; filename="b"\r\n\r\n1\r\n--x--'
    form = {"Content-Type": f"multipart/form-data; boundary=x; charset={charset}"}
    answer = blobs.post("/v1/detect", content=body, headers=form)
    assert code(answer) == (422, "invalid_request")
    assert "utf-8" in answer.json()["error"]["message"]


def test_addresses_are_off_by_default(blobs):
    answer = blobs.post("/v1/detect", json={"url": "http://127.0.0.1/photo.jpg"})
    assert code(answer) == (403, "url_disabled")


def test_too_many_addresses(serve):
    answer = serve(fetch_urls=True).post("/v1/detect", json={"urls": ["http://x"] * 17})
    assert code(answer) == (413, "too_many_images")


def test_unknown_paths_and_methods(blobs):
    assert code(blobs.get("/v2/detect")) == (404, "not_found")
    assert code(blobs.get("/page/../app.py")) == (404, "not_found")
    assert code(blobs.get("/page/__init__.py")) == (404, "not_found")
    answer = blobs.get("/v1/detect")
    assert code(answer) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


def test_keys(serve, photo):
    client = serve(api_keys=("right", "other"))
    wrong = ["wrong", "righ", "right2", b"r\xefght", ""]
    refused = [{"X-API-Key": key} for key in wrong] + [{}, {"Authorization": "Basic right"}]
    for headers in refused:
        answer = client.post("/v1/detect", content=photo, headers=headers)
        assert code(answer) == (401, "missing_key")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert client.get("/v1/models", headers=headers).status_code == 401
    for headers in ({"X-API-Key": "right"}, {"Authorization": "Bearer other"}):
        assert client.post("/v1/detect", content=photo, headers=headers).status_code == 200
    for path in ("/", "/docs", "/openapi.json", "/healthz", "/readyz", "/metrics"):
        assert client.get(path).status_code == 200


def test_other_origins_are_refused_by_default(serve):
    origin = {"Origin": "https://example.org"}
    assert "access-control-allow-origin" not in serve().get("/v1/models", headers=origin).headers
    client = serve(allow_origins=("https://example.org",))
    allowed = client.get("/v1/models", headers=origin).headers["access-control-allow-origin"]
    assert allowed == "https://example.org"
    other = client.get("/v1/models", headers={"Origin": "https://example.com"})
    assert "access-control-allow-origin" not in other.headers


def test_models_and_limits(blobs):
    found = blobs.get("/v1/models").json()
    assert found["models"][0]["name"] == "blob"
    assert found["models"][0]["measured"] == {"AP VGA blobs": 1.0}
    assert found["limits"]["max_pixels"] == 1_000_000


def test_not_ready_before_the_model_is_loaded(fake):
    """The warm-up is one of the detector's batches."""
    fake.gate.clear()
    with Client(create_app(Settings(), lambda: fake)) as client:
        fake.entered.wait(10)
        assert client.get("/healthz").json() == {"status": "ok"}
        for answer in (client.get("/readyz"), client.post("/v1/detect", content=grey(8, 8))):
            assert code(answer) == (503, "not_ready")
            assert answer.headers["retry-after"] == "1"
        fake.gate.set()
        wait_for(lambda: client.get("/readyz").status_code == 200)


def test_a_model_that_cannot_be_loaded():
    def load():
        raise OSError("no such model")

    with Client(create_app(Settings(), load)) as client:
        wait_for(lambda: "no such model" in client.get("/readyz").text)
        assert client.get("/healthz").status_code == 200


def test_a_detector_that_fails(serve, fake):
    def fails(image):
        if image.shape[0] == 40:
            raise RuntimeError("out of order")

    client = serve()
    fake.fails = fails
    answer = client.post("/v1/detect", content=grey(40, 40))
    assert code(answer) == (500, "detector_failed")
    assert "out of order" not in answer.text
    assert client.post("/v1/detect", content=grey(32, 32)).status_code == 200


def test_a_bug_is_answered_in_the_same_layout(serve, monkeypatch):
    client = serve()
    monkeypatch.setattr("faceresnet.apps.serve.app._describe", lambda *_: 1 / 0)
    assert code(client.post("/v1/detect", content=grey(8, 8))) == (500, "internal_error")


def test_the_queue_is_full(serve, fake):
    client = serve(queue_size=2, max_images=2)
    fake.gate.clear()

    async def run():
        first = [asyncio.create_task(call(client.app, grey(32, 32))) for _ in range(2)]
        while client.app.state.service.batcher.held < 2:
            await asyncio.sleep(0.01)
        status, headers, body, taken = await call(client.app, grey(32, 32))
        assert (status, json.loads(body)["error"]["code"]) == (503, "queue_full")
        assert headers[b"retry-after"] == b"1"
        assert taken == 0  # refused before its body was read
        fake.gate.set()
        assert [answer[0] for answer in await asyncio.gather(*first)] == [200, 200]

    asyncio.run(run())
    assert client.app.state.service.batcher.held == 0


def test_a_request_that_takes_too_long(serve, fake):
    client = serve(timeout_s=0.2)
    fake.gate.clear()
    status, _, body, _ = asyncio.run(call(client.app, grey(32, 32)))
    assert (status, json.loads(body)["error"]["code"]) == (504, "timeout")
    fake.gate.set()
    wait_for(lambda: client.app.state.service.batcher.held == 0)
    assert client.post("/v1/detect", content=grey(32, 32)).status_code == 200


def test_a_body_that_comes_too_slowly(serve):
    client = serve(timeout_s=0.2)
    start = time.monotonic()
    status, headers, body, _ = asyncio.run(
        call(Unread(client.app, 9), chunks=[b"\xff\xd8\xff"] * 100, slow=0.05)
    )
    assert (status, json.loads(body)["error"]["code"]) == (408, "upload_timeout")
    assert headers[b"connection"] == b"close"
    assert time.monotonic() - start < 4


def endless(chunk):
    while True:
        yield chunk


@pytest.mark.parametrize("fetch_urls", [False, True])
@pytest.mark.parametrize("claim", [[], [("content-length", "10")]])
@pytest.mark.parametrize(
    "kind", ["image/jpeg", "multipart/form-data; boundary=x", "application/json"]
)
def test_bodies_are_counted_while_they_come(serve, claim, kind, fetch_urls):
    """Without a length, or with one that lies; they would never end."""
    client = serve(max_bytes=1_000_000, fetch_urls=fetch_urls)
    start = b'--x\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n'

    def chunks():
        yield start if "form" in kind else b"\xff\xd8\xff"
        yield from endless(bytes(50_000))

    answer = call(client.app, chunks=chunks(), headers=[*claim, ("content-type", kind)])
    status, _, body, taken = asyncio.run(answer)
    assert (status, json.loads(body)["error"]["code"]) == (413, "body_too_large")
    assert taken <= 22
    assert client.app.state.service.held.now == 0


def test_a_length_that_is_too_large_is_refused_at_once(serve):
    client = serve(max_bytes=1000)
    answer = call(client.app, chunks=endless(b"x"), headers=[("content-length", "1001")])
    assert asyncio.run(answer)[::3] == (413, 0)


def test_all_bodies_together_are_bounded(serve, monkeypatch):
    client = serve(max_bytes=1000)
    monkeypatch.setattr(client.app.state.service.held, "limit", 1500)
    client.app.state.service.held.now = 1000
    assert code(client.post("/v1/detect", content=bytes(900))) == (503, "queue_full")
    assert client.app.state.service.held.now == 1000


def test_a_client_that_leaves_while_it_waits(serve, fake):
    client = serve()
    service = client.app.state.service
    fake.gate.clear()

    async def run():
        leaves = asyncio.Event()
        busy = asyncio.create_task(call(client.app, grey(32, 32)))
        await asyncio.to_thread(fake.entered.wait, 10)
        gone = asyncio.create_task(call(client.app, grey(64, 64), leaves=leaves))
        while service.batcher.held < 2:
            await asyncio.sleep(0.01)
        leaves.set()
        assert (await gone)[0] == 499
        fake.gate.set()
        assert (await busy)[0] == 200
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not others

    asyncio.run(run())
    wait_for(lambda: service.batcher.held == 0)
    assert fake.batches == [[(32, 32)]]  # nobody looked at the photo of who left
    assert service.held.now == 0


def test_a_client_that_leaves_while_it_sends(serve):
    client = serve()

    async def run():
        sent = []

        async def receive():
            if not sent:
                sent.append(1)
                return {"type": "http.request", "body": bytes(5000), "more_body": True}
            return {"type": "http.disconnect"}

        scope = {
            **{"type": "http", "method": "POST", "path": "/v1/detect", "query_string": b""},
            **{"headers": [], "root_path": "", "http_version": "1.1", "scheme": "http"},
        }
        answers = []

        async def send(message):
            answers.append(message)

        await client.app(scope, receive, send)
        return answers[0]["status"]

    assert asyncio.run(run()) == 499
    assert client.app.state.service.held.now == 0


def test_metrics(serve):
    client = serve()
    client.post("/v1/detect", files=[("f", ("1", grey(32, 32))), ("f", ("2", grey(32, 32)))])
    client.post("/v1/detect", content=b"hello")
    client.get("/secret/path")
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    lines = answer.text.splitlines()
    for line in (
        'faceresnet_requests_total{method="POST",path="/v1/detect",status="200"} 1.0',
        'faceresnet_requests_total{method="POST",path="/v1/detect",status="415"} 1.0',
        'faceresnet_refused_total{code="unsupported_type"} 1.0',
        "faceresnet_images_total 2.0",
        "faceresnet_faces_total 2.0",
        "faceresnet_held_images 0.0",
        "faceresnet_ready_workers 1.0",
        "faceresnet_batch_images_sum 2.0",
    ):
        assert line in lines
    assert "secret" not in answer.text
    assert "process_resident_memory_bytes" in answer.text


def test_the_schema_is_complete(blobs):
    """Every status that /v1/detect can give is in it, with an example that fits its layout."""
    from faceresnet.apps.serve import schema

    document = blobs.get("/openapi.json").json()
    detect = document["paths"]["/v1/detect"]["post"]
    general = {404, 405}
    expected = {200} | {status for status, _ in REFUSALS.values()} - general
    assert {int(status) for status in detect["responses"]} == expected
    assert {parameter["name"] for parameter in detect["parameters"]} == {"threshold", "max_side"}
    assert {"multipart/form-data", "image/jpeg", "application/json"} <= set(
        detect["requestBody"]["content"]
    )
    assert schema.Found.model_validate(
        detect["responses"]["200"]["content"]["application/json"]["example"]
    )
    assert schema.Refused.model_validate(
        detect["responses"]["503"]["content"]["application/json"]["examples"]["queue_full"]["value"]
    )
    assert len(detect["security"]) == 2
    assert {method for path in document["paths"].values() for method in path} == {"get", "post"}
    assert "security" not in document["paths"]["/healthz"]["get"]
    assert "HTTPValidationError" not in json.dumps(document)


def test_answers_fit_the_schema(blobs, photo):
    from faceresnet.apps.serve import schema

    schema.Found.model_validate(blobs.post("/v1/detect", content=photo).json())
    schema.Models.model_validate(blobs.get("/v1/models").json())
    schema.Refused.model_validate(blobs.post("/v1/detect", content=b"?").json())


@pytest.mark.parametrize("path", ["/", "/docs", "/page/style.css", "/page/page.js"])
def test_pages_name_no_other_host(blobs, path):
    answer = blobs.get(path)
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "//" not in answer.text.replace("// ", "").replace("http://www.w3.org", "")


def test_every_file_of_the_page_is_served(blobs):
    from faceresnet.apps.serve.pages import FILES, FOLDER

    assert {path.name for path in FOLDER.iterdir()} == {*FILES, "index.html", "docs.html"}
    for name in FILES:
        assert blobs.get(f"/page/{name}").content == (FOLDER / name).read_bytes()


def test_many_requests_at_once_get_their_own_answers(blob_detector):
    """Photos of three sizes from sixteen threads; every one has its own count of blobs."""
    from concurrent.futures import ThreadPoolExecutor

    def make(number):
        squares = [(36 + 48 * i, 36, 18) for i in range(number % 3)]
        return encode(blob_image([(96, 200), (80, 160), (128, 192)][number % 3], *squares), "PNG")

    with running(Settings(batch_size=4), blob_detector) as client:
        with ThreadPoolExecutor(16) as pool:
            answers = list(
                pool.map(lambda n: client.post("/v1/detect", content=make(n)).json(), range(48))
            )
        text = client.get("/metrics").text
    counts = [len(answer["images"][0]["faces"]) for answer in answers]
    assert counts == [number % 3 for number in range(48)]
    batches = float(text.split("faceresnet_batch_images_count ")[1].split()[0])
    assert batches < 49  # the warm-up is none of them


@pytest.mark.parametrize("kind", photos.KINDS)
def test_the_limit_is_not_pillows(fake, monkeypatch, kind):
    """Pillow's own limit, global to the process, does not decide what the service reads."""
    content = io.BytesIO()
    Image.new("RGB", (32, 32)).save(content, kind)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with running(Settings(), fake) as client:
        assert client.post("/v1/detect", content=content.getvalue()).status_code == 200
        assert Image.MAX_IMAGE_PIXELS == 100
