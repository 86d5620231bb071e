import ast
from pathlib import Path

import pytest

from faceresnet import nn

FILES = sorted(Path(nn.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_numpy_is_all_it_needs(path):
    """And jaxtyping, for the shapes in the signatures."""
    allowed = {"__future__", "abc", "collections", "dataclasses", "functools", "typing"}
    allowed |= {"fractions", "itertools", "math", "numpy", "jaxtyping"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            assert name.split(".")[0] in allowed or name.startswith("faceresnet.nn.")
