"""`docs/paper.md` maps every equation, and only to what exists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")


def test_every_equation_is_mapped_once():
    rows = re.findall(r"^\| ([\d, ]+) \|", TEXT, re.MULTILINE)
    numbers = [int(number) for row in rows for number in row.split(",")]
    assert sorted(numbers) == list(range(1, 62))


NAMES = sorted(set(re.findall(r"`(faceresnet(?:\.\w+)+)`", TEXT)))


@pytest.mark.parametrize("name", NAMES)
def test_every_function_named_exists(name):
    module, _, function = name.rpartition(".")
    # Read, not imported: what trains needs PyTorch.
    path = ROOT.joinpath("src", *module.split(".")).with_suffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert function in {node.name for node in tree.body if hasattr(node, "name")}


def test_the_map_names_what_it_should():
    assert len(NAMES) > 25
    for section in (
        "nn.functional",
        "nn.spatial",
        "nn.losses",
        "nn.optim",
        "boxes",
        "train.losses",
    ):
        assert any(name.startswith(f"faceresnet.{section}.") for name in NAMES)


def test_what_errata_is_said_to_hold_it_holds():
    errata = (ROOT / "docs" / "errata.md").read_text(encoding="utf-8")
    found = set()
    for cell in re.findall(r"^\| ([^|]*\d[^|]*) \|", errata, re.MULTILINE):
        for low, high in re.findall(r"(\d+)(?:–(\d+))?", cell):
            found |= set(range(int(low), int(high or low) + 1))
    for row, where in re.findall(r"^\| ([\d, ]+) \|.*\| (.*errata.*) \|$", TEXT, re.MULTILINE):
        numbers = {int(number) for number in row.split(",")}
        assert numbers & found, f"{row}: {where}"


def test_the_example_runs():
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names: dict[str, object] = {}
    exec(example, names)
    assert names["dw"].shape == (4, 3, 3, 3)
