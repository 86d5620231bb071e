"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

DETECTOR = "Detector"
RESULTS = "Results"

#: Files that count as videos.
VIDEO_SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"}
    | {".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv"}
)

Model = Annotated[
    str,
    typer.Option(help="Name of a model, or path to an .onnx file.", rich_help_panel=DETECTOR),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        help="Least score to report, 0..1.",
        show_default="the model's own",
        rich_help_panel=DETECTOR,
    ),
]
Engine = Annotated[str, typer.Option(help="openvino or onnxruntime.", rich_help_panel=DETECTOR)]
Device = Annotated[str, typer.Option(help="cpu, gpu, cuda, …", rich_help_panel=DETECTOR)]
Threads = Annotated[
    int | None,
    typer.Option(help="On the CPU.", show_default="one a core", rich_help_panel=DETECTOR),
]
MaxSide = Annotated[
    int | None,
    typer.Option(
        help="Reduce larger pictures to this longer side, px: faster, loses small faces.",
        show_default="full size",
        rich_help_panel=DETECTOR,
    ),
]
Enlarge = Annotated[
    float,
    typer.Option(
        help="Look at pictures enlarged so many times, 1 to 4: finds a few more tiny faces and "
        "more false ones, slower.",
        rich_help_panel=DETECTOR,
    ),
]
Tile = Annotated[
    str,
    typer.Option(
        help="Cut large pictures into tiles: auto, on, off, or a side in px.",
        rich_help_panel=DETECTOR,
    ),
]
Pyramid = Annotated[
    bool,
    typer.Option(
        help="Look at large pictures at reduced scales, too, for faces that fill them.",
        rich_help_panel=DETECTOR,
    ),
]
Crowds = Annotated[
    bool,
    typer.Option(
        help="Look again, enlarged, at crowds, which take three to four times as long, and around "
        "a few tiny faces: finds more of them.",
        rich_help_panel=DETECTOR,
    ),
]
Turned = Annotated[
    bool,
    typer.Option(
        help="Look at pictures turned by 90, 180 and 270 degrees as well, for faces that lie on "
        "their side or upside down, as in scans; takes four times as long.",
        rich_help_panel=DETECTOR,
    ),
]
MaxPixels = Annotated[
    int | None,
    typer.Option(
        help="Refuse photos of more pixels; 0 allows any.",
        min=0,
        show_default="200,000,000",
        rich_help_panel=DETECTOR,
    ),
]
Recursive = Annotated[
    bool,
    typer.Option("--recursive/--no-recursive", "-r", help="Look into folders of folders."),
]


def pixel_limit(given: int | None) -> int | None:
    """What --max-pixels means: pixels of a photo at most, None for any number."""
    from faceresnet import images

    return images.MAX_PIXELS if given is None else given or None


def parse_tile(text: str) -> bool | int | str:
    """What --tile means: auto, on, off, or a side in px.

    Raises:
        ValueError: none of these.
    """
    words: dict[str, bool | str] = {"auto": "auto", "on": True, "off": False}
    if text in words:
        return words[text]
    if text.isdecimal():
        return int(text)
    raise ValueError(f"--tile must be auto, on, off or a side in px, got '{text}'")
