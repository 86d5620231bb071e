"""Addresses: which are public, and that nothing else is ever connected to."""

import asyncio
import http.server
import ipaddress
import threading
import time
from contextlib import suppress

import pytest

from faceresnet.apps.serve import fetch
from faceresnet.apps.serve.fetch import Fetcher, is_public
from faceresnet.apps.serve.refusals import Refusal

from .conftest import grey

PUBLIC = [
    *("1.1.1.1", "8.8.8.8", "93.184.216.34", "172.15.0.1", "172.32.0.1", "192.167.1.1"),
    *("2606:4700:4700::1111", "2a00:1450:4001::1", "::ffff:8.8.8.8", "64:ff9b::808:808"),
]
INTERNAL = {
    "loopback": ["127.0.0.1", "127.1.2.3", "::1"],
    "private": ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fc00::1", "fd12::1"],
    "link-local": ["169.254.0.1", "fe80::1", "fe80::1%eth0"],
    "metadata": ["169.254.169.254", "169.254.170.2", "fd00:ec2::254", "100.100.100.200",
                 "192.0.0.192", "168.63.129.16"],
    "shared": ["100.64.0.1", "100.127.255.255"],
    "unspecified": ["0.0.0.0", "0.1.2.3", "::"],
    "multicast": ["224.0.0.1", "239.255.255.250", "ff02::1", "ff0e::1"],
    "reserved": ["240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "203.0.113.5",
                 "2001:db8::1", "100::1"],
    "site-local": ["fec0::1"],
    "mapped": ["::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1",
               "::ffff:0:7f00:1"],
    "translated": ["64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a00:1"],
    "tunnelled": ["2002:7f00:1::", "2002:a9fe:a9fe::1", "2001:0:53aa:64c::1"],
}  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address):
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address", [address for addresses in INTERNAL.values() for address in addresses]
)
def test_internal_addresses(address):
    assert not is_public(ipaddress.ip_address(address))


def run(url, *, networks=(), max_bytes=100_000, timeout_s=5.0, arrived=lambda count: None):
    """What the fetcher gives for an address, or the code of its refusal."""

    async def once():
        fetcher = Fetcher(max_bytes=max_bytes, timeout_s=timeout_s, networks=networks)
        try:
            return await fetcher.fetch(url, arrived)
        except Refusal as refusal:
            return refusal.code
        finally:
            await fetcher.close()

    return asyncio.run(once())


@pytest.fixture
def no_connections(monkeypatch):
    """Fails if anything is connected to."""

    def connects(*_, **__):
        raise AssertionError("it connected")

    monkeypatch.setattr("socket.socket.connect", connects)
    monkeypatch.setattr(asyncio.BaseEventLoop, "create_connection", connects)
    monkeypatch.setattr("anyio.connect_tcp", connects)


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1/", "http://127.1/", "http://2130706433/", "http://0x7f000001/"),
        *("http://0177.0.0.1/", "http://0/", "http://localhost/", "http://localhost:8080/"),
        *("http://[::1]/", "http://[::ffff:127.0.0.1]/", "http://[::]/", "https://10.1.2.3/"),
        *("http://169.254.169.254/latest/meta-data/", "http://[fe80::1]/", "http://0.0.0.0:8000/"),
        *(
            "http://127.0.0.1%2f@example.org/",
            "http://user:secret@8.8.8.8/",
            "http://user@1.1.1.1/",
        ),
        *("file:///etc/passwd", "gopher://8.8.8.8/", "ftp://8.8.8.8/x", "data:image/png;base64,AA"),
        *("//8.8.8.8/x", "/etc/passwd", "http:///x", "http://8.8.8.8:22/", "https://8.8.8.8:6379/"),
        *("http://①②⑦.0.0.1/", "http://127。0。0。1/"),
    ],
)
def test_addresses_that_are_refused(url, no_connections):
    assert run(url) in ("address_refused", "invalid_request")


@pytest.mark.parametrize(
    "url",
    [
        *("", "http://", "http://[::1", "http://a b/", "x" * 3000, "http://\x00/"),
        *("http://8.8.8.8:99999/", "http://8.8.8.8:0/", "http://xn--a/"),
    ],
)
def test_what_is_no_address(url, no_connections):
    assert run(url) in ("address_refused", "invalid_request", "fetch_failed")


def test_a_name_with_one_internal_address_is_refused(monkeypatch, no_connections):
    async def resolve(host, port):
        return [ipaddress.ip_address("8.8.8.8"), ipaddress.ip_address("10.0.0.1")]

    monkeypatch.setattr(fetch, "resolve", resolve)
    assert run("http://example.org/photo.jpg") == "address_refused"


def test_a_name_without_address(monkeypatch, no_connections):
    async def resolve(host, port):
        return []

    monkeypatch.setattr(fetch, "resolve", resolve)
    assert run("http://example.org/photo.jpg") == "fetch_failed"


PHOTO = grey(16, 16)


@pytest.fixture
def site():
    """A web server on loopback; gives its port and the Host headers that it saw."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            hosts.append(self.headers["Host"])
            kind, _, rest = self.path[1:].partition("/")
            if kind == "to":
                self.send_response(302)
                self.send_header("Location", rest)
                self.end_headers()
            elif kind == "gone":
                self.send_error(404)
            elif kind == "slow":
                stop.wait(5)
            elif kind == "endless":
                self.send_response(200)
                self.end_headers()
                while not stop.is_set():
                    self.wfile.write(bytes(10_000))
            else:
                self.send_response(200)
                if kind == "packed":
                    self.send_header("Content-Encoding", "gzip")
                self.send_header("Content-Length", str(len(PHOTO)))
                self.end_headers()
                self.wfile.write(PHOTO)

        def handle(self):
            with suppress(ConnectionError):  # the fetcher hangs up when it has seen enough
                super().handle()

        def log_message(self, *_):
            pass

    hosts, stop = [], threading.Event()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port, hosts
        stop.set()
        server.shutdown()
        thread.join()


LOOPBACK = ("127.0.0.0/8",)


def test_fetching_from_an_allowed_network(site):
    port, hosts = site
    counted = []
    url = f"http://127.0.0.1:{port}/photo.png"
    assert run(url, networks=LOOPBACK, arrived=counted.append) == PHOTO
    assert sum(counted) == len(PHOTO)
    assert run(url) == "address_refused"
    assert run(url, networks=("10.0.0.0/8",)) == "address_refused"
    assert hosts == [f"127.0.0.1:{port}"]


def test_the_connection_goes_to_the_address_that_was_checked(site, monkeypatch):
    """A name that changes its address after the check (DNS rebinding) gains nothing."""
    port, hosts = site
    asked = []

    async def resolve(host, port):
        asked.append(host)
        return [ipaddress.ip_address("127.0.0.1" if len(asked) == 1 else "10.0.0.1")]

    monkeypatch.setattr(fetch, "resolve", resolve)
    assert run(f"http://photos.example:{port}/x", networks=LOOPBACK) == PHOTO
    assert asked == ["photos.example"]
    assert hosts == [f"photos.example:{port}"]


def test_redirects_are_checked_again(site):
    port, hosts = site
    base = f"http://127.0.0.1:{port}"
    assert run(f"{base}/to//photo.png", networks=LOOPBACK) == PHOTO
    assert run(f"{base}/to/{base}/to//photo.png", networks=LOOPBACK) == PHOTO
    for target in (
        "http://10.0.0.1/",
        "http://[::1]/",
        "file:///etc/passwd",
        "http://user@1.1.1.1/",
    ):
        assert run(f"{base}/to/{target}", networks=LOOPBACK) == "address_refused"
    for target in ("http://127.0.0.1:99999/", "http://xn--a/", "http://[::1"):
        assert run(f"{base}/to/{target}", networks=LOOPBACK) in ("invalid_request", "fetch_failed")
    hosts.clear()
    assert run(f"{base}/to/" * 9, networks=LOOPBACK) == "fetch_failed"
    assert len(hosts) == 4


def test_what_the_other_side_may_do_wrong(site):
    port, _ = site
    base = f"http://127.0.0.1:{port}"
    start = time.monotonic()
    assert run(f"{base}/gone", networks=LOOPBACK) == "fetch_failed"
    assert run(f"{base}/packed", networks=LOOPBACK) == "fetch_failed"
    assert run(f"{base}/endless", networks=LOOPBACK) == "body_too_large"
    assert run(f"{base}/slow", networks=LOOPBACK, timeout_s=0.3) == "fetch_failed"
    assert run("http://127.0.0.1:1/", networks=LOOPBACK) == "fetch_failed"
    assert time.monotonic() - start < 5


def test_proxies_of_the_environment_are_not_used(site, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://10.255.255.1:3128")
    monkeypatch.setenv("ALL_PROXY", "http://10.255.255.1:3128")
    assert run(f"http://127.0.0.1:{site[0]}/x", networks=LOOPBACK) == PHOTO


def test_addresses_through_the_service(serve, fake, site):
    client = serve(fetch_urls=True, url_networks=LOOPBACK)
    base = f"http://127.0.0.1:{site[0]}"
    answer = client.post("/v1/detect", json={"urls": [f"{base}/a.png", f"{base}/b.png"]})
    assert answer.status_code == 200
    assert [image["image"] for image in answer.json()["images"]] == [
        f"{base}/a.png",
        f"{base}/b.png",
    ]
    refused = client.post("/v1/detect", json={"url": "http://10.0.0.1/"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "address_refused")
    assert client.app.state.service.held.now == 0


def test_a_slow_address_is_no_slow_body(serve, fake, site):
    client = serve(fetch_urls=True, url_networks=LOOPBACK, timeout_s=0.3)
    refused = client.post("/v1/detect", json={"url": f"http://127.0.0.1:{site[0]}/slow"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "fetch_failed")
