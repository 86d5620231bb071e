"""Photos of a request, counted while they arrive.

A body is one photo, a form with files, or JSON that names addresses. What Content-Length claims
only refuses sooner; what counts are the bytes that come.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Self

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from faceresnet.apps.serve.fetch import Fetcher
from faceresnet.apps.serve.photos import KINDS
from faceresnet.apps.serve.refusals import Refusal
from faceresnet.apps.serve.settings import Settings

#: Bytes of a JSON body at most: some addresses.
JSON_BYTES = 100_000
#: Bytes of a form's field that is no file.
FIELD_BYTES = 10_000
#: Characters of a file's name that are kept.
NAME_LENGTH = 200

EXPECTED = (
    "send a photo as the body with its Content-Type (image/jpeg, …), or a form with files "
    "(multipart/form-data)"
)
SEND_LESS = "send less at a time"
NOT_IN_JSON = "photos do not travel in JSON: send them as a form or as the body"
FILENAME = "a photo's part needs a filename, not filename* alone"


@dataclass(frozen=True)
class Upload:
    """One photo of a request: its bytes, and what the client calls it."""

    content: bytes
    name: str | None = None


class Held:
    """Bytes of bodies in memory, of all requests together."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.now = 0


class Intake:
    """Bytes of one request; they are given back when its context ends."""

    def __init__(self, held: Held, limit: int) -> None:
        self._held = held
        self._limit = limit
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._held.now -= self._bytes

    def add(self, count: int) -> None:
        """Count bytes that came.

        Raises:
            Refusal: this request's are too many, or everyone's together.
        """
        self._bytes += count
        self._held.now += count
        if self._bytes > self._limit:
            raise _too_large(self._limit)
        if self._held.now > self._held.limit:
            raise Refusal("queue_full", "too many bytes are waiting already: try again in a moment")


async def receive(
    request: Request, settings: Settings, intake: Intake, fetcher: Fetcher | None
) -> list[Upload]:
    """Read the photos of a request.

    Raises:
        Refusal: there are none, too many, too large, of a wrong type, or they come too slowly.
        ClientDisconnect: the client went away.
    """
    claimed = request.headers.get("content-length", "0")
    if claimed.isdecimal() and int(claimed) > settings.max_bytes:
        raise _too_large(settings.max_bytes)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        async with asyncio.timeout(settings.timeout_s):
            if kind != "application/json":
                return await _photos(request, kind, settings, intake)
            body = await _whole(request, intake, min(JSON_BYTES, settings.max_bytes), NOT_IN_JSON)
            addresses = _addresses(body, settings.max_images)
    except TimeoutError as error:
        raise Refusal(
            "upload_timeout", f"the body did not arrive within {settings.timeout_s:g} s"
        ) from error
    return await _fetched(addresses, settings, intake, fetcher)


async def _fetched(
    addresses: list[str], settings: Settings, intake: Intake, fetcher: Fetcher | None
) -> list[Upload]:
    if fetcher is None:
        raise Refusal(
            "url_disabled",
            "this service fetches no addresses: send the photo itself, or start it with "
            "--fetch-urls",
        )
    try:
        async with asyncio.timeout(settings.timeout_s):
            return [
                Upload(await fetcher.fetch(address, intake.add), address) for address in addresses
            ]
    except TimeoutError as error:
        raise Refusal(
            "fetch_failed", f"the addresses did not answer within {settings.timeout_s:g} s"
        ) from error


async def _photos(request: Request, kind: str, settings: Settings, intake: Intake) -> list[Upload]:
    if kind == "multipart/form-data":
        return await _from_form(request, settings, intake)
    if kind in ("", "application/octet-stream") or kind.startswith("image/"):
        content = await _whole(request, intake, settings.max_bytes)
        if not content:
            raise Refusal("no_image", f"the body is empty: {EXPECTED}")
        return [Upload(content)]
    hint = (
        "; curl's --data-binary needs -H 'Content-Type: image/jpeg' beside it"
        if kind == "application/x-www-form-urlencoded"
        else ""
    )
    raise Refusal("unsupported_type", f"the body is {kind[:80]}: {EXPECTED}{hint}")


async def _counted(
    request: Request, intake: Intake, limit: int, advice: str = SEND_LESS
) -> AsyncGenerator[bytes, None]:
    """Chunks of a body of `limit` bytes at most; `advice` is for who sends more."""
    size = 0
    async for chunk in request.stream():
        intake.add(len(chunk))
        size += len(chunk)
        if size > limit:
            raise _too_large(limit, advice)
        yield chunk


async def _whole(request: Request, intake: Intake, limit: int, advice: str = SEND_LESS) -> bytes:
    return b"".join([chunk async for chunk in _counted(request, intake, limit, advice)])


class _InMemory(MultiPartParser):
    """Starlette's parser, with files that never touch the disk: `Intake` bounds them."""

    spool_max_size = 0  # SpooledTemporaryFile's word for "never roll over"


async def _from_form(request: Request, settings: Settings, intake: Intake) -> list[Upload]:
    # One more file than allowed, so that it is us who count, and answer 413.
    parser = _InMemory(
        request.headers,
        _counted(request, intake, settings.max_bytes),
        max_files=settings.max_images + 1,
        max_fields=8,
        max_part_size=FIELD_BYTES,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if "Too many files" in error.message:
            raise _too_many(settings.max_images) from error
        if "Part exceeded" in error.message:
            raise Refusal(
                "invalid_request",
                f"a field of the form that is no file is larger than {FIELD_BYTES:,} bytes: "
                f"{FILENAME}",
            ) from error
        raise Refusal("invalid_request", f"the form is broken: {error.message}") from error
    except UnicodeError as error:  # of a codec that Starlette does not expect to fail so
        raise Refusal(
            "invalid_request", "the form's names are not in its charset: send them in utf-8"
        ) from error
    try:
        for field, value in form.multi_items():
            if not isinstance(value, UploadFile):
                raise Refusal(
                    "invalid_request",
                    f"the form's field '{field[:80]}' is no file: {FILENAME}, and options go into "
                    "the address, as in /v1/detect?threshold=0.3",
                )
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        if len(files) > settings.max_images:
            raise _too_many(settings.max_images)
        if not files:
            raise Refusal("no_image", f"the form has no file: {EXPECTED}")
        return [Upload(file.file.read(), _name(file.filename)) for file in files]
    finally:
        await form.close()


def _name(given: str | None) -> str | None:
    """What to call a file in the answer: no path, nothing that cannot be printed."""
    name = (given or "").replace("\\", "/").rpartition("/")[2]
    name = "".join(character for character in name if character.isprintable())
    return name[:NAME_LENGTH] or None


def _addresses(body: bytes, max_images: int) -> list[str]:
    """Addresses in a JSON body ``{"url": …}`` or ``{"urls": […]}``."""
    expected = 'expected {"url": "https://…"} or {"urls": ["https://…", …]}'
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal("invalid_request", f"the body is no JSON: {expected}") from error
    match asked:
        case {"url": str(address)} if len(asked) == 1:
            return [address]
        case {"urls": [_, *_] as given} if len(asked) == 1:
            addresses = [address for address in given if isinstance(address, str)]
            if len(addresses) < len(given):
                raise Refusal("invalid_request", f"an address is text: {expected}")
            if len(addresses) > max_images:
                raise _too_many(max_images)
            return addresses
    raise Refusal("invalid_request", f"the JSON names no address: {expected}; {NOT_IN_JSON}")


def _too_large(limit: int, advice: str = SEND_LESS) -> Refusal:
    return Refusal("body_too_large", f"the body is larger than {limit:,} bytes: {advice}")


def _too_many(limit: int) -> Refusal:
    return Refusal(
        "too_many_images", f"a request may have {limit} photos: send the others in another"
    )


#: MIME types of the bodies that are photos.
BODY_TYPES = (*KINDS.values(), "application/octet-stream")
