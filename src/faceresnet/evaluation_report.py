"""Pictures of an evaluation: its curves, and the photos that cost most."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from faceresnet import images
from faceresnet.atomic import replacing
from faceresnet.errors import needs, while_writing
from faceresnet.evaluation import Curve, PhotoErrors, Report
from faceresnet.widerface import Photo

#: Photos are enlarged a whole number of times, up to this longer side in px, to show tiny faces.
DRAWN_SIDE = 1920
GREEN, RED, YELLOW, GREY = (0, 200, 0), (235, 30, 30), (255, 215, 0), (128, 128, 128)


def plot_curves(report: Report, path: str | os.PathLike[str]) -> None:
    """Write precision over recall as a picture, a line for every set and event.

    Args:
        report: its protocol goes into the title, the average precisions into the legend.
        path: .png, .svg or .pdf.

    Raises:
        MissingExtraError: Matplotlib is not installed.
        ValueError: no picture format has that suffix.
        DataError: the file cannot be written.
    """
    path = Path(path)
    check_picture(path)
    # Not pyplot: it has global state, and would look for a screen.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    for curve in _curves(report):
        axes.plot(curve.recall, curve.precision, label=f"{curve.name}: AP {curve.ap:.4f}")
    axes.set(
        xlabel="recall",
        ylabel="precision",
        xlim=(0, 1),
        ylim=(0, 1.02),
        title=f"IoU 0.5, {report.protocol}",
    )
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(loc="lower left")
    with while_writing(f"the curves to {path}"), replacing(path) as partial:
        figure.savefig(partial, dpi=150)


def check_picture(path: str | os.PathLike[str]) -> None:
    """Make sure that curves can be written to a file of that name.

    Raises:
        MissingExtraError: Matplotlib is not installed.
        ValueError: no picture format has that suffix.
    """
    with needs("drawing curves", "evaluate"):
        from matplotlib.backend_bases import FigureCanvasBase
    if Path(path).suffix.lower().lstrip(".") not in FigureCanvasBase.filetypes:
        raise ValueError(f"no picture format has the suffix of {path}: use .png, .svg or .pdf")


def _curves(report: Report) -> list[Curve]:
    """Those with a face to find; a single event is the whole set again."""
    events = list(report.events.values()) if 1 < len(report.events) <= 10 else []
    return [curve for curve in [*report.curves.values(), *events] if curve.faces]


def worst(report: Report, count: int) -> list[PhotoErrors]:
    """Pick the photos with most errors, the worst first; none without an error."""
    errors = [photo for photo in report.photos if photo.cost]
    return sorted(errors, key=lambda photo: (-photo.cost, photo.name))[:count]


def draw_errors(image: UInt8[np.ndarray, "H W 3"], errors: PhotoErrors) -> images.Image:
    """Draw what went wrong on a copy of a photo, enlarged where it is small.

    Green: faces that were found. Yellow: faces missed. Red: detections of nothing or of a face
    found already. Grey: faces that do not count.
    """
    height, width = image.shape[:2]
    times = max(1, DRAWN_SIDE // max(height, width))
    drawn = images.resize(image, (height * times, width * times)) if times > 1 else image
    found = ~errors.missed & ~errors.ignore
    for boxes, colour in (
        (errors.faces[errors.ignore], GREY),
        (errors.faces[found], GREEN),
        (errors.boxes[errors.wrong], RED),
        (errors.faces[errors.missed], YELLOW),
    ):
        drawn = images.draw(drawn, boxes.astype(np.float32) * times, colour=colour, width=2)
    return drawn


def save_worst(
    report: Report, photos: Iterable[Photo], count: int, folder: str | os.PathLike[str]
) -> list[Path]:
    """Write the photos with most errors, drawn upon, to a folder.

    The names begin with the rank, so that a listing shows the worst first.

    Args:
        report: of these photos.
        photos: where the pictures are read.
        count: at most so many.
        folder: made if missing.

    Raises:
        DataError: a photo is missing.
        ImageError: a photo is broken, or a picture cannot be written.
    """
    by_name = {photo.name: photo for photo in photos}
    chosen: Sequence[PhotoErrors] = worst(report, count)
    paths = []
    for rank, errors in enumerate(chosen, start=1):
        picture = draw_errors(by_name[errors.name].read(), errors)
        flat = errors.name.rpartition(".")[0].replace("/", "-")
        path = Path(folder) / f"{rank:0{len(str(len(chosen)))}d}-{flat}.png"
        images.write(picture, path)
        paths.append(path)
    return paths
