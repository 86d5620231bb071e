"""What a camera is called: its name in events, and its address without passwords."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

#: Protocols that a live picture may come by.
SCHEMES = frozenset({"http", "https", "rtmp", "rtmps", "rtp", "rtsp", "rtsps", "srt", "tcp", "udp"})
MASK = "***"

_ADDRESS = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)(?P<rest>[^\s'\"<>]*)", re.IGNORECASE)
#: Values that cameras take in the path or the query: ``/user=admin_password=1234_channel=1``.
_SECRET = re.compile(
    r"((?:user|login|pass|passwd|pwd|pw|psw|token|key|auth|secret|sign|pin|code(?!c))\w*?|\bp)"
    r"=([^&\s/;?#'\"]*)",
    re.IGNORECASE,
)
_IPV6 = re.compile(r"\[[0-9a-f:.]+\](:[0-9]+)?", re.IGNORECASE)
_NAMED = re.compile(r"(?P<name>\w[\w .-]*)=(?P<address>.+)", re.DOTALL)


def mask(text: str) -> str:
    """Replace user names, passwords and tokens in the addresses of a text by ``***``."""
    return _ADDRESS.sub(lambda found: found["scheme"] + _mask_rest(found["rest"]), text)


def _mask_rest(rest: str) -> str:
    """What follows ``scheme://``, without its secrets."""
    server = re.split(r"[/?#]", rest, maxsplit=1)[0]
    end = -1
    if "@" in server or (":" in server and not _IPV6.fullmatch(server)):
        # Perhaps a password with a slash in it, which nobody quoted: those of "admin:554/a@host"
        # and "admin:x@y/z@host" cannot be told from a port and a path, and a path too many hidden
        # is better than a password shown.
        end = rest.rfind("@")
    masked = MASK + rest[end:] if end >= 0 else rest
    return _SECRET.sub(rf"\1={MASK}", masked)


@dataclass(frozen=True)
class Source:
    """One thing to watch.

    Attributes:
        name: in events, metrics and folders: letters, digits, ``_``, ``-``, ``.``.
        address: URL of a camera, path of a video file, or index of a camera of this machine.
        live: whether it is a camera, which goes on for ever, or a file, which ends.
        given: the name that the user gave it, which `name` may differ from; empty if none.
    """

    name: str
    address: str | int
    live: bool
    given: str = field(default="", compare=False)


def parse_sources(arguments: Sequence[str]) -> list[Source]:
    """Cameras and files that arguments name, each ``ADDRESS`` or ``NAME=ADDRESS``.

    ``@FILE`` stands for the lines of a text file, where passwords are not seen by whoever lists
    the machine's processes; empty lines and those that begin with ``#`` are none.

    Raises:
        ValueError: an address is of no known kind, a file is missing, a name or an address is
            given twice, or there is no address at all.
    """
    sources: list[Source] = []
    names: set[str] = set()
    for argument in _listed(arguments):
        given, address = _split(argument)
        kind, live = _kind(address)
        if any(source.address == kind for source in sources):
            raise ValueError(f"{mask(address)} is given twice")
        name = as_name(given) if given else _name(kind)
        if given and name in names:
            raise ValueError(f"two sources are called {name}: give them different names")
        number, unique = 1, name
        while unique in names:
            number += 1
            unique = f"{name}-{number}"
        names.add(unique)
        sources.append(Source(unique, kind, live, given))
    if not sources:
        raise ValueError("there is nothing to watch: the list of cameras is empty")
    return sources


def _listed(arguments: Sequence[str]) -> Iterator[str]:
    """Arguments, lists replaced by their lines."""
    for argument in arguments:
        if not argument.startswith("@"):
            yield argument
            continue
        path = Path(argument[1:])
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise ValueError(f"cannot read the list of cameras {path}: {reason}") from error
        yield from (line.strip() for line in lines if line.strip() and line.strip()[0] != "#")


def as_name(text: str) -> str:
    """`text` as a name that every file system and every metric takes, at most 80 letters long."""
    return re.sub(r"[^\w.-]+", "_", text).strip("_.")[:80] or "camera"


def _split(argument: str) -> tuple[str, str]:
    """Name (may be empty) and address."""
    found = _NAMED.fullmatch(argument)
    if found is None or Path(argument).exists():
        return "", argument
    return found["name"], found["address"]


def _kind(address: str) -> tuple[str | int, bool]:
    """Address as its type, and whether it is live."""
    if address.isdecimal() and not Path(address).exists():
        return int(address), True
    scheme, separator, rest = address.partition("://")
    if separator:
        if scheme.lower() not in SCHEMES or not rest:
            raise ValueError(
                f"'{mask(address)}' is no address of a camera: expected one like "
                f"rtsp://camera/stream, by {', '.join(sorted(SCHEMES))}"
            )
        return address, True
    if address.startswith("/dev/video"):
        return address, True
    if not Path(address).is_file():
        raise ValueError(
            f"no video file is called '{mask(address)}': give an address (rtsp://…), a file, "
            "or the index of a camera"
        )
    return address, False


def _name(address: str | int) -> str:
    """Name made from an address, without its secrets."""
    if isinstance(address, int):
        return f"camera{address}"
    if "://" not in address:
        return as_name(Path(address).stem)
    masked = mask(address).replace(f"{MASK}@", "")
    parts = urllib.parse.urlsplit(masked)
    return as_name(f"{parts.netloc}{parts.path}")
