import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import faceresnet

HEAVY = ["cv2", "openvino", "torch", "onnxruntime", "numpy", "PIL", "scipy", "lightning"]


def loaded_after(code):
    """Which heavy modules a fresh interpreter has loaded after running `code`."""
    script = (
        f"import sys, json\n{code}\nprint(json.dumps(sorted(set(sys.modules) & set({HEAVY!r}))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_after("import faceresnet") == []


def test_the_check_sees_heavy_modules():
    assert "numpy" in loaded_after("import faceresnet; faceresnet.Detections")


def test_help_loads_nothing_heavy():
    code = """
from faceresnet.cli import main
for arguments in (["--help"], ["detect", "--help"], ["--version"]):
    try:
        main(arguments)
    except SystemExit as stop:
        assert not stop.code
"""
    assert loaded_after(code) == []


def processor_time_s(*arguments):
    """What a fresh interpreter uses: independent of the machine's load, not of its speed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_takes_little_more_than_its_library():
    rounds = [
        (
            processor_time_s("-m", "faceresnet", "--help"),
            processor_time_s("-c", "import typer.main, typer.rich_utils"),
        )
        for _ in range(3)
    ]
    ours, typers = map(min, zip(*rounds, strict=True))
    assert ours < 2.5 * typers


def test_type_checkers_are_told_that_there_are_types():
    assert Path(faceresnet.__file__).with_name("py.typed").is_file()


def test_public_names():
    for name in faceresnet.__all__:
        assert getattr(faceresnet, name) is not None
        assert name in dir(faceresnet)
    with pytest.raises(AttributeError, match="no attribute 'Faces'"):
        _ = faceresnet.Faces
