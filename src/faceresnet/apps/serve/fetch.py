"""Photos by their address, without a way into the network that the service stands in.

A name is resolved once, every address that it has must be public, and the connection goes to the
very address that was checked; a redirect starts over. Proxies of the environment are not used.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from faceresnet import __version__
from faceresnet.apps.serve.refusals import Refusal

if TYPE_CHECKING:
    import httpx

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Redirects that are followed at most.
REDIRECTS = 3
#: Characters of an address at most.
URL_LENGTH = 2_000
#: Ports of public addresses that are connected to: those that web servers listen on.
PORTS = frozenset({80, 443, 8080, 8443})
#: Public addresses that answer from inside a cloud: Azure's metadata and agent.
INSIDE = frozenset({ipaddress.ip_address("168.63.129.16")})
#: IPv6 networks whose addresses carry an IPv4 address: how many bits from the right it ends.
_CARRIERS: dict[ipaddress.IPv6Network, int] = {
    ipaddress.IPv6Network("::/96"): 0,
    ipaddress.IPv6Network("::ffff:0:0/96"): 0,
    ipaddress.IPv6Network("::ffff:0:0:0/96"): 0,
    ipaddress.IPv6Network("64:ff9b::/96"): 0,
    ipaddress.IPv6Network("2002::/16"): 80,
}
#: Networks that are not public, whatever Python's own list says: it grew from release to release.
_NEVER = (
    ipaddress.IPv4Network("100.64.0.0/10"),
    ipaddress.IPv4Network("192.0.0.0/24"),
    ipaddress.IPv6Network("64:ff9b:1::/48"),
    ipaddress.IPv6Network("2001::/32"),
    ipaddress.IPv6Network("fec0::/10"),
)


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet, whatever it is wrapped in."""
    if any(address in network for network in _NEVER):
        return False
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id:
            return False
        for network, shift in _CARRIERS.items():
            if address in network:
                return is_public(ipaddress.IPv4Address((int(address) >> shift) & 0xFFFFFFFF))
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not address.is_unspecified
        and address not in INSIDE
    )


class Fetcher:
    """Fetches what is at an address.

    Args:
        max_bytes: largest file.
        timeout_s: longest time for one address, redirects included.
        networks: networks that may be connected to though they are not public, on any port.
    """

    def __init__(self, *, max_bytes: int, timeout_s: float, networks: Sequence[str] = ()) -> None:
        import httpx

        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._networks: list[Network] = [ipaddress.ip_network(network) for network in networks]
        self._client = httpx.AsyncClient(
            follow_redirects=False,
            trust_env=False,
            timeout=timeout_s,
            # A connection kept for one name could be used for another at the same address.
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=0),
            headers={"User-Agent": f"faceresnet/{__version__}", "Accept-Encoding": "identity"},
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def fetch(self, url: str, arrived: Callable[[int], None]) -> bytes:
        """Fetch a file.

        Args:
            url: http or https.
            arrived: called with the number of bytes of each chunk; may raise to stop.

        Raises:
            Refusal: the address is refused, nothing is there, or it is too large.
        """
        import httpx

        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._fetch(url, arrived)
        except TimeoutError as error:
            raise Refusal(
                "fetch_failed", f"the address did not answer within {self._timeout_s:g} s"
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            # What exactly failed would tell strangers about the network.
            raise Refusal("fetch_failed", "the address could not be connected to") from error

    async def _fetch(self, url: str, arrived: Callable[[int], None]) -> bytes:
        for _ in range(REDIRECTS + 1):
            target = _parse(url)
            address = await self._resolve(target)
            request = self._client.build_request(
                "GET",
                target.copy_with(host=str(address)),
                headers={"Host": target.netloc.decode("ascii")},
                extensions={"sni_hostname": target.host},
            )
            response = await self._client.send(request, stream=True)
            try:
                if response.has_redirect_location:
                    url = str(target.join(response.headers["location"]))
                    continue
                return await self._content(response, arrived)
            finally:
                await response.aclose()
        raise Refusal("fetch_failed", f"the address redirects more than {REDIRECTS} times")

    async def _content(self, response: httpx.Response, arrived: Callable[[int], None]) -> bytes:
        if response.status_code != 200:
            raise Refusal("fetch_failed", f"the address answers {response.status_code}")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise Refusal("fetch_failed", "the address sends a compressed body")
        chunks: list[bytes] = []
        size = 0
        async for chunk in response.aiter_raw():
            size += len(chunk)
            if size > self._max_bytes:
                raise Refusal(
                    "body_too_large", f"the file is larger than {self._max_bytes:,} bytes"
                )
            arrived(len(chunk))
            chunks.append(chunk)
        return b"".join(chunks)

    async def _resolve(self, target: httpx.URL) -> Address:
        """The one address to connect to.

        Raises:
            Refusal: the name has no address, or one that may not be connected to.
        """
        port = target.port or (443 if target.scheme == "https" else 80)
        addresses = await resolve(target.host, port)
        if not addresses:
            raise Refusal("fetch_failed", "the address could not be connected to")
        for address in addresses:
            if any(address in network for network in self._networks):
                continue
            if not is_public(address):
                raise Refusal("address_refused", "the address is not on the public internet")
            if port not in PORTS:
                ports = ", ".join(map(str, sorted(PORTS)))
                raise Refusal("address_refused", f"the port must be one of {ports}, got {port}")
        return addresses[0]


def _parse(url: str) -> httpx.URL:
    import httpx

    if len(url) > URL_LENGTH:
        raise Refusal("invalid_request", f"the address has more than {URL_LENGTH} characters")
    try:
        target = httpx.URL(url)
        host = target.raw_host.decode("ascii") and target.host  # decoding it may fail, too
    except (httpx.InvalidURL, UnicodeError, ValueError) as error:
        raise Refusal("invalid_request", "the address is no URL") from error
    if target.scheme not in ("http", "https") or not host:
        raise Refusal("address_refused", "the address must start with http:// or https://")
    if target.userinfo:
        raise Refusal("address_refused", "the address must not hold a user name or password")
    if target.port is not None and not 0 < target.port < 65_536:
        raise Refusal("invalid_request", f"the port must lie in 1..65535, got {target.port}")
    return target


async def resolve(host: str, port: int) -> list[Address]:
    """Addresses of a name, by the system's resolver; none if it has none."""
    try:
        found: list[Any] = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )
    except (OSError, UnicodeError):
        return []
    return [ipaddress.ip_address(entry[4][0]) for entry in found]
