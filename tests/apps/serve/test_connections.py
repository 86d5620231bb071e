"""Clients that are slow, silent or too many."""

import asyncio
import http.client
import socket
from contextlib import ExitStack
from itertools import repeat

import pytest

from faceresnet.apps.serve import connections
from faceresnet.apps.serve.connections import Listener, Unread, bounded

from .conftest import Server, call, grey

HALF_A_HEAD = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: "
CHUNK = b"10000\r\n" + bytes(0x10000) + b"\r\n"
POST = b"POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"


OPTIONS = ("--threads", "1", "--timeout", "2", "--max-mb", "1")


@pytest.fixture(scope="module")
def impatient(blob_model):
    """A service with little patience, for clients and bodies."""
    server = Server("--model", blob_model, *OPTIONS).wait_until_ready()
    yield server
    server.end()


def connect(server):
    host, port = server.address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def read_all(connection):
    """What comes until the other side hangs up; TimeoutError if it does not."""
    content = b""
    try:
        while part := connection.recv(65536):
            content += part
    except ConnectionResetError:
        pass
    return content


def push(connection, content, times):
    """Send something again and again; TimeoutError if the other side neither takes it nor ends."""
    for _ in range(times):
        connection.sendall(content)


def test_half_a_head_is_not_waited_for_for_ever(impatient):
    with connect(impatient) as connection:
        connection.sendall(HALF_A_HEAD)
        assert read_all(connection) == b""


def test_half_a_head_after_a_whole_request(impatient):
    with connect(impatient) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in connection.recv(65536)
        connection.sendall(HALF_A_HEAD)
        assert b"HTTP" not in read_all(connection)


def test_an_answer_that_nobody_takes(impatient):
    """Requests one after another, until nothing more fits; then the service hangs up."""
    with connect(impatient) as connection:
        request = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
        with pytest.raises(ConnectionError):
            push(connection, request, 200_000)


def test_a_connection_is_kept_between_requests(impatient):
    client = http.client.HTTPConnection(impatient.address.removeprefix("http://"), timeout=60)
    client.connect()
    connection = client.sock
    for _ in range(3):
        client.request("POST", "/v1/detect", grey(64, 64))
        answer = client.getresponse()
        assert (answer.status, answer.getheader("connection")) == (200, None)
        answer.read()
    assert client.sock is connection
    client.close()


@pytest.mark.parametrize("claim", [b"Content-Length: 100000000", b"Transfer-Encoding: chunked"])
def test_a_body_that_was_refused_is_not_read_to_its_end(impatient, claim):
    """Nor is a client waited for that sends nothing more."""
    with connect(impatient) as connection:
        connection.sendall(POST + claim + b"\r\n\r\n" + CHUNK * 16)
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"\r\nconnection: close\r\n" in answer
    assert answer.endswith(b"}}")
    with connect(impatient) as connection:
        connection.sendall(POST + claim + b"\r\n\r\n")
        with pytest.raises(ConnectionError):
            push(connection, CHUNK, 1000)


def test_more_connections_than_descriptors(blob_model):
    """Clients that say nothing keep the others out for as long as the patience lasts, no longer."""
    few = ("sh", "-c", 'ulimit -n 128 && exec "$@"', "sh")
    server = Server("--model", blob_model, *OPTIONS, before=few).wait_until_ready()
    with ExitStack() as stack:
        silent = [stack.enter_context(connect(server)) for _ in range(140)]
        for connection in silent:
            connection.sendall(HALF_A_HEAD)
        assert not any(map(read_all, silent))
        assert server.get("/healthz").status_code == 200
    _, errors = server.end()
    assert errors.count("too many connections") == 1
    assert errors.count("\n") < 5


def test_the_listener_hangs_up_where_descriptors_are_short(monkeypatch):
    plain = socket.create_server(("127.0.0.1", 0))
    with bounded(plain) as listener:
        if not isinstance(listener, Listener):
            pytest.skip("no file descriptors here")
        with socket.create_connection(listener.getsockname()) as client:
            served, _ = listener.accept()
            served.close()
            monkeypatch.setattr(listener, "_end", 0)
        with socket.create_connection(listener.getsockname(), timeout=60) as client:
            with pytest.raises(ConnectionAbortedError):
                listener.accept()
            assert client.recv(1) == b""


LENGTH, CHUNKED = [("content-length", "5")], [("transfer-encoding", "chunked")]


@pytest.mark.parametrize(
    ("headers", "reads", "closes"),
    [
        ([], False, False),
        ([("content-length", "0")], False, False),
        (LENGTH, True, False),
        (CHUNKED, True, False),
        (LENGTH, False, True),
        (CHUNKED, False, True),
    ],
)
def test_only_a_body_that_was_not_read_ends_the_connection(headers, reads, closes):
    async def app(scope, receive, send):
        while reads and (await receive())["more_body"]:
            pass
        await send({"type": "http.response.start", "status": 401, "headers": []})
        await send({"type": "http.response.body", "body": b"no"})

    answer = call(Unread(app, 1000), chunks=[b"12", b"345"], headers=headers)
    _, given, body, taken = asyncio.run(answer)
    assert given == ({b"connection": b"close"} if closes else {})
    assert (body, taken) == (b"no", 2 if reads or closes else 0)


def test_after_a_refusal_no_more_than_so_much_is_read(monkeypatch):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 413, "headers": []})
        await send({"type": "http.response.body", "body": b"no"})

    def read(**options):
        return asyncio.run(call(Unread(app, 1000), headers=CHUNKED, **options))[3]

    assert read(chunks=repeat(bytes(100))) == 10
    monkeypatch.setattr(connections, "LINGER_S", 0.05)
    assert read(chunks=repeat(b"x"), slow=0.02) < 10
