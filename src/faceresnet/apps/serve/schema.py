"""The answers, as OpenAPI tells them, with examples; routes build them as plain dictionaries."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from faceresnet.apps.serve.refusals import REFUSALS
from faceresnet.apps.serve.uploads import BODY_TYPES

EXAMPLE: dict[str, Any] = {
    "model": "faceresnet-n",
    "threshold": 0.5,
    "images": [
        {
            "image": "party.jpg",
            "width": 640,
            "height": 480,
            "faces": [
                {"box": [167.31, 62.04, 280.5, 208.77], "score": 0.9713},
                {"box": [402.9, 88.62, 431.17, 126.3], "score": 0.8102},
            ],
            "timing_ms": {"wait": 0.4, "read": 2.3, "detect": 9.8},
        }
    ],
    "timing_ms": {"total": 14.1},
}


class Face(BaseModel):
    """One face."""

    box: list[float] = Field(
        description="x1, y1, x2, y2 in px of the upright photo (EXIF orientation applied); the "
        "origin is the corner of the top-left pixel.",
        min_length=4,
        max_length=4,
    )
    score: float = Field(description="How sure the detector is, 0..1.", ge=0, le=1)


class ImageTiming(BaseModel):
    """Milliseconds of one photo."""

    wait: float = Field(description="In queues.")
    read: float = Field(description="To decode it.")
    detect: float = Field(description="In the detector, together with the others of its batch.")


class ImageFaces(BaseModel):
    """One photo and its faces."""

    image: str | None = Field(
        None, description="Name of the file, or the address, if there is one."
    )
    width: int = Field(description="px, upright.")
    height: int = Field(description="px, upright.")
    faces: list[Face] = Field(description="Best first.")
    timing_ms: ImageTiming


class Timing(BaseModel):
    """Milliseconds of the request."""

    total: float = Field(description="From the head of the request to the answer.")


class Found(BaseModel):
    """Faces of all photos of a request, in their order."""

    model: str
    threshold: float = Field(description="Least score that is reported.")
    images: list[ImageFaces]
    timing_ms: Timing


class Model(BaseModel):
    """A model that is served."""

    name: str
    threshold: float = Field(description="Least score reported unless a request asks for another.")
    precision: str
    licence: str
    recipe: str
    measured: dict[str, float] = Field(description="AP by protocol and data set.")


class Limits(BaseModel):
    """What a request may hold."""

    max_bytes: int = Field(description="Of a body, and of a file behind an address.")
    max_pixels: int = Field(description="Of a photo.")
    max_images: int = Field(description="In a request.")
    max_side: int | None = Field(description="Larger photos are reduced to it, px.")
    timeout_s: float = Field(description="For the body to arrive, and again for the answer.")
    fetch_urls: bool = Field(description="Whether photos may be named by their address.")


class Models(BaseModel):
    """The models that are served, and the limits."""

    models: list[Model]
    limits: Limits


class Status(BaseModel):
    """Whether the service is well."""

    status: str


class Error(BaseModel):
    """Why a request was turned down."""

    code: str = Field(description="One of a fixed set, for programs: " + ", ".join(REFUSALS) + ".")
    message: str = Field(description="For people.")
    index: int | None = Field(None, description="Which photo of the request is meant, from 0.")
    image: str | None = Field(None, description="Name of that photo.")


class Refused(BaseModel):
    """A request turned down; nothing of it was answered."""

    error: Error


def refusals(*codes: str) -> dict[int | str, dict[str, Any]]:
    """Answers of these refusals for FastAPI's `responses`, one for each status."""
    answers: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        status, meaning = REFUSALS[code]
        answer = answers.setdefault(
            status,
            {
                "model": Refused,
                "description": "",
                "content": {"application/json": {"examples": {}}},
            },
        )
        answer["description"] = f"{answer['description']} `{code}`: {meaning}".strip()
        answer["content"]["application/json"]["examples"][code] = {
            "value": {"error": {"code": code, "message": meaning}}
        }
        if status == 503:
            answer["headers"] = {
                "Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}
            }
    return answers


_FILE = {"type": "string", "format": "binary"}
_ADDRESS = {"type": "string", "format": "uri"}
#: Body of /v1/detect, which FastAPI cannot tell by itself because we count it as it arrives.
DETECT_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "One photo as the body, a form with one or several files, or addresses if "
        "the service fetches them.",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "file": {
                            "type": "array",
                            "items": _FILE,
                            "description": "Photos; the field may have any name.",
                        }
                    },
                    "required": ["file"],
                }
            },
            **{kind: {"schema": _FILE} for kind in BODY_TYPES},
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "url": _ADDRESS,
                        "urls": {"type": "array", "items": _ADDRESS, "minItems": 1},
                    },
                    "minProperties": 1,
                    "maxProperties": 1,
                    "additionalProperties": False,
                },
                "examples": {"one": {"value": {"url": "https://example.org/party.jpg"}}},
            },
        },
    }
}
