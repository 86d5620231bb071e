"""Downloads: published files, verified and resumed after a break, and photos by their address."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse, IncompleteRead
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import (
    HTTPBasicAuthHandler,
    HTTPDigestAuthHandler,
    HTTPPasswordMgrWithDefaultRealm,
    OpenerDirector,
    Request,
    build_opener,
    urlopen,
)

from faceresnet import __version__
from faceresnet.errors import DownloadError, while_writing

#: Called with the bytes there so far and the total, None where the server does not say.
Progress = Callable[[int, int | None], None]
#: Called with a file's name, the bytes there so far and the bytes in all.
FileProgress = Callable[[str, int, int], None]

USER_AGENT = f"faceresnet/{__version__}"
CHUNK_BYTES = 1 << 20
DEFAULT_TIMEOUT_S = 30.0
#: A day; sockets cannot wait for centuries.
LONGEST_TIMEOUT_S = 86_400.0
#: The answer to a range that starts at or beyond the end of the file.
RANGE_NOT_SATISFIABLE = 416


def fetch(
    urls: Sequence[str],
    target: str | os.PathLike[str],
    sha256: str,
    *,
    progress: Progress | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> Path:
    """Download a file whose checksum is known; do nothing where it is already there.

    The mirrors are tried in order. What arrives goes to ``<target>.part`` beside the target, where
    the next mirror, or the next call, goes on; only a verified file is renamed to its own name.

    Args:
        urls: http(s) addresses of the same file, best first.
        target: where it goes; missing folders are made.
        sha256: its checksum, 64 hexadecimal digits.
        progress: called after every chunk.
        timeout_s: longest silence of a server, in seconds: above 0, at most `LONGEST_TIMEOUT_S`.

    Returns:
        The target.

    Raises:
        DownloadError: no mirror had the right file, or it cannot be written here.
        ValueError: `urls` is empty or not http(s), `sha256` is no such checksum, or `timeout_s` is
            out of range.
    """
    if isinstance(urls, str) or not urls:
        raise ValueError(f"urls must be a list with at least one address, got {urls!r}")
    for url in urls:
        if not url.startswith(("https://", "http://")):
            raise ValueError(f"only http and https addresses can be fetched, got {url!r}")
    expected = sha256.lower()
    if not re.fullmatch("[0-9a-f]{64}", expected):
        raise ValueError(f"sha256 must be 64 hexadecimal digits, got {sha256!r}")
    if not 0 < timeout_s <= LONGEST_TIMEOUT_S:
        raise ValueError(
            f"the timeout must be above 0 and at most {LONGEST_TIMEOUT_S:.0f} s, got {timeout_s}"
        )
    target = Path(target)
    partial = target.with_name(target.name + ".part")
    with while_writing(target, DownloadError):
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and file_sha256(target) == expected:
            return target
        failures = []
        for url in urls:
            failure = _try_mirror(url, partial, expected, progress, timeout_s)
            if failure is None:
                partial.replace(target)
                return target
            failures.append(f"{url}: {failure}")
    raise DownloadError(
        f"could not download {target.name} ({'; '.join(failures)}). Check the connection and "
        f"try again: it goes on where it stopped. Or put the file at {target} yourself "
        f"(sha256 {expected})."
    )


def read(url: str, limit_bytes: int, timeout_s: float) -> bytes:
    """What lies at an http(s) address.

    Args:
        url: the address; may hold a name and a password, as ``http://name:password@host/``.
        limit_bytes: what is longer is not read to its end, and comes one byte longer than this.
        timeout_s: longest silence of the server, in seconds.

    Raises:
        OSError: the server cannot be reached, falls silent, or (`HTTPError`) refuses.
        HTTPException: it speaks no HTTP, or ends before all is sent.
        ValueError: it is no address.
    """
    address, opener = _log_in(url)
    request = Request(address, headers={"User-Agent": USER_AGENT})
    with opener.open(request, timeout=timeout_s) as response:
        content: bytes = response.read(limit_bytes + 1)
        if response.length and len(content) <= limit_bytes:
            raise IncompleteRead(content, response.length)
        return content


def _log_in(url: str) -> tuple[str, OpenerDirector]:
    """An address without the name and password in it, and what answers with them when asked."""
    parts = urlsplit(url)
    login, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, build_opener()
    address = parts._replace(netloc=host).geturl()
    name, _, password = map(unquote, login.partition(":"))
    known = HTTPPasswordMgrWithDefaultRealm()
    known.add_password(None, address, name, password)
    return address, build_opener(HTTPBasicAuthHandler(known), HTTPDigestAuthHandler(known))


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _MirrorError(Exception):
    """A server failed; files on this machine raise `OSError` instead."""


@dataclass(frozen=True)
class PublishedFile:
    """A file of which everything is known but its content.

    Attributes:
        name: what it is called here.
        size_bytes: its length.
        sha256: its checksum.
        urls: where it lies, best first.
    """

    name: str
    size_bytes: int
    sha256: str
    urls: tuple[str, ...]


def fetch_published(
    file: PublishedFile,
    folder: str | os.PathLike[str],
    *,
    progress: FileProgress | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> Path:
    """`fetch` a published file into a folder, telling its progress by its name.

    Raises:
        DownloadError, ValueError: as `fetch`.
    """

    def report(done: int, total: int | None) -> None:
        if progress is not None:
            progress(file.name, done, file.size_bytes if total is None else total)

    target = Path(folder) / file.name
    path = fetch(file.urls, target, file.sha256, progress=report, timeout_s=timeout_s)
    report(file.size_bytes, file.size_bytes)
    return path


def _try_mirror(
    url: str, partial: Path, expected: str, progress: Progress | None, timeout_s: float
) -> str | None:
    """Complete `partial` from one mirror; what went wrong, or None for a verified file."""
    fresh = _size(partial) == 0
    while True:
        start = _size(partial)
        try:
            _append(url, partial, start, progress, timeout_s)
        except _MirrorError as error:
            # A broken connection that moved the file on is taken up again where it broke.
            if _size(partial) > start:
                continue
            return str(error)
        found = file_sha256(partial)
        if found == expected:
            return None
        partial.unlink()
        if fresh:
            return f"checksum {found}, expected {expected}"
        # What was there may be of another version of the file: once more from nothing.
        fresh = True


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _append(
    url: str, partial: Path, start: int, progress: Progress | None, timeout_s: float
) -> None:
    """Download everything from byte `start` on to the end of `partial`."""
    headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        response: HTTPResponse = urlopen(Request(url, headers=headers), timeout=timeout_s)
    except HTTPError as error:
        error.close()
        if error.code == RANGE_NOT_SATISFIABLE and start:
            return  # everything is there already, or too much: the checksum decides
        raise _MirrorError(f"HTTP {error.code} {error.reason}") from error
    # The last two come of a redirect to an address that is none, or has no such port.
    except (OSError, HTTPException, ValueError, OverflowError) as error:
        raise _MirrorError(str(error) or type(error).__name__) from error
    with response:
        resumed = _resumes_at(response, start)
        with partial.open("ab" if resumed else "wb") as file:
            _copy(response, file, start if resumed else 0, progress)


def _resumes_at(response: HTTPResponse, start: int) -> bool:
    """Whether the server sends the rest of the file rather than all of it."""
    content_range = response.headers.get("Content-Range", "")
    return start > 0 and response.status == 206 and content_range.startswith(f"bytes {start}-")


def _copy(response: HTTPResponse, file: BinaryIO, start: int, progress: Progress | None) -> None:
    length = response.headers.get("Content-Length", "")
    # Beyond an exabyte it is no length; int() refuses thousands of digits.
    total = start + int(length) if re.fullmatch("[0-9]{1,18}", length) else None
    done = start
    while True:
        try:
            chunk = response.read(CHUNK_BYTES)
        except (OSError, HTTPException) as error:
            raise _MirrorError(f"broke off after {done} bytes: {error}") from error
        if not chunk:
            break
        file.write(chunk)
        done += len(chunk)
        if progress is not None:
            progress(done, total)
    if total is not None and done < total:
        raise _MirrorError(f"broke off after {done} of {total} bytes")
