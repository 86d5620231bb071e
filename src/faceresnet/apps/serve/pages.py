"""The page and the documentation: files of this package, nothing from another host."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Response

from faceresnet.apps.serve.refusals import Refusal

FOLDER = Path(__file__).parent / "page"
#: File → its type. Nothing else of the folder is served.
FILES = {
    "style.css": "text/css",
    "page.js": "text/javascript",
    "photo.js": "text/javascript",
    "service.js": "text/javascript",
    "webcam.js": "text/javascript",
    "theme.js": "text/javascript",
    "docs.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
#: For every answer. Scripts, styles and connections come from here and go here; blob: are the
#: visitor's own photos.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
}

router = APIRouter(include_in_schema=False)


def _file(name: str, kind: str) -> Response:
    return Response(
        (FOLDER / name).read_bytes(),
        media_type=f"{kind}; charset=utf-8",
        headers={"Cache-Control": "no-cache"},
    )


@router.get("/")
async def page() -> Response:
    """The page to try the detector on."""
    return _file("index.html", "text/html")


@router.get("/docs")
async def docs() -> Response:
    """The documentation, made from /openapi.json in the browser."""
    return _file("docs.html", "text/html")


@router.get("/page/{name}")
async def part(name: str) -> Response:
    """A part of the page."""
    if name not in FILES:
        raise Refusal("not_found", "there is nothing here")
    return _file(name, FILES[name])
