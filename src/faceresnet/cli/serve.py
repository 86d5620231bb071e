"""The command that serves detection over HTTP."""

from __future__ import annotations

import sys
from math import isfinite
from pathlib import Path
from typing import Annotated

import typer

from faceresnet.cli.failures import require
from faceresnet.cli.options import DETECTOR, Crowds, Device, Engine, Model, Threshold
from faceresnet.errors import FaceResNetError

SERVER = "Server"
LIMITS = "Limits of a request"
ACCESS = "Access"
#: What the extra brings.
NEEDED = ("fastapi", "uvicorn", "httpx", "python_multipart", "prometheus_client")


def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 for all.", rich_help_panel=SERVER)
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="0 takes a free one.", rich_help_panel=SERVER)
    ] = 8000,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes; they share the threads.", rich_help_panel=SERVER)
    ] = 1,
    model: Model = "faceresnet-n",
    threshold: Threshold = None,
    max_side: Annotated[
        int | None,
        typer.Option(
            min=16,
            help="Reduce larger photos to this longer side, px: bounds the time of a photo.",
            show_default="full size",
            rich_help_panel=DETECTOR,
        ),
    ] = None,
    crowds: Crowds = True,
    engine: Engine = "openvino",
    device: Device = "cpu",
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="On the CPU, of all workers together.",
            show_default="one a core",
            rich_help_panel=DETECTOR,
        ),
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(
            min=1,
            help="Photos that go through the network together at most.",
            rich_help_panel=DETECTOR,
        ),
    ] = 8,
    max_mb: Annotated[
        float, typer.Option(help="Bytes of a body, in millions.", rich_help_panel=LIMITS)
    ] = 32.0,
    max_megapixels: Annotated[
        float, typer.Option(help="Pixels of a photo, in millions.", rich_help_panel=LIMITS)
    ] = 50.0,
    max_images: Annotated[
        int, typer.Option(min=1, help="Photos in a request.", rich_help_panel=LIMITS)
    ] = 16,
    queue: Annotated[
        int,
        typer.Option(
            min=1,
            help="Photos that a worker holds at most; more are asked to come back (503).",
            rich_help_panel=LIMITS,
        ),
    ] = 128,
    timeout: Annotated[
        float,
        typer.Option(
            help="Seconds for the head of a request to arrive (else its connection ends), for its "
            "body (408), and again for the answer (504).",
            rich_help_panel=LIMITS,
        ),
    ] = 30.0,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            help="Only who sends one of the keys in this file, one a line, may detect. A single "
            "key may also come from the variable FACERESNET_API_KEY.",
            rich_help_panel=ACCESS,
        ),
    ] = None,
    api_key: Annotated[str | None, typer.Option(envvar="FACERESNET_API_KEY", hidden=True)] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Pages of this origin (https://example.org) may call from a browser, * those of "
            "all; may be given again.",
            rich_help_panel=ACCESS,
        ),
    ] = None,
    fetch_urls: Annotated[
        bool,
        typer.Option(
            "--fetch-urls",
            help="Fetch photos named by an address, from the public internet only.",
            rich_help_panel=ACCESS,
        ),
    ] = False,
    fetch_network: Annotated[
        list[str] | None,
        typer.Option(
            help="Fetch from this network, too (10.1.0.0/16), on any port; may be given again.",
            rich_help_panel=ACCESS,
        ),
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(help="PEM file: speak https.", rich_help_panel=SERVER),
    ] = None,
    certificate_key: Annotated[
        Path | None,
        typer.Option(help="PEM file with the certificate's key.", rich_help_panel=SERVER),
    ] = None,
    root_path: Annotated[
        str, typer.Option(help="Path that a proxy in front takes off.", rich_help_panel=SERVER)
    ] = "",
    access_log: Annotated[
        bool,
        typer.Option("--access-log", help="Print a line for each request.", rich_help_panel=SERVER),
    ] = False,
) -> None:
    """Serve detection over HTTP, with a page to try it on.

    Photos go to POST /v1/detect; /docs says more, and works offline. /metrics is for Prometheus,
    /healthz and /readyz for load balancers: these need no key. SIGTERM ends the service when the
    requests in work are answered.
    """
    require("faceresnet serve", "serve", *NEEDED)
    from faceresnet.apps.serve.server import Listening
    from faceresnet.apps.serve.server import serve as run
    from faceresnet.apps.serve.settings import Settings

    settings = Settings(
        model=model,
        threshold=threshold,
        max_side=max_side,
        crowds=crowds,
        engine=engine,
        device=device,
        threads=threads,
        batch_size=batch_size,
        max_bytes=_millions("--max-mb", max_mb),
        max_pixels=_millions("--max-megapixels", max_megapixels),
        max_images=max_images,
        queue_size=queue,
        timeout_s=timeout,
        api_keys=_keys(api_key_file, api_key),
        allow_origins=tuple(allow_origin or ()),
        fetch_urls=fetch_urls,
        url_networks=tuple(fetch_network or ()),
    )
    if fetch_network and not fetch_urls:
        raise ValueError("--fetch-network needs --fetch-urls beside it")
    if (certificate is None) != (certificate_key is None):
        raise ValueError("https needs both --certificate and --certificate-key")
    for file in (certificate, certificate_key):
        if file is not None and not file.is_file():
            raise ValueError(f"there is no file {file}")
    listening = Listening(
        host=host,
        port=port,
        workers=workers,
        access_log=access_log,
        root_path=root_path.rstrip("/"),
        certificate=str(certificate) if certificate else None,
        key=str(certificate_key) if certificate_key else None,
    )

    def started(address: str) -> None:
        print(f"faceresnet: page {address}/  documentation {address}/docs", flush=True)
        if not settings.api_keys and host not in ("127.0.0.1", "::1", "localhost"):
            print(
                "faceresnet: whoever reaches this address may use it; --api-key-file asks for keys",
                file=sys.stderr,
            )

    run(settings, listening, started)


def _millions(option: str, count: float) -> int:
    """What an option that counts millions says."""
    if not isfinite(count * 1e6):
        raise ValueError(f"{option} must be a finite number of millions, got {count:g}")
    return round(count * 1e6)


def _keys(file: Path | None, key: str | None) -> tuple[str, ...]:
    """Keys of a file and of the environment."""
    from faceresnet.apps.serve.settings import read_keys

    keys = (key,) if key else ()
    if file is None:
        return keys
    try:
        found = read_keys(file.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise FaceResNetError(f"cannot read the API keys in {file}: {reason}") from error
    if not found:
        raise ValueError(f"there is no API key in {file}: write one a line")
    return keys + found
