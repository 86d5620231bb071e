"""Services in this process: with the blob model, and with detectors that do as a test says."""

import asyncio
import io
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="pip install 'faceresnet[serve]'")

import httpx
from PIL import Image

from conftest import blob_image, blob_spec
from faceresnet import Detections
from faceresnet.apps.serve.app import create_app
from faceresnet.apps.serve.settings import Settings


class FakeDetector:
    """Finds one face, a quarter of the image, and remembers its batches.

    While `gate` is closed it is busy; `fails` may raise for an image.
    """

    def __init__(self):
        self.spec = blob_spec()
        self.batches = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.fails = lambda image: None

    def batch(self, photos, threshold=None):
        self.batches.append([photo.shape[:2] for photo in photos])
        self.entered.set()
        assert self.gate.wait(30)
        for photo in photos:
            self.fails(photo)
        return [one_face(photo.shape[:2]) for photo in photos]


def one_face(size):
    height, width = size
    box = np.array([[width / 4, height / 4, width / 2, height / 2]], np.float32)
    return Detections(box, np.array([0.75], np.float32), size)


def encode(image, kind="JPEG", **options):
    content = io.BytesIO()
    Image.fromarray(image).save(content, kind, **options)
    return content.getvalue()


def grey(height, width, kind="PNG"):
    return encode(np.full((height, width, 3), 127, np.uint8), kind)


async def call(app, body=b"", *, chunks=None, headers=(), path="/v1/detect", leaves=None, slow=0):
    """One POST straight through ASGI: its status, headers, body and how many chunks it took.

    Args:
        chunks: of the body, instead of `body`; may be an endless iterator.
        leaves: an asyncio.Event; when set, the client goes away.
        slow: seconds before each chunk.
    """
    chunks = iter([body] if chunks is None else chunks)
    taken, sent = 0, []
    following = next(chunks, None)

    async def receive():
        nonlocal following, taken
        if following is not None:
            await asyncio.sleep(slow)
            chunk, following = following, next(chunks, None)
            taken += 1
            return {"type": "http.request", "body": chunk, "more_body": following is not None}
        await (leaves or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {
        **{"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST"},
        **{"path": path, "raw_path": path.encode(), "query_string": b"", "root_path": ""},
        **{"scheme": "http", "server": ("test", 80), "client": ("127.0.0.1", 1)},
        "headers": [(name.lower().encode(), text.encode()) for name, text in headers],
    }
    await app(scope, receive, send)
    start = next(message for message in sent if message["type"] == "http.response.start")
    answer = b"".join(message.get("body", b"") for message in sent)
    return start["status"], dict(start["headers"]), answer, taken


def wait_for(condition, seconds=20):
    """Wait until something holds."""
    pause = threading.Event()
    for _ in range(int(seconds * 100)):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it did not come about")


class Client:
    """An app with its lifespan in an event loop of a thread; requests from any thread."""

    def __init__(self, app):
        self.app = app

    def __enter__(self):
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._lifespan = self.app.router.lifespan_context(self.app)
        self._run(self._lifespan.__aenter__())
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self._http = httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60)
        return self

    def __exit__(self, *error):
        self._run(self._http.aclose())
        self._run(self._lifespan.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def get(self, path, **options):
        return self._run(self._http.get(path, **options))

    def post(self, path, **options):
        return self._run(self._http.post(path, **options))


@contextmanager
def running(settings, detector):
    app = create_app(settings, lambda: detector)
    with Client(app) as client:
        wait_for(lambda: client.get("/readyz").status_code == 200)
        if isinstance(detector, FakeDetector):
            detector.batches.clear()
            detector.entered.clear()
        yield client


@pytest.fixture
def fake():
    return FakeDetector()


@pytest.fixture
def serve(fake):
    """Start services with the fake detector; they are stopped after the test."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(running(Settings(**settings), fake))


@pytest.fixture(scope="session")
def blobs(blob_detector):
    """A service with the blob model."""
    settings = Settings(max_bytes=400_000, max_pixels=1_000_000, max_images=4, batch_size=4)
    with running(settings, blob_detector) as client:
        yield client


@pytest.fixture(scope="session")
def photo():
    """A photo with two blobs, as JPEG."""
    return encode(blob_image((96, 200), (36, 36, 18), (84, 36, 18)), quality=95)


class Server:
    """`faceresnet serve` as its own process, on a free port; `before` is what starts it."""

    def __init__(self, *arguments, environment=None, before=()):
        command = [sys.executable, "-m", "faceresnet", "serve", "--port", "0", *map(str, arguments)]
        self.running = subprocess.Popen(
            [*before, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
        self.said = self.running.stdout.readline()
        address = re.search(r"page (https?://\S+)/", self.said)
        if address is None:
            raise AssertionError(self.running.communicate(timeout=60))
        self.address = address[1]

    def wait_until_ready(self, workers=1):
        def ready():
            found = re.search(r"^faceresnet_ready_workers (\S+)", self.get("/metrics").text, re.M)
            return found and float(found[1]) == workers

        wait_for(ready, 120)
        return self

    def get(self, path):
        return httpx.get(self.address + path, timeout=60, trust_env=False)

    def post(self, path, **options):
        return httpx.post(self.address + path, timeout=60, trust_env=False, **options)

    def end(self, number=signal.SIGTERM):
        """Ask the service to end; its exit status and what it said on standard error."""
        if self.running.poll() is None:
            self.running.send_signal(number)
        try:
            _, errors = self.running.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(self.running.pid, signal.SIGKILL)  # workers would keep the pipes open
            self.running.communicate()
            raise
        return self.running.returncode, errors


@pytest.fixture(scope="session")
def server(blob_model):
    """A service with the blob model in a process of its own."""
    server = Server("--model", blob_model, "--threads", "1").wait_until_ready()
    yield server
    server.end()
