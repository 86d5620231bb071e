"""The commands that make models: train and export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import isfinite, isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from faceresnet.cli.data import read_splits, read_training_splits
from faceresnet.cli.evaluate import find_faces, open_detector
from faceresnet.cli.failures import require
from faceresnet.cli.progress import progress
from faceresnet.errors import TrainingError

if TYPE_CHECKING:
    from faceresnet.spec import ModelSpec
    from faceresnet.widerface import Photo

MACHINE = "Machine"
#: Photos whose activations set the ranges of an int8 model.
CALIBRATION_PHOTOS = 512

DataOption = Annotated[
    Path | None,
    typer.Option(
        help="Data set laid out as WIDER FACE, or a shard made by 'data pack'.",
        metavar="DIR|ZIP",
    ),
]


def train(
    out: Annotated[Path, typer.Option(help="Run folder.", metavar="RUN")],
    data: DataOption = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="paper, faceresnet-n, faceresnet-50 or one of the parts that these were trained "
            "in, such as faceresnet-50-cpu.",
            show_default="faceresnet-n",
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            help="Start a new run from weights: a shipped model's name (fine-tuning), a run's "
            ".ckpt, a .safetensors, a .onnx in fp32 or fp16, or torchvision's ImageNet .pth.",
            metavar="NAME|FILE",
        ),
    ] = None,
    reshape: Annotated[
        str | None,
        typer.Option(
            help="--init names weights of another network: narrow keeps the first blocks "
            "and strongest filters of a larger network, widen adds new ones to a smaller, grow "
            "plants basic blocks into bottlenecks.",
            metavar="narrow|widen|grow",
        ),
    ] = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            help="Distillation: a model that says how sure one can be of each face, such as "
            "faceresnet-50; several, each with its own --teacher, say so together. The "
            "teacher runs on the CPU inside the training process; batches are then made there "
            "too, and --workers has no effect.",
            metavar="NAME|FILE",
        ),
    ] = None,
    yunet: Annotated[
        Path | None,
        typer.Option(
            help="YuNet's .onnx file, with dynamic height and width: it looks at the images "
            "enlarged twice, and has its say about small faces beside --teacher.",
            metavar="FILE",
        ),
    ] = None,
    imitate: Annotated[
        str | None,
        typer.Option(
            help="Learn to compute what this trained network does, not from labels: weights as for "
            "--init, of a network that is wider inside its blocks.",
            metavar="NAME|FILE",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Change a number of the recipe, such as schedule.iterations=2000; may be given "
            "again.",
            metavar="KEY=VALUE",
        ),
    ] = None,
    event: Annotated[
        list[str] | None,
        typer.Option(help="Only the photos of this event; may be given again."),
    ] = None,
    data_device: Annotated[
        str,
        typer.Option(
            help="cuda keeps the photos in GPU memory and makes the batches there.",
            rich_help_panel=MACHINE,
        ),
    ] = "cpu",
    keep: Annotated[
        str,
        typer.Option(
            help="decoded: photos as pixels in memory; encoded: as files, decoded at each use.",
            rich_help_panel=MACHINE,
        ),
    ] = "decoded",
    workers: Annotated[
        int, typer.Option(help="Processes that make batches.", min=0, rich_help_panel=MACHINE)
    ] = 1,
    compile_: Annotated[
        bool,
        typer.Option("--compile", help="Fuse the network; for GPUs.", rich_help_panel=MACHINE),
    ] = False,
    accelerator: Annotated[
        str, typer.Option(help="auto, cpu or gpu.", rich_help_panel=MACHINE)
    ] = "auto",
    devices: Annotated[
        str,
        typer.Option(
            help="How many GPUs, or processes with --accelerator cpu.", rich_help_panel=MACHINE
        ),
    ] = "auto",
    strategy: Annotated[
        str, typer.Option(help="Lightning's, such as ddp.", rich_help_panel=MACHINE)
    ] = "auto",
    nodes: Annotated[int, typer.Option(help="How many machines.", rich_help_panel=MACHINE)] = 1,
) -> None:
    """Train a detector from nothing, or fine-tune one on your own photos.

    A run that was killed goes on with --resume and ends as if it had not been.
    """
    require("this command", "train", "torch", "lightning")
    from faceresnet.train import loop, recipes, runs, settings
    from faceresnet.train.machine import is_first_process
    from faceresnet.train.teacher import Distillation

    chosen = runs.read_recipe(out) if resume else recipes.recipe(recipe or "faceresnet-n")
    if recipe not in (None, chosen.name):
        raise ValueError(
            f"the run in {out} has the recipe {chosen.name}, so --resume cannot go on with "
            f"{recipe}: leave --recipe out, or start a new run"
        )
    taught = [f"distillation.teachers={teacher!r}"] if teacher else []
    if yunet is not None:
        taught.append(f"distillation.yunet={yunet}")
    if imitate is not None:
        taught.append(f"imitates={weights_file(imitate, '--imitate')}")
    chosen = settings.override(chosen, [*(set_ or ()), *taught])
    if data is None:
        raise ValueError("train needs photos: give --data")
    if reshape not in (None, *runs.RESHAPINGS):
        expected = ", ".join(runs.RESHAPINGS)
        raise ValueError(f"--reshape must be one of {expected}, got {reshape!r}")
    if chosen.distillation != Distillation() and not chosen.distillation.teachers:
        raise ValueError(
            f"the recipe {chosen.name} says what teachers are to teach, and there is none: give "
            "--teacher, or another --recipe"
        )
    if chosen.imitates and chosen.distillation.teachers:
        raise ValueError(
            "--imitate learns from no labels, so nothing is left to teach: leave --teacher out"
        )
    if reshape and init is None and not resume:
        raise ValueError(f"--reshape {reshape} needs the weights of another network: give --init")
    splits = read_training_splits(data, event)
    training, validation = splits["train"], splits.get("val", [])
    if not validation:
        typer.echo("no validation photos: the last checkpoint will be the best one", err=True)
    checkpoint = loop.train(
        chosen,
        training,
        validation,
        out,
        resume=resume,
        init=None if init is None else weights_file(init),
        reshape=reshape,
        data_device=data_device,
        keep=keep,
        workers=workers,
        compiled=compile_,
        accelerator=accelerator,
        devices=int(devices) if devices.lstrip("-").isdigit() else devices,
        strategy=strategy,
        nodes=nodes,
        progress=progress("reading photos", len(training)),
    )
    if is_first_process():
        typer.echo(f"trained: {checkpoint}. Next: faceresnet export {out} --out model.onnx")


def export(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    out: Annotated[
        Path,
        typer.Option(
            help="Model file to write; as .safetensors only the weights.",
            metavar="FILE.onnx|FILE.safetensors",
        ),
    ],
    data: DataOption = None,
    fp16: Annotated[
        bool, typer.Option("--fp16", help="Store the weights in half the size.")
    ] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantise; needs --data for calibration and AP.")
    ] = False,
    name: Annotated[
        str | None, typer.Option(help="What the model is called.", show_default="the file's name")
    ] = None,
    licence: Annotated[
        str, typer.Option(help="What the training data allows; kept in the file.")
    ] = "",
    checkpoint: Annotated[
        str,
        typer.Option(
            help="best (by validation AP), last, or a file of weights.", metavar="best|last|FILE"
        ),
    ] = "best",
    narrow: Annotated[
        str | None,
        typer.Option(
            help="Cut the backbone down to that of this recipe: its first blocks and strongest "
            "filters.",
            metavar="RECIPE",
        ),
    ] = None,
    average: Annotated[
        list[Path] | None,
        typer.Option(
            help="Average the weights with those of this file, of the same network; may be given "
            "again.",
            metavar="FILE",
        ),
    ] = None,
    shift: Annotated[
        float,
        typer.Option(
            help="Added to all logits: the same faces in the same order, with higher or lower "
            "scores, such as those of the model that this one replaces.",
            metavar="LOGIT",
        ),
    ] = 0.0,
) -> None:
    """Turn a run into one .onnx file that says everything about itself.

    A .safetensors file holds nothing but the weights, for other trainings to start from.

    With --data its AP on the validation photos is measured, printed and kept in the file, and the
    default threshold becomes the one with the best F1 there, photos without a face included.
    """
    require("this command", "train", "torch", "lightning", "onnx")
    given = checkpoint if checkpoint in ("best", "last") else Path(checkpoint)
    if isinstance(given, Path) and not given.is_file():
        raise ValueError(f"--checkpoint must be best, last or a file, got {checkpoint!r}")
    if out.is_dir():
        raise ValueError(f"--out needs a file, {out} is a folder")
    if not isfinite(shift):
        raise ValueError(f"--shift must be a finite number, got {shift}")
    if fp16 and int8:
        raise ValueError("--fp16 and --int8 exclude each other: export twice")
    if int8 and data is None:
        raise ValueError("--int8 needs --data: real photos to calibrate with")
    if out.suffix not in (".onnx", ".safetensors") or (int8 and out.suffix != ".onnx"):
        raise ValueError(f"--out must end in .onnx, or in .safetensors without --int8, got {out}")
    if out.suffix == ".safetensors" and (data is not None or name is not None or licence):
        raise ValueError(f"{out} holds only weights: leave out --data, --name and --licence")
    import tempfile

    from faceresnet.train import export as exporting
    from faceresnet.train.recipes import recipe as find_recipe
    from faceresnet.train.runs import make_spec

    recipe, model = exporting.load_run(run, given)
    if narrow is not None:
        recipe = find_recipe(narrow)
        model = exporting.cut_down(model, recipe.network)
    if average:
        model = exporting.average(model, average)
    exporting.shift_scores(model, shift)
    if out.suffix == ".safetensors":
        exporting.save_weights(model, out, half=fp16)
        typer.echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB, {'fp16' if fp16 else 'fp32'}")
        return
    spec = make_spec(recipe, name=name or out.stem, licence=licence)
    read = read_training_splits if int8 else read_splits
    splits = {} if data is None else read(data)
    validation = splits.get("val", [])
    with tempfile.TemporaryDirectory() as temporary:
        fp32 = Path(temporary) / "fp32.onnx"
        exporting.export(model, spec, fp32)
        finished = fp32
        if fp16:
            spec = replace(spec, precision="fp16")
            finished = Path(temporary) / "fp16.onnx"
            exporting.halve(fp32, finished, spec)
        spec = measured(finished, spec, validation)
        if int8:
            spec = replace(spec, precision="int8")
            finished = Path(temporary) / "int8.onnx"
            exporting.quantise(fp32, finished, spec, calibration_photos(splits["train"]))
            spec = measured(finished, spec, validation)
        exporting.rewrite(finished, spec, out)
    typer.echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB, {spec.precision}")


def calibration_photos(photos: Sequence[Photo]) -> Sequence[Photo]:
    """Photos to calibrate with, of all parts of a data set: it lists them by event."""
    taken = min(len(photos), CALIBRATION_PHOTOS)
    return [photos[number * len(photos) // taken] for number in range(taken)]


def measured(file: Path, spec: ModelSpec, validation: Sequence[Photo]) -> ModelSpec:
    """The specification with the AP measured on the validation photos, if they show any face.

    Its threshold is the best one for all of them, those without a face included; a model that finds
    none keeps its own.
    """
    if not validation:
        return spec
    from faceresnet.evaluation import evaluate

    detector = open_detector(str(file), "original")
    report = evaluate(find_faces(detector, validation, "original"), validation, protocol="original")
    if isnan(report.ap):
        return spec
    aps = {"all": report.ap, **{event: curve.ap for event, curve in report.events.items()}}
    aps = {event: ap for event, ap in aps.items() if not isnan(ap)}  # an event without faces
    for event, ap in aps.items():
        typer.echo(f"{spec.precision}: AP {ap:.4f} on {event} (val, original size)")
    threshold = round(report.whole.best_score(), 2) if report.ap else spec.threshold
    return replace(
        spec,
        threshold=threshold,
        measured={event: round(ap, 4) for event, ap in aps.items()},
    )


def weights_file(name: str, option: str = "--init") -> Path:
    """The file that an option names: a path, or the weights of a shipped model."""
    from faceresnet.weights import SHIPPED

    shipped = (SHIPPED / f"{name}.safetensors", SHIPPED / f"{name}-fp16.onnx")
    for file in (Path(name), *shipped):
        if file.is_file():
            return file
    raise TrainingError(f"{option} {name} is neither a file nor a shipped model with weights")
