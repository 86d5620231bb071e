"""The commands about handwritten digits: train, evaluate, figure and predict."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from faceresnet.errors import ImageError, MissingExtraError

if TYPE_CHECKING:
    from faceresnet.digits.engines import Step
    from faceresnet.digits.recipes import Config

SETTINGS = "Settings, by default the recipe's"

digits = typer.Typer(help="Recognise handwritten digits.", no_args_is_help=True)

Data = Annotated[
    Path | None,
    typer.Option(help="Folder of MNIST's four files.", metavar="DIR", show_default="the run's"),
]
Engine = Annotated[
    str | None, typer.Option(help="numpy or torch.", show_default="the one that trained it")
]
Run = Annotated[Path, typer.Argument(help="Run folder.", metavar="RUN")]
Threads = Annotated[
    int | None, typer.Option(help="Processor threads.", min=1, show_default="all cores")
]


def setting(help: str, *names: str, **limits: float) -> object:
    """An option that replaces a setting of the recipe."""
    return typer.Option(*names, help=help, show_default=False, rich_help_panel=SETTINGS, **limits)  # type: ignore[arg-type]


@digits.command()
def train(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Run folder.", metavar="RUN")],
    data: Data = None,
    net: Annotated[str | None, typer.Option(help="cnn or fcc.", show_default="cnn")] = None,
    engine: Annotated[
        str | None,
        typer.Option(help="numpy, by hand, or torch.", show_default="numpy"),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="paper: as in section 5.1; best: the best schedule we found.", show_default="paper"
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, with its settings.")
    ] = False,
    threads: Threads = None,
    iterations: Annotated[int | None, setting("Mini-batches.", min=1)] = None,
    batch_size: Annotated[int | None, setting("Digits in each.", min=1)] = None,
    learning_rate: Annotated[
        float | None, setting("Learning rate; the paper's is 0.001.", "--lr")
    ] = None,
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
    from faceresnet.digits.recipes import Config, make_config

    # Every other setting is an option of its own name.
    others = (s.name for s in fields(Config) if s.name not in ("net", "engine", "data"))
    changes = {name: context.params[name] for name in others}
    if resume:
        config = training.read_config(out)
        refuse_others(out, config, {"net": net, "engine": engine, **changes})
        if recipe is not None:
            meant = make_config(recipe, config.net, config.engine, **changes, data=config.data)
            refuse_others(out, config, vars(meant), f" of --recipe {recipe}")
    else:
        if data is None:
            raise ValueError("digits train needs digits: give --data DIR")
        changes["data"] = str(data.resolve())
        config = make_config(recipe or "paper", net or "cnn", engine or "numpy", **changes)
    folder = data or Path(config.data)
    learn, test = read_digits(folder, "train"), read_digits(folder, "test")
    with progress_bar(config.iterations) as progress:
        training.train(config, learn, test, out, resume=resume, threads=threads, progress=progress)
    last = training.read_metrics(out)[-1]
    typer.echo(
        f"{out}: {last['iteration']:,} iterations, validation accuracy "
        f"{last['validation_accuracy']:.2%}. Next: faceresnet digits evaluate {out}"
    )


@digits.command()
def evaluate(
    run: Run,
    data: Data = None,
    checkpoint: Annotated[
        str, typer.Option(help="best (on the validation digits) or last.")
    ] = "best",
    engine: Engine = None,
    threads: Threads = None,
) -> None:
    """Measure a run's weights on the test digits."""
    with extra():
        from faceresnet.digits import training
    from faceresnet.digits.data import read_digits

    network = training.open_run(run, engine, threads, checkpoint=checkpoint)
    test = read_digits(data or Path(training.read_config(run).data), "test")
    score = training.evaluate(network, test)
    wrong = round(len(test) * (1 - score.accuracy))
    typer.echo(
        f"{run}: accuracy {score.accuracy:.2%}, {wrong} of {len(test):,} test digits wrong, "
        f"loss {score.loss:.4f}"
    )


@digits.command()
def figure(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.", metavar="RUN...")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where it goes.", metavar="FILE.png", show_default="first RUN/figure.png"
        ),
    ] = None,
) -> None:
    """Draw figure 13: accuracy and loss on training and test digits over the iterations."""
    with extra():
        import matplotlib  # noqa: F401

        from faceresnet.digits.figures import draw_figure

    target = out or runs[0] / "figure.png"
    draw_figure(runs, target)
    typer.echo(str(target))


@digits.command()
def predict(
    run: Run,
    photos: Annotated[
        list[Path], typer.Argument(help="Photos or scans of one digit each.", metavar="IMAGE...")
    ],
    engine: Engine = None,
    threads: Threads = None,
) -> None:
    """Recognise the digit in photos or scans, of any size, dark on light or light on dark.

    Ends with status 1 if a photo could not be read.
    """
    with extra():
        from faceresnet.digits import training
    from faceresnet.digits.predict import predict as recognise

    network = training.open_run(run, engine, threads)
    failed = False
    for photo in photos:
        try:
            found = recognise(network, photo)
        except ImageError as error:
            print(f"faceresnet: {error}", file=sys.stderr)
            failed = True
            continue
        typer.echo(f"{photo}: {found.digit}  {found.probability:.1%}")
    if failed:
        raise typer.Exit(1)


def refuse_others(
    run: Path, config: Config, settings: Mapping[str, object], source: str = ""
) -> None:
    """Refuse to go on with a run by settings that are not its own.

    Args:
        run: the run folder.
        config: how the run trains.
        settings: by the names of `Config`; None is the run's.
        source: where they come from, for the message.

    Raises:
        ValueError: one differs.
    """
    for name, value in settings.items():
        own = getattr(config, name)
        if value is not None and value != own:
            raise ValueError(
                f"the run in {run} has {name} {own}, so --resume cannot go on with {value}"
                f"{source}: leave the option out, or start a new run"
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
