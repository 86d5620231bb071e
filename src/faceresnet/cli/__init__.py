"""The ``faceresnet`` command: every command is registered here, and errors end here.

The functions beside this file parse and print; each imports what it needs when it runs, so that
``faceresnet --help`` stays fast.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from faceresnet import __version__
from faceresnet.cli import (
    anonymise,
    batch,
    data,
    detect,
    digits,
    evaluate,
    nn,
    serve,
    tag,
    training,
    video,
    watch,
)
from faceresnet.cli.failures import said, take_every_name
from faceresnet.errors import FaceResNetError, one_line, reason

#: Exit status: part of the work failed; the arguments or the state of the world forbid it;
#: interrupted from the keyboard.
PARTLY_FAILED, REFUSED, INTERRUPTED = 1, 2, 130

#: Root of the errors in arguments. Its home moved from click into typer between releases.
_ArgumentError: type[Exception] = next(
    c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException"
)

#: Options whose empty value means nothing but that they are not used.
MAY_BE_EMPTY = ("--root-path", "--licence")

app = typer.Typer(
    name="faceresnet",
    help="Find faces in photos; train, evaluate and export the detector.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"faceresnet {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the trace of an error; works in any place.")
    ] = False,
) -> None:
    pass


app.command()(detect.detect)
app.command()(detect.models)
app.command()(detect.demo)
app.command()(serve.serve)
app.command()(tag.tag)
app.command()(anonymise.anonymise)
app.command()(video.video)
app.command()(watch.watch)
app.command()(batch.batch)
app.command()(evaluate.evaluate)
app.command()(training.train)
app.command()(training.export)
app.add_typer(data.data, name="data")
app.add_typer(nn.nn, name="nn")
app.add_typer(digits.digits, name="digits")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 partly failed, 2 refused and said why in a line.

    Args:
        arguments: instead of the process's own.
    """
    take_every_name()
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = given[: given.index("--")] if "--" in given else given
    debug = "--debug" in options
    if debug:
        given.remove("--debug")
    sys.exit(_run(given, debug))


def _run(arguments: list[str], debug: bool) -> int:
    """Exit status of a command."""
    try:
        _refuse_empty(arguments)
        status: int = app(arguments, standalone_mode=False) or 0
    except (FaceResNetError, ValueError, _ArgumentError) as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # the help is out already
            return REFUSED
        if debug:
            traceback.print_exc()
        else:
            print(f"faceresnet: {_message(error)}", file=sys.stderr)
        return REFUSED
    except ImportError as error:
        # The library `trackers` brings the OpenCV with windows, which needs what servers lack.
        if debug or "libGL" not in str(error):
            raise
        print(f"faceresnet: OpenCV cannot be loaded ({error}): apt install libgl1", file=sys.stderr)
        return REFUSED
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except BrokenPipeError:  # whoever read our output has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PARTLY_FAILED
    except OSError as error:  # such as a disk that fills while a result is written
        if debug:
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(f"faceresnet: {place}{reason(error)}", file=sys.stderr)
        return REFUSED
    except MemoryError as error:
        if debug:
            raise
        says = f" ({one_line(str(error))})" if str(error) else ""
        print(
            f"faceresnet: out of memory: end other programs, or give this one less at once{says}",
            file=sys.stderr,
        )
        return REFUSED
    if status == INTERRUPTED:  # which typer has made of Ctrl-C without a word
        print("faceresnet: interrupted", file=sys.stderr)
    return status


def _refuse_empty(arguments: list[str]) -> None:
    """Refuse an argument that is empty, as an unset variable of the shell is.

    As a path it would be the current folder.

    Raises:
        ValueError: there is one.
    """
    ends = arguments.index("--") if "--" in arguments else len(arguments)
    for number, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option.startswith("--") and equals and not value and number < ends:
            place = option
        elif not argument:
            place = arguments[number - 1] if number else ""
        else:
            continue
        if place not in MAY_BE_EMPTY:
            raise ValueError(f"an argument is empty, after {place}: give it, or leave it out")


def _message(error: Exception) -> str:
    """What an error says, in one line."""
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    return said(message) or type(error).__name__
