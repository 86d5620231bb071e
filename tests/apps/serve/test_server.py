"""The service as a running program: workers, signals, https."""

import signal
import socket
import subprocess
import threading
import time
from types import SimpleNamespace

import httpx
import pytest
from uvicorn.supervisors.multiprocess import Multiprocess

from conftest import blob_image
from faceresnet.apps.serve.metrics import MULTIPROCESS_VARIABLE
from faceresnet.apps.serve.server import _Workers, open_detector
from faceresnet.apps.serve.settings import Settings

from .conftest import Server, encode, wait_for


def test_a_photo_over_a_socket(server, photo):
    answer = server.post("/v1/detect", files={"file": ("a.jpg", photo)})
    assert len(answer.json()["images"][0]["faces"]) == 2
    assert "server" not in answer.headers


def test_head_is_get_without_the_body(server):
    pages = ["/", "/docs", "/page/style.css", "/openapi.json", "/page/none"]
    with httpx.Client(base_url=server.address, timeout=60, trust_env=False) as client:
        for path in [*pages, "/v1/models", "/v1/detect", "/healthz", "/readyz", "/metrics"]:
            head, get = client.head(path), client.get(path)
            assert head.status_code == get.status_code, path
            assert head.headers["content-type"] == get.headers["content-type"], path
            assert head.content == b""
        counted = client.get("/metrics").text
    assert 'method="HEAD",path="/healthz",status="200"' in counted


def test_chunked_bodies(server, photo):
    answer = server.post("/v1/detect", content=iter([photo[:1000], photo[1000:]]))
    assert answer.request.headers["transfer-encoding"] == "chunked"
    assert len(answer.json()["images"][0]["faces"]) == 2


def test_clients_that_hang_up_leave_nothing_behind(server, photo):
    host, port = server.address.removeprefix("http://").split(":")
    head = f"POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Length: {len(photo)}\r\n\r\n".encode()
    for part in (head, head + photo[:100], head + photo, b"\x00\xff\r\n\r\n", b"POST"):
        for _ in range(5):
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(part)
    wait_for(lambda: "faceresnet_held_images 0.0" in server.get("/metrics").text)
    assert server.post("/v1/detect", content=photo).status_code == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_is_in_work_is_answered_before_the_end(blob_model, number):
    """The signal comes while photos are waiting; all are answered, and the service ends with 0."""
    options = ("--threads", "1", "--batch-size", "1", "--timeout", "50")
    server = Server("--model", blob_model, *options).wait_until_ready()
    large = encode(blob_image((800, 800), (36, 36, 18)), "JPEG", quality=95)
    answers = []

    def post():
        files = [("file", (f"{number}.jpg", large)) for number in range(8)]
        answers.append(server.post("/v1/detect", files=files))

    client = threading.Thread(target=post)
    client.start()
    wait_for(lambda: "faceresnet_held_images 8.0" in server.get("/metrics").text)
    status, errors = server.end(number)
    client.join()
    assert (status, errors) == (0, "")
    assert answers[0].status_code == 200
    assert len(answers[0].json()["images"]) == 8


def test_several_workers_count_together(blob_model, photo):
    """Whichever worker answers /metrics answers for all."""
    server = Server("--model", blob_model, "--threads", "2", "--workers", "2").wait_until_ready(2)
    for _ in range(10):
        assert server.post("/v1/detect", content=photo).status_code == 200
    for _ in range(3):
        assert "faceresnet_images_total 10.0" in server.get("/metrics").text
    assert server.end() == (0, "")


def test_a_worker_that_dies_is_replaced(blob_model, photo):
    server = Server("--model", blob_model, "--threads", "2", "--workers", "2").wait_until_ready(2)
    children = f"/proc/{server.running.pid}/task/{server.running.pid}/children"
    try:
        with open(children) as file:
            before = file.read().split()
    except OSError:
        server.end()
        pytest.skip("the workers are found in /proc here")
    workers = [pid for pid in before if b"spawn_main" in _command(pid)]
    subprocess.run(["kill", "-9", workers[0]], check=True)

    def answers():
        try:
            return server.post("/v1/detect", content=photo).status_code == 200
        except httpx.HTTPError:
            return False

    def replaced():
        with open(children) as file:
            return len(set(file.read().split()) - set(before)) == 1

    wait_for(replaced, 60)
    wait_for(answers, 60)
    server.end()


def test_workers_end_with_a_parent_that_was_killed(blob_model):
    """The port is free again."""
    server = Server("--model", blob_model, "--threads", "2", "--workers", "2").wait_until_ready(2)
    assert server.end(signal.SIGKILL)[0] == -signal.SIGKILL  # once nobody holds its pipes
    host, port = server.address.removeprefix("http://").split(":")
    socket.create_server((host, int(port))).close()


def test_a_worker_that_died_holds_nothing(tmp_path, monkeypatch):
    """Whatever it had counted as waiting or ready when it was killed."""
    import prometheus_client  # noqa: F401  what it finds when first imported holds for all tests

    monkeypatch.setenv(MULTIPROCESS_VARIABLE, str(tmp_path))
    files = [f"{what}_{pid}.db" for what in ("counter", "gauge_livesum") for pid in (11, 12)]
    for name in files:
        (tmp_path / name).touch()

    def replace(supervisor):
        supervisor.processes[1] = SimpleNamespace(pid=13)

    monkeypatch.setattr(Multiprocess, "keep_subprocess_alive", replace)
    workers = _Workers.__new__(_Workers)  # without its signal handlers
    workers.processes = [SimpleNamespace(pid=11), SimpleNamespace(pid=12)]
    workers.keep_subprocess_alive()
    assert sorted(path.name for path in tmp_path.iterdir()) == files[:3]


def _command(pid):
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read()


def test_https(blob_model, photo, tmp_path):
    import ssl

    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    try:
        subprocess.run(
            [*command, *subject, "-keyout", key, "-out", certificate],
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        pytest.skip("apt install openssl")
    files = ["--certificate", certificate, "--certificate-key", key]
    server = Server("--model", blob_model, "--threads", "1", *files)
    assert server.address.startswith("https://")
    context = ssl.create_default_context(cafile=str(certificate))
    with httpx.Client(verify=context, trust_env=False, timeout=60) as client:
        wait_for(lambda: client.get(f"{server.address}/readyz").status_code == 200, 60)
        assert client.post(f"{server.address}/v1/detect", content=photo).status_code == 200
    assert server.end()[0] == 0


def test_a_slow_client_does_not_hold_the_others_up(server, photo):
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as slow:
        slow.sendall(b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n\xff")
        start = time.monotonic()
        assert server.post("/v1/detect", content=photo).status_code == 200
        assert time.monotonic() - start < 20


def test_the_detector_is_as_the_settings_say(blob_model):
    settings = Settings(
        model=blob_model, threshold=0.4, max_side=640, crowds=False, threads=1, batch_size=3
    )
    detector = open_detector(settings)
    for name in ("model", "threshold", "max_side", "crowds", "threads", "batch_size"):
        assert getattr(detector, name) == getattr(settings, name)
