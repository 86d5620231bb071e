"""The command: what it refuses in one line, and how it starts."""

import socket
import sys
from functools import partial

import pytest

pytest.importorskip("fastapi", reason="pip install 'faceresnet[serve]'")

from conftest import run_cli
from faceresnet.apps.serve import server
from faceresnet.apps.serve.settings import Settings, read_keys, threads_each


@pytest.fixture
def run(capsys):
    return partial(run_cli, capsys, "serve")


@pytest.fixture
def started(monkeypatch):
    """What the service would be started with; nothing is."""
    given = []

    def serve(settings, listening, started):
        given.append((settings, listening))
        started(f"http://{listening.host}:{listening.port}")

    monkeypatch.setattr(server, "serve", serve)
    return given


def test_defaults(run, started):
    assert run() == (
        0,
        "faceresnet: page http://127.0.0.1:8000/  documentation http://127.0.0.1:8000/docs\n",
        "",
    )
    settings, listening = started[0]
    assert settings == Settings()
    assert listening == server.Listening()


def test_options(run, started, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("# of the cameras\nfirst\n\n second \n")
    status, _, _ = run(
        *("--port", 9000, "--workers", 3, "--threads", 6, "--max-mb", 1.5, "--max-megapixels", 12),
        *("--max-images", 4, "--queue", 9, "--timeout", 7, "--api-key-file", keys, "--fetch-urls"),
        *("--allow-origin", "https://a.example", "--allow-origin", "https://b.example"),
        *("--fetch-network", "10.1.0.0/16", "--max-side", 1280, "--threshold", 0.2),
        "--no-crowds",
    )
    assert status == 0
    settings, listening = started[0]
    assert settings == Settings(
        threads=6,
        max_bytes=1_500_000,
        max_pixels=12_000_000,
        max_images=4,
        queue_size=9,
        timeout_s=7,
        api_keys=("first", "second"),
        fetch_urls=True,
        allow_origins=("https://a.example", "https://b.example"),
        url_networks=("10.1.0.0/16",),
        max_side=1280,
        crowds=False,
        threshold=0.2,
    )
    assert listening == server.Listening(port=9000, workers=3)
    assert "first" not in repr(settings)


def test_the_key_of_the_environment(run, started, monkeypatch):
    monkeypatch.setenv("FACERESNET_API_KEY", "open sesame")
    run()
    assert started[0][0].api_keys == ("open sesame",)


def test_a_service_for_everyone_says_so(run, started, monkeypatch):
    assert "whoever" in run("--host", "0.0.0.0")[2]
    monkeypatch.setenv("FACERESNET_API_KEY", "key")
    assert run("--host", "0.0.0.0")[2] == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "nothing.onnx"], "no model file nothing.onnx"),
        (["--engine", "tea"], "openvino"),
        (["--device", "toaster"], "toaster"),
        (["--max-images", 9, "--queue", 8], "queue_size"),
        (["--timeout", 0], "timeout_s"),
        (["--timeout", "inf"], "timeout_s"),
        (["--timeout", "nan"], "timeout_s"),
        (["--max-mb", 0], "max_bytes"),
        (["--max-mb", "inf"], "--max-mb"),
        (["--max-mb", "1e305"], "--max-mb"),
        (["--max-megapixels", "inf"], "--max-megapixels"),
        (["--max-megapixels", "nan"], "--max-megapixels"),
        (["--workers", 0], "--workers"),
        (["--threshold", 2], "threshold"),
        (["--fetch-network", "10.0.0.0/8"], "--fetch-urls"),
        (["--fetch-urls", "--fetch-network", "ten"], "ten"),
        (["--allow-origin", "foo"], "as in https://example.org, got 'foo'"),
        (["--root-path", "foo"], "as in /faces, got 'foo'"),
        (["--api-key-file", "nowhere"], "nowhere"),
        (["--api-key-file", "/dev/null"], "no API key"),
        (["--certificate", "x.pem"], "--certificate-key"),
        (["--certificate", "x.pem", "--certificate-key", "y.pem"], "no file x.pem"),
        (["--host", "no.such.host.invalid"], "cannot listen"),
    ],
)
def test_refusals(run, arguments, says):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_a_certificate_that_is_none(run, tmp_path, workers):
    """Every worker would stumble over it, and be started again."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    certificate.write_text("nonsense")
    key.write_text("nonsense")
    files = ("--certificate", certificate, "--certificate-key", key)
    status, out, err = run(*files, "--workers", workers)
    assert (status, out) == (2, "")
    assert f"certificate {certificate} and the key {key}" in err
    assert err.count("\n") == 1


def test_a_port_that_is_taken(run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, _, err = run("--port", taken.getsockname()[1])
    assert status == 2
    assert "in use" in err
    assert err.count("\n") == 1


def test_the_extra(run, monkeypatch):
    find = sys.modules["importlib.util"].find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "uvicorn" else find(name)
    )
    status, _, err = run()
    assert status == 2
    assert "in the checkout, pip install -c constraints.txt '.[serve]'" in err


def test_workers_share_the_threads(monkeypatch):
    monkeypatch.setattr("faceresnet.apps.serve.settings.cores", lambda: 8)
    assert [threads_each(n, None) for n in (1, 2, 3, 16)] == [8, 4, 2, 1]
    assert threads_each(2, 6) == 3
    with pytest.raises(ValueError, match="workers"):
        threads_each(0, None)


@pytest.mark.parametrize(
    "origin", ["*", "null", "https://example.org", "http://[::1]:8000", "chrome-extension://a_b"]
)
def test_origins(origin):
    assert Settings(allow_origins=(origin,)).allow_origins == (origin,)


@pytest.mark.parametrize(
    "origin",
    [
        *("", "example.org", "https://", "https://example.org/", "https://Example.org"),
        *("https://example.org:443", "http://example.org:80", "https://joe@example.org"),
        "https://a:b",
    ],
)
def test_what_no_browser_calls_an_origin(origin):
    with pytest.raises(ValueError, match=r"https://example\.org"):
        Settings(allow_origins=(origin,))


@pytest.mark.parametrize("path", ["/", "/faces/", "a/b", "//a", "/a b", "/ä", "/a?b"])
def test_paths_that_no_proxy_takes_off(path):
    with pytest.raises(ValueError, match="root_path"):
        server.Listening(root_path=path)
    server.Listening(root_path="/faces/v1")


def test_keys():
    assert read_keys([" a ", "", "# b", "c"]) == ("a", "c")
    with pytest.raises(ValueError, match="printable"):
        Settings(api_keys=("kéy",))
