"""Every way a request can be turned down: one code, one HTTP status, one meaning."""

from __future__ import annotations

from typing import Any

#: Code → (HTTP status, what it means). Clients may rely on the codes; messages can change.
REFUSALS: dict[str, tuple[int, str]] = {
    "missing_key": (401, "The API key is missing or wrong."),
    "url_disabled": (403, "This service does not fetch addresses."),
    "address_refused": (403, "The address is not one that this service fetches."),
    "not_found": (404, "There is nothing at this path."),
    "method_not_allowed": (405, "The path does not take this method."),
    "upload_timeout": (408, "The body did not arrive in time."),
    "body_too_large": (413, "The body has more bytes than allowed."),
    "image_too_large": (413, "A photo has more pixels than allowed."),
    "too_many_images": (413, "The request has more photos than allowed."),
    "unsupported_type": (415, "The body, or a file in it, is no kind of photo that is read here."),
    "invalid_request": (422, "A parameter or the structure of the body is wrong."),
    "no_image": (422, "The request has no photo."),
    "unreadable_image": (422, "A photo is broken."),
    "fetch_failed": (422, "What is at the address could not be had."),
    "detector_failed": (500, "The detector failed."),
    "internal_error": (500, "Something went wrong that should not; the log says what."),
    "queue_full": (503, "Too much is waiting. Retry-After says when to come back."),
    "not_ready": (503, "The model is being loaded, or the service is about to stop."),
    "timeout": (504, "The photos were not looked at in time."),
}
#: Seconds after which a client may try again.
RETRY_AFTER_S = 1


class Refusal(Exception):
    """A request is turned down.

    Attributes:
        code: a key of `REFUSALS`.
        status: of HTTP.
        message: what happened, what was expected, what to do.
        image: which photo of the request is meant: its index and name.
    """

    def __init__(
        self, code: str, message: str, *, image: tuple[int, str | None] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = REFUSALS[code][0]
        self.message = message
        self.image = image

    def about(self, index: int, name: str | None) -> Refusal:
        """The same refusal, saying which photo of the request is meant."""
        return Refusal(self.code, self.message, image=(index, name))

    @property
    def headers(self) -> dict[str, str]:
        """Headers that go with the status."""
        if self.status == 503:
            return {"Retry-After": str(RETRY_AFTER_S)}
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        return {}

    def to_dict(self) -> dict[str, Any]:
        """The body of the answer."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.image is not None:
            error["index"], name = self.image
            if name is not None:
                error["image"] = name
        return {"error": error}
