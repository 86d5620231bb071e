"""The script that makes the shipped weights, on four photos and two iterations a part."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from faceresnet.corrections import read_corrections
from faceresnet.engine import read_spec
from faceresnet.train.runs import read_recipe
from faceresnet.widerface import read_split
from train.test_cli import HERE, SETTINGS
from train.test_yunet import make_yunet

SCRIPT = Path(__file__).parents[2] / "scripts" / "train-faceresnet-n.sh"


def run(*arguments, corrections="", yunet=""):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        [SCRIPT, *map(str, arguments)],
        env={
            **os.environ,
            "PATH": path,
            "EVENTS": "",
            "CORRECTIONS": str(corrections),
            "YUNET": str(yunet),
            "CUT": "",  # the tests' network is smaller than what is left of the shipped one
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_from_nothing_to_a_model_and_on_after_a_break(data, tmp_path):
    out = tmp_path / "out"
    corrections = tmp_path / "list.csv"
    name = read_split(data, "train")[0].name
    corrections.write_text(f"photo,x1,y1,x2,y2,verdict\n{name},0,0,4,4,ignore\n")
    done = run(data, out, *SETTINGS, *HERE, corrections=corrections)
    assert done.returncode == 0, done.stderr
    spec = read_spec(out / "faceresnet-n.onnx")
    assert (spec.name, spec.recipe, spec.precision) == (
        "faceresnet-n",
        "faceresnet-n-negatives",
        "int8",
    )
    assert (out / "faceresnet-n.safetensors").exists()
    assert len(read_split(out / "relabelled", "train")) == 4
    assert read_split(out / "corrected", "train")[0].ignore[-1]

    assert read_recipe(out / "faceresnet-n-negatives").augmentation.empty > 0

    (out / "faceresnet-n" / "done").unlink()  # as if killed before it was noted
    shutil.rmtree(out / "faceresnet-n-negatives")
    before = (out / "relabelled" / "done").stat().st_mtime_ns
    done = run(data, out, *SETTINGS, *HERE, yunet=make_yunet(tmp_path / "yunet.onnx"))
    assert done.returncode == 0, done.stderr
    assert (out / "relabelled" / "done").stat().st_mtime_ns == before
    assert read_spec(out / "faceresnet-n.onnx").recipe == "faceresnet-n-negatives"
    recipe = read_recipe(out / "faceresnet-n-taught")
    assert recipe.distillation.yunet == str(tmp_path / "yunet.onnx")
    assert recipe.distillation.trust == 1


def test_the_corrections_of_the_shipped_weights_are_readable():
    corrections = read_corrections(SCRIPT.with_name("faceresnet-n-corrections.csv.gz"))
    verdicts = Counter(one.verdict for ones in corrections.values() for one in ones)
    assert verdicts == {"face": 8459, "ignore": 13483, "nothing": 1275}


def test_without_arguments_it_says_how():
    done = run()
    assert done.returncode == 2
    assert "DATA OUT" in done.stderr
