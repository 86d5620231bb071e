"""The import rules of the package, held by reading its source."""

import ast
from pathlib import Path

import pytest

import faceresnet

ROOT = Path(faceresnet.__file__).parent

#: Layers from the bottom up: a module imports from its own layer or below, never from above.
LAYERS = [
    {"atomic", "errors", "processors", "telemetry"},
    {"boxes", "anchors", "download", "images"},
    {"spec", "detections", "label_formats", "widerface"},
    {"engine", "pyramid", "weights", "video"}
    | {"difficulties", "evaluation", "evaluation_report", "matching", "protocols"}
    | {"relabel", "shards", "widerface_download"},
    {"convert", "corrections", "detector"},
    {"apps", "train", "digits"},
    {"cli", "__main__"},
]
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}

#: Libraries that live in these parts only.
HOMES = {
    "torch": {"train", "digits"},
    "lightning": {"train", "digits"},
    "av": {"video"},
    "trackers": {"video"},
    "fastapi": {"apps.serve"},
    "uvicorn": {"apps.serve"},
    "pyexiv2": {"apps.tag"},
    "ray": {"apps.batch"},
    "openvino": {"telemetry"},  # which leaves out its reports
    "onnxruntime": {"engine", "train"},
    "typer": {"cli"},
}
#: Libraries that are imported inside functions everywhere but in their homes among HOMES, so that
#: importing a module of ours stays cheap.
LAZY = {"cv2", "openvino", "onnxruntime", "scipy", "matplotlib", "skimage", "supervision"} | {
    *("av", "trackers", "pyexiv2", "pyarrow", "fsspec", "ray", "httpx", "prometheus_client")
}


def parts(path):
    """Dotted name of a module below the package: ``apps.demo``."""
    relative = path.relative_to(ROOT).with_suffix("")
    return ".".join(part for part in relative.parts if part != "__init__") or "faceresnet"


def type_checking_nodes(tree):
    return {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }


def imports(path):
    """(module imported, whether when its file is imported) of everything imported at run time."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    only_types = type_checking_nodes(tree)
    in_functions = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in only_types:
            continue
        at_once = node not in in_functions
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_once) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative imports hide where they lead"
            if node.module == "faceresnet":
                yield from ((f"faceresnet.{alias.name}", at_once) for alias in node.names)
            else:
                yield node.module, at_once


MODULES = {parts(path): path for path in sorted(ROOT.rglob("*.py"))}


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downwards_only(module):
    own = module.split(".")[0]
    if own in ("faceresnet", "nn"):
        return  # the package's lazy names; nn has a rule of its own
    assert own in LAYER, f"{module} has no place in LAYERS: give it one"
    for name, _ in imports(MODULES[module]):
        if not name.startswith("faceresnet."):
            continue
        other = name.split(".")[1]
        if other == "__version__" or other == own:
            continue
        if other == "nn":
            assert own in ("digits", "cli"), f"{module} imports nn"
            continue
        assert LAYER[other] <= LAYER[own], f"{module} imports {name}, which lies above it"


@pytest.mark.parametrize("module", [module for module in MODULES if module.split(".")[0] == "nn"])
def test_nn_stands_alone(module):
    for name, _ in imports(MODULES[module]):
        if name.startswith("faceresnet"):
            assert name.startswith("faceresnet.nn"), f"{module} imports {name}"
        assert name.split(".")[0] not in HOMES


@pytest.mark.parametrize("library", HOMES)
def test_libraries_stay_in_their_homes(library):
    for module, path in MODULES.items():
        for name, _ in imports(path):
            if name.split(".")[0] == library:
                at_home = any(f"{module}.".startswith(f"{home}.") for home in HOMES[library])
                assert at_home, f"{module} imports {name}"


@pytest.mark.parametrize("module", MODULES)
def test_heavy_libraries_are_imported_when_needed(module):
    if module.split(".")[0] in ("train", "digits"):
        return
    for name, at_once in imports(MODULES[module]):
        assert not (at_once and name.split(".")[0] in LAZY), f"{module} imports {name} at once"


@pytest.mark.parametrize("module", [m for m in MODULES if m.split(".")[0] in ("cli", "__main__")])
def test_the_command_line_imports_lazily(module):
    light = {"cli", "errors", "__version__"}
    if module in ("cli.sources", "cli.output"):
        return  # imported by the commands' bodies
    for name, at_once in imports(MODULES[module]):
        if at_once and name.startswith("faceresnet."):
            assert name.split(".")[1] in light, f"{module} imports {name} at once"


def test_the_rules_see_imports(tmp_path):
    """A rule that reads nothing would hold for ever."""
    path = tmp_path / "module.py"
    path.write_text(
        "from typing import TYPE_CHECKING\nimport torch.nn\n"
        "if TYPE_CHECKING:\n    import ray\n"
        "def f():\n    from faceresnet import boxes\n"
    )
    assert list(imports(path)) == [
        ("typing", True),
        ("torch.nn", True),
        ("faceresnet.boxes", False),
    ]
    assert {"boxes", "cli", "apps.demo"} <= set(MODULES)


@pytest.mark.parametrize("folder", [ROOT, ROOT / "train"], ids=["faceresnet", "train"])
def test_the_readme_names_every_file(folder):
    tree = (ROOT.parents[1] / "README.md").read_text().partition("## Read it")[2]
    for path in folder.glob("[!_]*"):
        name = path.name if path.suffix else f"{path.name}/"
        known = f"…{path.stem.removeprefix('evaluation')}.py"  # beside evaluation.py
        assert name in tree or (path.stem.startswith("evaluation_") and known in tree), name
