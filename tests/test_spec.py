from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import blob_spec
from faceresnet.anchors import Level
from faceresnet.errors import ModelError
from faceresnet.spec import METADATA_KEY, ModelSpec

positive = st.lists(st.floats(0.2, 1000), min_size=1, max_size=3)
levels = st.lists(
    st.tuples(st.sampled_from([1, 8, 64]), positive, positive), min_size=1, max_size=4
)
fields = st.fixed_dictionaries(
    {
        "name": st.text(),
        "delta_scales": st.tuples(st.floats(0.01, 2), st.floats(0.01, 2)),
        "size_multiple": st.sampled_from([32, 64]),
        "threshold": st.floats(0, 1),
        "nms_iou": st.floats(0, 1),
        "precision": st.sampled_from(["fp32", "int8"]),
        "recipe": st.text(),
        "licence": st.text(),
        "measured": st.dictionaries(st.text(), st.floats(0, 1), max_size=3),
    }
)


@given(levels, fields)
@settings(max_examples=50, deadline=None)
def test_metadata_holds_everything(levels, fields):
    pyramid = tuple(Level(stride, tuple(sizes), tuple(ratios)) for stride, sizes, ratios in levels)
    spec = ModelSpec(levels=pyramid, **fields)
    metadata = spec.to_metadata()
    assert all(isinstance(value, str) for value in metadata.values())
    again = ModelSpec.from_metadata(metadata, "model.onnx")
    assert again == spec
    assert isinstance(again.levels[0], Level)


def test_other_metadata_does_not_matter():
    metadata = {"author": "x", **blob_spec().to_metadata()}
    assert ModelSpec.from_metadata(metadata, "model.onnx") == blob_spec()


def test_a_model_without_a_specification_is_not_ours():
    with pytest.raises(ModelError, match=r"model\.onnx is not a faceresnet model.*export"):
        ModelSpec.from_metadata({"author": "x"}, "model.onnx")


def changed(change):
    values = json.loads(blob_spec().to_metadata()[METADATA_KEY])
    change(values)
    return {METADATA_KEY: json.dumps(values)}


def test_a_newer_format_asks_for_an_upgrade():
    metadata = changed(lambda values: values.update(format=2))
    with pytest.raises(ModelError, match=r"has model format 2, this version reads 1: upgrade"):
        ModelSpec.from_metadata(metadata, "model.onnx")


def test_what_a_newer_version_added_asks_for_an_upgrade():
    metadata = changed(lambda values: values.update(colour="red"))
    with pytest.raises(ModelError, match=r"has colour in its specification.*: upgrade"):
        ModelSpec.from_metadata(metadata, "model.onnx")


@pytest.mark.parametrize(
    "metadata",
    [
        {METADATA_KEY: "no json"},
        {METADATA_KEY: "[]"},
        {METADATA_KEY: "3"},
        changed(lambda values: values.pop("format")),
        changed(lambda values: values.pop("levels")),
        changed(lambda values: values.update(levels=[{"stride": 3, "sizes": [1], "ratios": [1]}])),
        changed(lambda values: values.update(levels=[7])),
        changed(lambda values: values.update(delta_scales=1)),
        changed(lambda values: values.update(delta_scales=[1])),
        changed(lambda values: values.update(levels=[])),
        changed(lambda values: values.update(size_multiple=0)),
        changed(lambda values: values.update(threshold=7)),
        changed(lambda values: values.update(nms_iou=-1)),
        changed(lambda values: values.update(excess=-1)),
    ],
)
def test_a_broken_specification_is_an_error_that_names_the_file(metadata):
    with pytest.raises(ModelError, match=r"model\.onnx has a broken specification"):
        ModelSpec.from_metadata(metadata, "model.onnx")


def test_a_specification_does_not_change():
    spec = blob_spec()
    with pytest.raises(FrozenInstanceError):
        spec.threshold = 0.1
    assert replace(spec, threshold=0.1).threshold == 0.1
    assert spec.threshold == 0.5
    with pytest.raises(TypeError):
        replace(spec, treshold=0.1)
