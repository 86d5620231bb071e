"""Nobody is told that a detector runs."""

import os
import subprocess
import sys

import pytest

LOOK = """
import sys
import numpy as np
{before}
from faceresnet import FaceDetector
FaceDetector({model!r})(np.zeros((64, 64, 3), np.uint8))
print(sys.modules.get("openvino_telemetry"))
"""


@pytest.fixture
def look(blob_model, tmp_path):
    """Runs a detector in a home and an environment of its own; gives what it prints."""

    def run(before=""):
        ci = {"CI", "TF_BUILD", "JENKINS_URL"}  # OpenVINO reports nothing there
        environment = {k: v for k, v in os.environ.items() if k not in ci} | {"HOME": str(tmp_path)}
        command = [sys.executable, "-c", LOOK.format(before=before, model=str(blob_model))]
        return subprocess.run(
            command, env=environment, text=True, capture_output=True, check=True, timeout=300
        ).stdout.strip()

    return run


def test_openvino_reports_nothing(look, tmp_path):
    assert look() == "None"
    assert not (tmp_path / "intel").exists()  # where it would have written who reports


def test_what_others_imported_is_left_to_them(look):
    before = "import types; sys.modules['openvino_telemetry'] = types.ModuleType('theirs')"
    assert "theirs" in look(before)
