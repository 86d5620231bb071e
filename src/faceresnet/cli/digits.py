"""The commands about handwritten digits: digits train, evaluate, figure, predict; data mnist."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from faceresnet.errors import MissingExtraError

if TYPE_CHECKING:
    from faceresnet.digits.training import Step

SETTINGS = "Settings, by default the recipe's"

digits = typer.Typer(help="Recognise handwritten digits.", no_args_is_help=True)

Data = Annotated[Path, typer.Option(help="Folder of MNIST's four files.", metavar="DIR")]
Run = Annotated[Path, typer.Argument(help="Run folder.", metavar="RUN")]
Threads = Annotated[
    int | None, typer.Option(help="Processor threads.", min=1, show_default="all cores")
]


def setting(help: str, **limits: float) -> object:
    """An option that replaces a setting of the recipe."""
    return typer.Option(help=help, show_default=False, rich_help_panel=SETTINGS, **limits)  # type: ignore[arg-type]


@digits.command()
def train(
    data: Data,
    out: Annotated[Path, typer.Option(help="Run folder.", metavar="RUN")],
    net: Annotated[str | None, typer.Option(help="cnn or fcc.", show_default="cnn")] = None,
    engine: Annotated[
        str | None,
        typer.Option(help="numpy, by hand, or torch.", show_default="numpy"),
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="paper: as in section 5.1; best: the best schedule we found.")
    ] = "paper",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, with its settings.")
    ] = False,
    threads: Threads = None,
    iterations: Annotated[int | None, setting("Mini-batches.", min=1)] = None,
    batch_size: Annotated[int | None, setting("Digits in each.", min=1)] = None,
    lr: Annotated[float | None, setting("Learning rate; the paper's is 0.001.")] = None,
    schedule: Annotated[str | None, setting("steps, one-cycle or constant.")] = None,
    optimiser: Annotated[str | None, setting("sgd or adam.")] = None,
    momentum: Annotated[float | None, setting("Of sgd.", min=0)] = None,
    weight_decay: Annotated[float | None, setting("Pull of parameters to 0.", min=0)] = None,
    shift: Annotated[float | None, setting("Move digits by up to so many px.", min=0)] = None,
    turn: Annotated[float | None, setting("Turn them by up to so many degrees.", min=0)] = None,
    zoom: Annotated[float | None, setting("Scale them by up to this share.", min=0)] = None,
    held_out: Annotated[int | None, setting("Digits kept for validation.", min=1)] = None,
    evaluate_every: Annotated[
        int | None, setting("Iterations from one measurement and checkpoint to the next.", min=1)
    ] = None,
    patience: Annotated[
        int | None, setting("Measurements without improvement that end it; 0: none.", min=0)
    ] = None,
    seed: Annotated[int | None, setting("Of weights, batches and augmentation.", min=0)] = None,
) -> None:
    """Train a network of section 5.1, by hand in NumPy or in PyTorch.

    A run killed at any moment goes on with --resume and ends as if it had not been.
    """
    with extra():
        from faceresnet.digits import training
    from faceresnet.digits.data import read_digits
    from faceresnet.digits.recipes import make_config

    changes = {
        "iterations": iterations,
        "batch_size": batch_size,
        "learning_rate": lr,
        "schedule": schedule,
        "optimiser": optimiser,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "shift": shift,
        "turn": turn,
        "zoom": zoom,
        "held_out": held_out,
        "evaluate_every": evaluate_every,
        "patience": patience,
        "seed": seed,
    }
    if resume:
        config = training.read_config(out)
        given = {"net": net, "engine": engine, **changes}
        for name, value in given.items():
            if value is not None and value != getattr(config, name):
                raise ValueError(
                    f"the run in {out} has {name} {getattr(config, name)}, so --resume cannot go "
                    f"on with {value}: leave the option out, or start a new run"
                )
    else:
        config = make_config(recipe, net or "cnn", engine or "numpy", **changes)
    learn, test = read_digits(data, "train"), read_digits(data, "test")
    with progress_bar(config.iterations) as progress:
        training.train(config, learn, test, out, resume=resume, threads=threads, progress=progress)
    last = training.read_metrics(out)[-1]
    typer.echo(
        f"{out}: {last['iteration']:,} iterations, validation accuracy "
        f"{last['validation_accuracy']:.2%}. Next: faceresnet digits evaluate {out} --data {data}"
    )


@contextmanager
def extra() -> Iterator[None]:
    """Say which extra is missing where an import fails."""
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(f"this command ({error.name})", "digits") from error


@contextmanager
def progress_bar(total: int) -> Iterator[Callable[[int, Step], None] | None]:
    """A bar on standard error: loss, accuracy, iterations/s, time left; None if no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), "{task.description}", TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        loss = accuracy = float("nan")

        def advance(iteration: int, step: Step) -> None:
            nonlocal loss, accuracy
            right = step.correct / max(1, step.digits)
            new = 1.0 if loss != loss else 0.05  # a moving average, from the first batch on
            loss = new * step.loss + (1 - new) * (0 if new == 1 else loss)
            accuracy = new * right + (1 - new) * (0 if new == 1 else accuracy)
            speed = bar.tasks[0].speed or 0
            bar.update(
                task,
                completed=iteration,
                description=f"loss {loss:.4f}  accuracy {accuracy:.2%}  {speed:.1f}/s",
            )

        yield advance
