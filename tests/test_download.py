from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from http.client import IncompleteRead
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import HTTPError

import pytest

from faceresnet.download import fetch, file_sha256, read
from faceresnet.errors import DownloadError

CONTENT = bytes(range(256)) * 20_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


#: How the headers begin that the name joe and the password p@ss make.
LOGINS = {"Basic": "Basic am9lOnBAc3M=", "Digest": 'Digest username="joe", realm="x", nonce="n"'}
BROKEN_ADDRESSES = ("http://[::1", f"http://{'a' * 80}.example/", f"http://127.0.0.1:{'9' * 20}/")


class Mirror(BaseHTTPRequestHandler):
    """/good resumes, /plain cannot, /breaks sends a third at a time, /wrong lies, /mute hangs.
    What lies may break, too: /wrong/breaks.

    /to leads to an address of `BROKEN_ADDRESSES`, /long claims a length of 5000 digits.
    """

    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers.get("Range")))
        if scheme := {"/basic": "Basic", "/digest": "Digest"}.get(self.path):
            sent = self.headers.get("Authorization", "")
            if not sent.startswith(LOGINS[scheme]):
                self.send_response(401)
                self.send_header("WWW-Authenticate", f'{scheme} realm="x", nonce="n", qop="auth"')
                return self.end_headers()
        if self.path == "/missing":
            return self.send_error(404)
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", BROKEN_ADDRESSES[int(self.path.removeprefix("/to/"))])
            return self.end_headers()
        if self.path == "/mute":
            self.server.release.wait(10)
            return None
        content = CONTENT[::-1] if self.path.startswith("/wrong") else CONTENT
        start = 0
        if (wanted := self.headers.get("Range")) and self.path != "/plain":
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if self.path != "/chunked":
            length = "9" * 5000 if self.path == "/long" else str(len(content) - start)
            self.send_header("Content-Length", length)
        self.end_headers()
        body = content[start:]
        self.wfile.write(body[: len(CONTENT) // 3] if self.path.endswith("/breaks") else body)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Mirror)
        self.requests: list[tuple[str, str | None]] = []
        self.release = threading.Event()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.release.set()
        server.shutdown()
        thread.join()


def test_fetches_and_reports_progress(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    target = tmp_path / "new" / "file.bin"
    report = lambda done, total: seen.append((done, total))  # noqa: E731
    assert fetch([server.url("/good")], target, SHA256.upper(), progress=report) == target
    assert target.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert os.listdir(target.parent) == ["file.bin"]


def test_a_verified_file_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    target.write_bytes(CONTENT)
    fetch([server.url("/good")], target, SHA256)
    assert server.requests == []


def test_a_wrong_file_is_replaced(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    target.write_bytes(b"something else")
    fetch([server.url("/good")], target, SHA256)
    assert file_sha256(target) == SHA256


@pytest.mark.parametrize("path", ["/chunked", "/long"])
def test_size_may_be_unknown(server: Server, tmp_path: Path, path: str) -> None:
    totals: set[int | None] = set()
    report = lambda done, total: totals.add(total)  # noqa: E731
    target = fetch([server.url(path)], tmp_path / "file.bin", SHA256, progress=report)
    assert target.read_bytes() == CONTENT
    assert totals == {None}


def test_a_broken_connection_goes_on_where_it_broke(server: Server, tmp_path: Path) -> None:
    target = fetch([server.url("/breaks")], tmp_path / "file.bin", SHA256)
    assert target.read_bytes() == CONTENT
    third = len(CONTENT) // 3
    assert server.requests[:3] == [
        ("/breaks", None),
        ("/breaks", f"bytes={third}-"),
        ("/breaks", f"bytes={2 * third}-"),
    ]


@pytest.mark.parametrize("there", [1, 1000, len(CONTENT) - 1, len(CONTENT)])
def test_a_partial_file_is_resumed(server: Server, tmp_path: Path, there: int) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:there])
    fetch([server.url("/good")], tmp_path / "file.bin", SHA256)
    assert server.requests == [("/good", f"bytes={there}-")]
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:1000])
    fetch([server.url("/plain")], tmp_path / "file.bin", SHA256)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("left", [b"another version", CONTENT + b"too much"])
def test_a_foreign_partial_file_is_dropped(server: Server, tmp_path: Path, left: bytes) -> None:
    (tmp_path / "file.bin.part").write_bytes(left)
    fetch([server.url("/good")], tmp_path / "file.bin", SHA256)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [f"bytes={len(left)}-", None]


@pytest.mark.parametrize("bad", ["/missing", "/wrong", "/to/0", "/to/1", "/to/2"])
def test_the_next_mirror_helps(server: Server, tmp_path: Path, bad: str) -> None:
    target = tmp_path / "file.bin"
    fetch([server.url(bad), server.url("/good"), server.url("/never")], target, SHA256)
    assert target.read_bytes() == CONTENT
    assert [path for path, _ in server.requests] == [bad, "/good"]


def test_a_wrong_file_in_pieces_is_not_fetched_for_ever(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="checksum"):
        fetch([server.url("/wrong/breaks")], tmp_path / "file.bin", SHA256)
    assert len(server.requests) < 10
    assert list(tmp_path.iterdir()) == []


def test_an_unverified_file_is_never_installed(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"404.*checksum") as caught:
        fetch([server.url("/missing"), server.url("/wrong")], tmp_path / "file.bin", SHA256)
    assert SHA256 in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_silent_server_times_out(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="timed out"):
        fetch([server.url("/mute")], tmp_path / "file.bin", SHA256, timeout_s=0.2)


def test_no_server(tmp_path: Path) -> None:
    with Server() as gone:
        url = gone.url("/good")
    with pytest.raises(DownloadError, match=r"file\.bin"):
        fetch([url], tmp_path / "file.bin", SHA256)


def test_a_place_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DownloadError, match="cannot write"):
        fetch([server.url("/good")], tmp_path / "file" / "below", SHA256)


def test_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one"):
        fetch([], tmp_path / "x", SHA256)
    with pytest.raises(ValueError, match="list"):
        fetch("https://example.org/x", tmp_path / "x", SHA256)
    with pytest.raises(ValueError, match="http"):
        fetch(["file:///etc/passwd"], tmp_path / "x", SHA256)
    with pytest.raises(ValueError, match="64 hexadecimal"):
        fetch(["https://example.org/x"], tmp_path / "x", "abc")


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf"), 1e30])
def test_a_timeout_that_cannot_be_is_refused(tmp_path: Path, timeout_s: float) -> None:
    with pytest.raises(ValueError, match="timeout must be above 0 and at most 86400 s, got"):
        fetch(["https://example.org/x"], tmp_path / "x", SHA256, timeout_s=timeout_s)


@pytest.mark.parametrize("path", ["/good", "/chunked", "/long"])
def test_what_is_small_is_read_at_once(server: Server, path: str) -> None:
    assert read(server.url(path), len(CONTENT), 5) == CONTENT


@pytest.mark.parametrize("path", ["/basic", "/digest"])
def test_a_name_and_a_password_are_sent(server: Server, path: str) -> None:
    for login in ("joe:p@ss", "joe:p%40ss"):
        address = server.url(path).replace("http://", f"http://{login}@")
        assert read(address, len(CONTENT), 5) == CONTENT
    with pytest.raises(HTTPError, match="401") as caught:
        read(server.url(path), 99, 5)
    caught.value.close()


def test_one_byte_more_than_the_limit_says_that_it_is_larger(server: Server) -> None:
    assert read(server.url("/good"), 99, 5) == CONTENT[:100]
    assert read(server.url("/breaks"), 99, 5) == CONTENT[:100]


def test_half_of_it_is_not_read_for_the_whole(server: Server) -> None:
    with pytest.raises(IncompleteRead):
        read(server.url("/breaks"), len(CONTENT), 5)


def test_what_is_not_there_cannot_be_read(server: Server) -> None:
    with pytest.raises(HTTPError) as caught:
        read(server.url("/missing"), 99, 5)
    caught.value.close()
