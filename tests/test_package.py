import json
import resource
import subprocess
import sys

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


def processor_time_s():
    """What the processes started so far have used: independent of the machine's load."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_is_fast():
    times_s = []
    for _ in range(3):
        start = processor_time_s()
        subprocess.run(
            [sys.executable, "-m", "faceresnet", "--help"], capture_output=True, check=True
        )
        times_s.append(processor_time_s() - start)
    assert min(times_s) < 0.5


def test_public_names():
    for name in faceresnet.__all__:
        assert getattr(faceresnet, name) is not None
        assert name in dir(faceresnet)
    with pytest.raises(AttributeError, match="no attribute 'Faces'"):
        _ = faceresnet.Faces
