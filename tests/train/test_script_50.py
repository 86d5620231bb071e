"""The script for rented GPUs, with a small network: calls that are cut off, pieces, exports."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from faceresnet.engine import read_spec
from faceresnet.shards import pack
from faceresnet.train.export import save_weights
from faceresnet.train.model import FaceResNet
from faceresnet.widerface import read_split
from train.samples import options, small_network
from train.test_cli import HERE, SMALL

SCRIPT = Path(__file__).parents[2] / "scripts" / "train-faceresnet-50.sh"
SETTINGS = options({**SMALL, "network.block": "basic"})


#: In place of the real one: it ends the training once there is a checkpoint, however long it takes.
TIMEOUT = """#!/usr/bin/env bash
shift 5
"$@" &
until [ -e "$CHECKPOINT" ] || ! kill -0 $!; do sleep 0.2; done
kill -TERM $!
wait $!
exit 124
"""


def run(*arguments, corrections="", bin_first="", checkpoint="", start=""):
    path = [str(bin_first), str(Path(sys.executable).parent), os.environ["PATH"]]
    return subprocess.run(
        [SCRIPT, *map(str, arguments)],
        env={
            **os.environ,
            "PATH": os.pathsep.join(filter(None, path)),
            "CORRECTIONS": str(corrections),
            "CHECKPOINT": str(checkpoint),
            "START": str(start),
            "TIME_LIMIT_S": "3600",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )


def iterations(out):
    lines = (out / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["iteration"] for line in lines]


@pytest.mark.slow
def test_calls_that_are_cut_off_on_two_machines_end_in_the_models(data, tmp_path):
    shard, here, there = tmp_path / "shard.zip", tmp_path / "here", tmp_path / "there"
    pack({split: read_split(data, split) for split in ("train", "val")}, shard)
    timeout = tmp_path / "bin" / "timeout"
    timeout.parent.mkdir()
    timeout.write_text(TIMEOUT)
    timeout.chmod(0o755)

    endless = ["--set", "schedule.iterations=100000", *HERE]
    checkpoint = here / "run/checkpoints/last.ckpt"
    cut = run(shard, here, *SETTINGS, *endless, bin_first=timeout.parent, checkpoint=checkpoint)
    assert cut.returncode == 0, cut.stderr
    assert "the same command goes on" in cut.stderr
    assert not (here / "pieces" / "done").exists()
    reached = int((here / "run" / "iteration").read_text())
    assert 0 < reached <= iterations(here)[-1]
    shutil.copytree(here / "pieces", there / "pieces")

    two_more = ["--set", f"schedule.iterations={reached + 2}", *HERE]
    done = run(shard, here, *SETTINGS, *two_more)
    assert done.returncode == 0, done.stderr
    assert iterations(here) == list(range(1, reached + 3))
    assert (here / "pieces" / "done").exists()
    assert not list(here.glob("*.onnx"))  # a shard's photos are not those to measure on

    name = read_split(data, "train")[0].name
    corrections = tmp_path / "list.csv"
    corrections.write_text(f"photo,x1,y1,x2,y2,verdict\n{name},0,0,4,4,ignore\n")
    done = run(data, there, *SETTINGS, *two_more, corrections=corrections)
    assert done.returncode == 0, done.stderr
    assert iterations(there) == list(range(1, reached + 3))
    assert json.loads((there / "run/recipe.json").read_text())["schedule"]["start"] == reached
    assert read_split(there / "corrected", "train")[0].ignore[-1]
    for model, precision in (("faceresnet-50-fp16", "fp16"), ("faceresnet-50", "int8")):
        spec = read_spec(there / f"{model}.onnx")
        assert (spec.name, spec.precision) == (model, precision)
        assert set(spec.measured) == {"all", "event"}
        pieces = sorted((there / "pieces").glob(f"{model}.onnx.*"))
        assert b"".join(p.read_bytes() for p in pieces) == (there / f"{model}.onnx").read_bytes()


def test_broken_pieces_are_refused(data, tmp_path):
    pieces = tmp_path / "pieces"
    pieces.mkdir()
    (pieces / "run.tar.00").write_bytes(b"half of it")
    (pieces / "SHA256SUMS").write_text(f"{'0' * 64}  run.tar.00\n")
    done = run(data, tmp_path, *SETTINGS, *HERE)
    assert done.returncode != 0
    assert "run.tar.00: FAILED" in done.stdout + done.stderr
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_it_starts_from_a_smaller_network_grown(data, tmp_path):
    """Only growing refuses these weights so; what it grows itself has tests of its own."""
    weights = tmp_path / "weights.safetensors"
    save_weights(FaceResNet(small_network(block="bottleneck")), weights)
    large = options({**SMALL, "network.block": "bottleneck", "network.smooth": False})
    done = run(data, tmp_path / "out", *large, *HERE, start=weights)
    assert done.returncode == 2
    assert "is of another kind of network" in done.stderr
    assert "of a narrower, basic-block network" in done.stderr


def test_without_arguments_it_says_how():
    done = run()
    assert done.returncode == 2
    assert "DATA OUT" in done.stderr
