import http.server
import json
import os
import socket
import threading
import time
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from cameras import wait_for
from faceresnet import images
from faceresnet.apps.watch.crops import Crop
from faceresnet.apps.watch.events import Event
from faceresnet.apps.watch.outbox import (
    EventFolder,
    JsonLines,
    Outbox,
    Webhook,
    append_line,
    close_all,
    drain,
)
from faceresnet.errors import FaceResNetError

NOW = datetime(2026, 3, 1, 12, 30, 15, 250_000, tzinfo=UTC)


def event(number=1, **changes):
    crop = Crop(np.full((40, 40, 3), 90, np.uint8), 0.5)
    values = {"track": number, "since": NOW, "crop": crop, **changes}
    return Event("face_entered", NOW, "door", number, **values)


class Hook:
    """An HTTP server that gives the answers of a script, then 200; keeps what was posted."""

    def __init__(self, *script, delay_s=0.0):
        hook = self
        self.posts, self.headers, self.script = [], [], list(script)
        self.release = threading.Event()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.posts.append(json.loads(body))
                hook.headers.append(self.headers)
                if delay_s:
                    hook.release.wait(delay_s)
                status = hook.script.pop(0) if hook.script else 200
                if status is None:  # hang up
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()
        self.url = f"http://joe:geheim@127.0.0.1:{self.server.server_port}/hook?token=geheim"

    def close(self):
        self.release.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def hook(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    hooks = []

    def hook(*script, **options):
        hooks.append(Hook(*script, **options))
        return hooks[-1]

    yield hook
    for each in hooks:
        each.close()


def webhook(hook, **options):
    return Webhook(hook.url, **{"pauses_s": (0.01, 0.02, 0.03), "timeout_s": 5, **options})


def test_events_are_posted_in_order(hook):
    server = hook()
    outbox = Outbox(webhook(server, pictures=True))
    for number in range(5):
        outbox.put(event(number))
    outbox.close(10)
    assert server.posts == [event(number).to_dict(pictures=True) for number in range(5)]
    assert server.headers[0]["Content-Type"] == "application/json"
    assert server.headers[0]["Authorization"].startswith("Basic ")
    assert (outbox.state.sent, outbox.state.failed, outbox.state.dropped) == (5, 0, 0)


@pytest.mark.parametrize("script", [(500, 503), (None, 429), (502, None, 500)])
def test_a_server_that_fails_for_the_moment_is_tried_again(hook, script):
    server = hook(*script)
    outbox = Outbox(webhook(server))
    outbox.put(event())
    wait_for(lambda: outbox.state.sent == 1)
    assert len(server.posts) == len(script) + 1
    outbox.close(10)


def test_a_refusal_is_final(hook):
    server, lines = hook(404, 404), []
    outbox = Outbox(webhook(server), report=lines.append)
    outbox.put(event(1))
    outbox.put(event(2))
    outbox.put(event(3))
    wait_for(lambda: outbox.state.sent == 1)
    assert len(server.posts) == 3
    assert outbox.state.failed == 2
    outbox.close(10)
    (line,) = lines
    assert "the server answers 404" in line
    assert "geheim" not in line


def test_attempts_end(hook):
    server = hook(*[500] * 4)
    lines = []
    outbox = Outbox(webhook(server), report=lines.append)
    outbox.put(event())
    wait_for(lambda: lines)
    assert len(server.posts) == 4
    assert outbox.state.failed == 1
    assert lines == ["webhook: not delivered to http://127.0.0.1: the server answers 500"]
    outbox.close(10)


def test_a_slow_server_never_holds_up_who_posts_and_the_oldest_are_dropped(hook):
    server = hook(delay_s=30)
    outbox = Outbox(webhook(server, timeout_s=60), capacity=10)
    outbox.put(event(0))
    wait_for(lambda: len(server.posts) == 1)
    start_s = time.monotonic()
    for number in range(1, 101):
        outbox.put(event(number))
    assert time.monotonic() - start_s < 15, "it waited for the server"
    assert (outbox.state.waiting, outbox.state.dropped) == (10, 90)
    server.release.set()
    outbox.close(20)
    assert [post["track"] for post in server.posts] == [0, *range(91, 101)]


def test_closing_waits_no_longer_than_told(hook):
    servers = [hook(delay_s=60), hook(*[500] * 100)]
    outboxes = [
        Outbox(webhook(servers[0], timeout_s=120)),
        Outbox(webhook(servers[1], pauses_s=(60.0,) * 3)),
    ]
    for outbox in outboxes:
        outbox.put(event(1))
        outbox.put(event(2))
    wait_for(lambda: all(server.posts for server in servers))
    start_s = time.monotonic()
    close_all(outboxes, 0.5)
    assert time.monotonic() - start_s < 20, "a minute was the alternative"
    assert outboxes[0].state.dropped == 1
    assert outboxes[1].state.failed == 2, "each once more, but without pauses"


def test_draining_takes_its_time_while_somebody_takes_events(hook):
    server = hook(delay_s=0.3)
    outbox = Outbox(webhook(server))
    for number in range(5):
        outbox.put(event(number))
    assert outbox.undelivered == 5
    drain([outbox], 20, threading.Event())
    assert outbox.is_idle
    assert outbox.undelivered == 0
    assert [post["track"] for post in server.posts] == [*range(5)]
    outbox.close(10)


def test_draining_ends_where_nobody_takes_events_or_when_told(hook):
    server = hook(delay_s=60)
    outbox = Outbox(webhook(server, timeout_s=120))
    outbox.put(event(1))
    outbox.put(event(2))
    start_s = time.monotonic()
    drain([outbox], 0.2, threading.Event())
    stop = threading.Event()
    stop.set()
    drain([outbox], 60, stop)
    assert time.monotonic() - start_s < 20, "a minute was the alternative"
    outbox.close(0)
    assert (outbox.undelivered, outbox.state.dropped) == (2, 1), "one is on its way"


def test_an_answer_that_trickles_in_counts_as_none(monkeypatch):
    """Each byte comes soon enough; all of them would take for ever."""
    monkeypatch.setenv("no_proxy", "*")
    posts, over = [], threading.Event()

    def trickle(listener):
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                posts.append(connection)
                threading.Thread(target=drip, args=(connection,), daemon=True).start()

    def drip(connection):
        with connection, suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while not over.wait(0.1):
                connection.sendall(b"a")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=trickle, args=(listener,), daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        lines = []
        outbox = Outbox(Webhook(url, timeout_s=0.5, pauses_s=(0.01,)), report=lines.append)
        outbox.put(event())
        wait_for(lambda: lines)
        wait_for(lambda: not [t for t in threading.enumerate() if t.name == "post"])
        over.set()
    assert len(posts) == 2
    assert "no answer within 0.5 s" in lines[0]
    outbox.close(10)


def test_nobody_there_is_counted(hook):
    server = hook()
    url = server.url
    server.close()
    lines = []
    outbox = Outbox(Webhook(url, pauses_s=()), report=lines.append)
    outbox.put(event())
    wait_for(lambda: lines)
    assert outbox.state.failed == 1
    assert "geheim" not in lines[0]
    outbox.close(10)


@pytest.mark.parametrize(
    "url", ["", "example.com", "ftp://joe:geheim@host/x", "http://", "http://host:port/"]
)
def test_what_is_no_webhook_is_refused(url):
    with pytest.raises(ValueError, match="no address of a webhook") as refusal:
        Webhook(url)
    assert "geheim" not in str(refusal.value)


def test_folders_by_camera_and_day(tmp_path):
    folder = EventFolder(tmp_path / "new" / "events")
    never = threading.Event()
    folder.deliver(event(1), never)
    later = NOW + timedelta(days=1)
    folder.deliver(event(1, crop=Crop(np.full((50, 50, 3), 200, np.uint8), 0.6)), never)
    folder.deliver(event(2, since=later, crop=None), never)
    root = tmp_path / "new" / "events" / "door"
    found = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
    assert found == [
        "2026-03-01/123015.250_1.jpg",
        "2026-03-01/events.jsonl",
        "2026-03-02/events.jsonl",
    ]
    picture = images.read(root / found[0])
    assert picture.shape == (50, 50, 3), "a better picture takes the place of the first"
    lines = [json.loads(line) for line in (root / found[1]).read_text().splitlines()]
    assert [line["crop"] for line in lines] == ["door/2026-03-01/123015.250_1.jpg"] * 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(FaceResNetError, match="cannot"):
        EventFolder(tmp_path / "locked")


def test_places_that_are_taken_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FaceResNetError, match="cannot make the folder"):
        EventFolder(tmp_path / "file" / "events")
    with pytest.raises(FaceResNetError, match="cannot write"):
        JsonLines(tmp_path, pictures=False)


def test_what_fails_is_counted_and_the_rest_goes_on(tmp_path):
    lines = []
    outbox = Outbox(EventFolder(tmp_path), report=lines.append)
    (tmp_path / "door").write_text("in the way")
    outbox.put(event(1))
    outbox.put(event(2))
    wait_for(lambda: outbox.state.failed == 2)
    assert len(lines) == 1, "one line, not one for each event"
    (tmp_path / "door").unlink()
    outbox.put(event(3))
    wait_for(lambda: outbox.state.sent == 1)
    (tmp_path / "door").rename(tmp_path / "aside")
    (tmp_path / "door").write_text("in the way again")
    outbox.put(event(4))
    wait_for(lambda: len(lines) == 2)
    outbox.close(10)


def test_a_line_that_a_crash_cut_short_is_ended_first(tmp_path):
    file = tmp_path / "events.jsonl"
    file.write_text('{"event": "face_ent')
    append_line(file, '{"a": 1}')
    append_line(file, '{"ä": 2}')
    assert file.read_text(encoding="utf-8").splitlines() == [
        '{"event": "face_ent',
        '{"a": 1}',
        '{"ä": 2}',
    ]
    file.unlink()  # as logrotate does
    append_line(file, "{}")
    assert file.read_text() == "{}\n"


@contextmanager
def files_of(size_bytes):
    """No file may become larger: as on a full disk, a write is cut short, and the next fails."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_line_that_does_not_fit_leaves_nothing_behind(tmp_path):
    file = tmp_path / "events.jsonl"
    append_line(file, "0123456789")
    failures = []
    with files_of(16):
        try:
            append_line(file, "0123456789")
        except OSError as error:
            failures.append(error)
    assert failures, "a line cut short counts as written"
    assert file.read_text() == "0123456789\n"
    append_line(file, "{}")
    assert file.read_text() == "0123456789\n{}\n"


def test_a_pipe_that_takes_a_little_at_a_time(tmp_path):
    class Narrow:
        taken = b""

        def write(self, content):
            self.taken += bytes(content[:7])
            return min(7, len(content))

    os.mkfifo(tmp_path / "events")
    lines = JsonLines(tmp_path / "events", pictures=False)
    lines._pipe = pipe = Narrow()
    lines.deliver(event(), threading.Event())
    assert json.loads(pipe.taken) == event().to_dict()


def test_lines_to_a_pipe_come_at_once_and_it_stays_open(tmp_path):
    pipe = tmp_path / "events"
    os.mkfifo(pipe)
    outbox = Outbox(JsonLines(pipe, pictures=False))  # without waiting for a reader
    outbox.put(event(0))
    with pipe.open() as reader:
        for number in range(3):
            assert json.loads(reader.readline()) == event(number).to_dict()
            outbox.put(event(number + 1))
        outbox.close(10)
        assert json.loads(reader.read())["track"] == 3
    assert outbox.state.failed == 0


def test_a_pipe_takes_lines_again_when_a_new_reader_comes(tmp_path):
    pipe = tmp_path / "events"
    os.mkfifo(pipe)
    outbox = Outbox(JsonLines(pipe, pictures=False))
    outbox.put(event(1))
    with pipe.open() as reader:
        assert json.loads(reader.readline())["track"] == 1
    outbox.put(event(2))
    wait_for(lambda: outbox.state.failed == 1)
    outbox.put(event(3))
    with pipe.open() as reader:
        assert json.loads(reader.readline())["track"] == 3
    outbox.close(10)


def test_lines_on_standard_output(capsys):
    outbox = Outbox(JsonLines("-", pictures=False))
    outbox.put(event())
    outbox.close(10)
    assert json.loads(capsys.readouterr().out) == event().to_dict()
