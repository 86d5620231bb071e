"""The routes of the service."""

from __future__ import annotations

import asyncio
import hmac
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from faceresnet import __version__, images
from faceresnet.apps.serve import pages, schema
from faceresnet.apps.serve.batching import Batcher, Found, Job, queue_full
from faceresnet.apps.serve.fetch import Fetcher
from faceresnet.apps.serve.metrics import Counted, Metrics
from faceresnet.apps.serve.refusals import Refusal
from faceresnet.apps.serve.settings import Settings
from faceresnet.apps.serve.uploads import Held, Intake, receive
from faceresnet.detector import FaceDetector
from faceresnet.errors import one_line

logger = logging.getLogger("faceresnet.serve")

#: The photo that a model is warmed with, height and width px: its shape gets a network of its own.
WARM_SIZE = (480, 640)

Load = Callable[[], FaceDetector]

_key_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="One of the API keys.")
_bearer = HTTPBearer(auto_error=False, description="The same keys, as a bearer token.")


class Service:
    """What the routes share; made for each app.

    Attributes:
        batcher: None until the model is loaded, and after the service has stopped.
        model: what `/v1/models` says about it.
        failure: why the model could not be loaded.
    """

    def __init__(self, settings: Settings, load: Load) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.held = Held(settings.held_bytes)
        self.fetcher: Fetcher | None = None
        self.batcher: Batcher | None = None
        self.model: dict[str, Any] = {}
        self.threshold = 0.5
        self.failure = ""
        self._load = load
        self._loading: threading.Thread | None = None

    def start(self) -> None:
        """Load the model in a thread of its own: /healthz answers meanwhile."""
        if self.settings.fetch_urls:
            self.fetcher = Fetcher(
                max_bytes=self.settings.max_bytes,
                timeout_s=self.settings.timeout_s,
                networks=self.settings.url_networks,
            )
        self._loading = threading.Thread(target=self._load_model, name="loading", daemon=True)
        self._loading.start()

    def _load_model(self) -> None:
        try:
            detector = self._load()
            detector.batch([images.grey(WARM_SIZE)])
        except Exception as error:
            self.failure = one_line(str(error)) or type(error).__name__
            logger.error("the model cannot be loaded: %s", self.failure)
            return
        spec, settings = detector.spec, self.settings
        self.threshold = spec.threshold if settings.threshold is None else settings.threshold
        self.model = {
            "name": spec.name,
            "threshold": self.threshold,
            "precision": spec.precision,
            "licence": spec.licence,
            "recipe": spec.recipe,
            "measured": dict(spec.measured),
        }
        self.batcher = Batcher(
            detector,
            batch_size=settings.batch_size,
            queue_size=settings.queue_size,
            max_pixels=settings.max_pixels,
            on_read=self.metrics.read_s.observe,
            on_detected=self._detected,
        )
        self.metrics.ready.set(1)

    def _detected(self, count: int, seconds: float) -> None:
        self.metrics.batch.observe(count)
        self.metrics.detect_s.observe(seconds)

    async def stop(self) -> None:
        """End the threads and connections."""
        if self._loading is not None:
            await asyncio.to_thread(self._loading.join)
        batcher, self.batcher = self.batcher, None
        if batcher is not None:
            await asyncio.to_thread(batcher.close)
        if self.fetcher is not None:
            await self.fetcher.close()
        self.metrics.close()

    def refresh(self) -> None:
        """Bring the gauges up to date."""
        self.metrics.held.set(self.batcher.held if self.batcher else 0)

    def loaded(self) -> Batcher:
        """The batcher.

        Raises:
            Refusal: there is none yet.
        """
        if self.batcher is None:
            raise Refusal("not_ready", self.failure or "the model is being loaded")
        return self.batcher

    def check_key(self, given: str | None) -> None:
        """Let only those in who have a key, if there are any.

        Raises:
            Refusal: the key is missing or wrong.
        """
        if not self.settings.api_keys:
            return
        # All are compared, so that the time tells nothing about which one came close.
        right = [
            hmac.compare_digest(key.encode(), (given or "").encode())
            for key in self.settings.api_keys
        ]
        if not any(right):
            raise Refusal(
                "missing_key",
                "the API key is missing or wrong: send it as X-API-Key, or as a bearer token",
            )

    async def detect(
        self, request: Request, threshold: float, max_side: int | None
    ) -> list[tuple[str | None, Found]]:
        """Faces of the photos in a request, and what the client calls them.

        Raises:
            Refusal: it is turned down.
            ClientDisconnect: the client went away.
        """
        batcher, settings = self.loaded(), self.settings
        if batcher.full:  # before the body is read, let alone kept
            raise queue_full(batcher.held)
        largest = settings.max_bytes * (settings.max_images if self.fetcher else 1)
        with Intake(self.held, largest) as intake:
            uploads = await receive(request, settings, intake, self.fetcher)
            jobs = [Job(upload.content, threshold, max_side) for upload in uploads]
            batcher.submit(jobs)
            try:
                found = await _answered(request, jobs, settings.timeout_s)
            finally:
                batcher.forget(jobs)
        named = []
        for index, (upload, outcome) in enumerate(zip(uploads, found, strict=True)):
            if isinstance(outcome, Refusal):
                raise outcome.about(index, upload.name)
            if isinstance(outcome, BaseException):
                logger.error("the detector failed", exc_info=outcome)
                raise Refusal("detector_failed", "the detector failed: see the service's log")
            named.append((upload.name, outcome))
        self.metrics.images.inc(len(named))
        self.metrics.faces.inc(sum(len(outcome.faces) for _, outcome in named))
        return named


async def _answered(
    request: Request, jobs: Sequence[Job], timeout_s: float
) -> list[Found | BaseException]:
    """Wait for the results, but no longer than the client does.

    Raises:
        Refusal: it took too long.
        ClientDisconnect: the client went away.
    """
    results: asyncio.Future[list[Found | BaseException]] = asyncio.gather(
        *(asyncio.wrap_future(job.future) for job in jobs), return_exceptions=True
    )
    results.add_done_callback(lambda all_: all_.cancelled() or all_.exception())
    gone: asyncio.Future[None] = asyncio.ensure_future(_disconnected(request))
    try:
        waited: set[asyncio.Future[Any]] = {results, gone}
        await asyncio.wait(waited, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if results.done():
            return results.result()
        if gone.done():
            raise ClientDisconnect
        raise Refusal("timeout", f"the photos were not looked at within {timeout_s:g} s")
    finally:
        results.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    """Return when the client went away; its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)


def _describe(name: str | None, found: Found) -> dict[str, Any]:
    """What the answer says about one photo."""
    timing = {
        "wait": _ms(found.wait_s),
        "read": _ms(found.read_s),
        "detect": _ms(found.detect_s),
    }
    return {"image": name, **found.faces.to_dict(), "timing_ms": timing}


def create_app(settings: Settings, load: Load) -> FastAPI:
    """The service as an ASGI application.

    Args:
        settings: what can be set.
        load: opens the detector; called once, in a thread, when the application starts.
    """
    service = Service(settings, load)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await service.stop()

    app = FastAPI(
        title="FaceResNet",
        summary="Finds faces in photos.",
        description="Send photos to `/v1/detect`. Every refusal has a JSON body with a `code` for "
        "programs and a `message` for people. A request is answered whole or not at all.",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        license_info={"name": "MIT", "identifier": "MIT"},
        openapi_tags=[
            {"name": "detection", "description": "Photos in, faces out."},
            {"name": "operation", "description": "For load balancers and monitoring; no key."},
        ],
    )
    app.state.service = service
    _add_detection(app, service)
    _add_operation(app, service)
    app.include_router(pages.router)
    _add_refusals(app, service)
    if settings.allow_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.allow_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["X-API-Key", "Authorization", "Content-Type"],
            expose_headers=["Retry-After"],
        )
    app.add_middleware(
        Counted, metrics=service.metrics, headers=pages.HEADERS, refresh=service.refresh
    )
    return app


def _add_detection(app: FastAPI, service: Service) -> None:
    async def check_key(
        header: Annotated[str | None, Security(_key_header)],
        bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
    ) -> None:
        service.check_key(header or (bearer.credentials if bearer else None))

    @app.post(
        "/v1/detect",
        tags=["detection"],
        summary="Find the faces in photos",
        dependencies=[Security(check_key)],
        responses={
            200: {
                "model": schema.Found,
                "description": "Faces of every photo, in their order.",
                "content": {"application/json": {"example": schema.EXAMPLE}},
            },
            **schema.refusals(
                *("missing_key", "url_disabled", "address_refused", "upload_timeout"),
                *("body_too_large", "image_too_large", "too_many_images", "unsupported_type"),
                *("invalid_request", "no_image", "unreadable_image", "fetch_failed"),
                *("detector_failed", "queue_full", "not_ready", "timeout"),
            ),
        },
        openapi_extra=schema.DETECT_BODY,
    )
    async def detect(
        request: Request,
        threshold: Annotated[
            float | None,
            Query(ge=0, le=1, description="Least score to report; by default the model's own."),
        ] = None,
        max_side: Annotated[
            int | None,
            Query(
                ge=16,
                description="Reduce larger photos to this longer side, px: faster, loses small "
                "faces. Boxes stay in px of the photo as it was sent.",
            ),
        ] = None,
    ) -> JSONResponse:
        """Send a photo as the body, a form with one or several files, or addresses.

        ```
        curl -F file=@photo.jpg 'http://localhost:8000/v1/detect?threshold=0.3'
        curl -T photo.jpg -X POST -H 'Content-Type: image/jpeg' http://localhost:8000/v1/detect
        ```

        Photos of many requests go through the network together, so send several at the same time.
        """
        start = time.perf_counter()
        sides = [side for side in (max_side, service.settings.max_side) if side is not None]
        least = service.threshold if threshold is None else threshold
        named = await service.detect(request, least, min(sides, default=None))
        return JSONResponse(
            {
                "model": service.model["name"],
                "threshold": least,
                "images": [_describe(name, found) for name, found in named],
                "timing_ms": {"total": _ms(time.perf_counter() - start)},
            }
        )

    @app.get(
        "/v1/models",
        tags=["detection"],
        summary="The model and the limits",
        dependencies=[Security(check_key)],
        responses={
            200: {
                "model": schema.Models,
                "description": "What is served, and what a request may hold.",
            },
            **schema.refusals("missing_key", "not_ready"),
        },
    )
    async def models() -> JSONResponse:
        service.loaded()
        settings = service.settings
        names = ("max_bytes", "max_pixels", "max_images", "max_side", "timeout_s", "fetch_urls")
        limits = {name: getattr(settings, name) for name in names}
        return JSONResponse({"models": [service.model], "limits": limits})


def _add_operation(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", tags=["operation"], summary="Is the service alive?")
    async def healthz() -> schema.Status:
        return schema.Status(status="ok")

    @app.get(
        "/readyz",
        tags=["operation"],
        summary="Is the model loaded and warm?",
        responses=schema.refusals("not_ready"),
    )
    async def readyz() -> schema.Status:
        service.loaded()
        return schema.Status(status="ready")

    @app.get(
        "/metrics",
        tags=["operation"],
        summary="Counters for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics() -> Response:
        service.refresh()
        text, kind = service.metrics.text()
        return Response(text, headers={"Content-Type": kind})


def _add_refusals(app: FastAPI, service: Service) -> None:
    """Let everything that goes wrong end in the one layout of `Refusal`."""

    def answer(refusal: Refusal) -> Response:
        service.metrics.refused.labels(refusal.code).inc()
        return JSONResponse(refusal.to_dict(), refusal.status, headers=refusal.headers)

    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> Response:
        return answer(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        wrong = error.errors()[0]
        name = ".".join(str(part) for part in wrong["loc"])
        return answer(Refusal("invalid_request", f"{name}: {wrong['msg']}"))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        codes = {404: "not_found", 405: "method_not_allowed"}
        code = codes.get(error.status_code, "invalid_request")
        given = answer(Refusal(code, f"{request.method} {request.url.path[:200]}: {error.detail}"))
        given.headers.update(error.headers or {})
        return given

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return answer(Refusal("internal_error", "something went wrong: see the service's log"))

    @app.exception_handler(ClientDisconnect)
    async def left(request: Request, error: ClientDisconnect) -> Response:
        service.metrics.refused.labels("client_left").inc()
        return Response(status_code=499)
