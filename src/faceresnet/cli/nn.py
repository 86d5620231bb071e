"""The commands about the networks by hand: nn gradcheck."""

from __future__ import annotations

from typing import Annotated

import typer

#: Largest relative error that passes.
TOLERANCE = 1e-7

nn = typer.Typer(help="The paper's networks by hand.", no_args_is_help=True)


@nn.callback()
def _commands() -> None:
    pass  # with it, a single command keeps its name


@nn.command()
def gradcheck(
    seed: Annotated[int, typer.Option(help="Of the arrays checked on.", min=0)] = 0,
) -> None:
    """Compare every derivative with its definition, the limit of equation 13.

    Ends with status 1 if a relative error is above 1e-7.
    """
    from rich.console import Console
    from rich.table import Table

    from faceresnet.nn.operations import cases

    table = Table(
        title="Relative error of every derivative, float64",
        caption="* along random directions, the others element by element",
    )
    table.add_column("Operation", no_wrap=True)
    table.add_column("Equations")
    for column in ("By", "Shape", "Error"):
        table.add_column(column, no_wrap=True, justify="right" if column == "Error" else "left")
    errors = []
    for case in cases(seed):
        for index, one in enumerate(case.check(seed)):
            errors.append(one.error)
            table.add_row(
                case.name if index == 0 else "",
                case.equations if index == 0 else "",
                one.name,
                "×".join(str(n) for n in one.shape) + " *" * (one.method == "directions"),
                f"[{'green' if one.error < TOLERANCE else 'bold red'}]{one.error:.1e}[/]",
            )
        table.add_section()
    Console().print(table)
    wrong = sum(not error < TOLERANCE for error in errors)  # NaN counts as wrong
    typer.echo(f"{len(errors)} derivatives, {wrong} with an error of {TOLERANCE:.0e} or more")
    if wrong:
        raise typer.Exit(1)
