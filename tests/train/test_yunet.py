"""YuNet as a teacher and a peer, by a stand-in that takes red for faces."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from conftest import blob_image
from faceresnet.errors import ModelError
from faceresnet.train.yunet import NMS_IOU, YuNet

#: A cell's box: its centre from the cell's corner in strides, and the logarithms of its sides.
BOX = (0.5, 0.5, np.log(2), np.log(3))


def make_yunet(path, height="height", width="width"):
    """Class and objectness of a cell are its mean redness at stride 8, nothing at 16 and 32."""
    weight = np.array([-0.5, -0.5, 1], np.float32).reshape(1, 3, 1, 1) / 255  # BGR
    constants = [
        numpy_helper.from_array(weight, "red"),
        numpy_helper.from_array(np.array([0, -1, 1], np.int64), "cells"),
        numpy_helper.from_array(np.zeros((1,), np.float32), "nothing"),
        *(
            numpy_helper.from_array(np.array(row, np.float32), name)
            for name, row in (("box", BOX), ("points", np.zeros(10)))
        ),
    ]
    nodes = [helper.make_node("Conv", ["input", "red"], ["redness"])]
    names = {kind: [f"{kind}_{stride}" for stride in (8, 16, 32)] for kind in ("cls", "obj")}
    names |= {kind: [f"{kind}_{stride}" for stride in (8, 16, 32)] for kind in ("bbox", "kps")}
    for i, stride in enumerate((8, 16, 32)):
        grid, mean, none = f"grid{i}", f"mean{i}", f"none{i}"
        nodes += [
            helper.make_node(
                "AveragePool", ["redness"], [grid], kernel_shape=[stride] * 2, strides=[stride] * 2
            ),
            helper.make_node("Reshape", [grid, "cells"], [mean]),
            helper.make_node("Mul", [mean, "nothing"], [none]),
            helper.make_node("Add", [none, "box"], [names["bbox"][i]]),
            helper.make_node("Add", [none, "points"], [names["kps"][i]]),
            *(
                helper.make_node("Identity", [mean if stride == 8 else none], [names[kind][i]])
                for kind in ("cls", "obj")
            ),
        ]
    graph = helper.make_graph(
        nodes,
        "yunet",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, height, width])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            for kind in ("cls", "obj", "bbox", "kps")
            for name in names[kind]
        ],
        constants,
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def yunet_file(tmp_path_factory):
    return make_yunet(tmp_path_factory.mktemp("yunet") / "yunet.onnx")


def test_a_face_is_decoded_from_its_cell(yunet_file):
    found = YuNet(yunet_file, 1)(blob_image((96, 64), (20, 44, 8)))  # row 5, column 2
    assert found.boxes.tolist() == [pytest.approx([12, 32, 28, 56], abs=1e-4)]
    assert found.scores.tolist() == pytest.approx([1], abs=1e-5)
    assert found.size == (96, 64)


def test_the_score_is_the_root_of_class_times_objectness_and_the_threshold_is_of_it(yunet_file):
    image = blob_image((64, 64), (20, 20, 8))
    image[16:24, 16:18] = 127  # three quarters of the cell are red
    assert YuNet(yunet_file, 1, 0.74)(image).scores.tolist() == pytest.approx([0.75], abs=1e-3)
    assert len(YuNet(yunet_file, 1, 0.76)(image)) == 0


def test_of_two_boxes_on_one_face_the_better_is_kept(yunet_file):
    image = blob_image((64, 64), (20, 20, 8))
    image[16:24, 24:31] = (255, 0, 0)  # the next cell, its box one of two strides further
    assert NMS_IOU > 1 / 3
    assert len(YuNet(yunet_file, 1)(image)) == 2
    image[24:32, 16:22] = (255, 0, 0)  # the cell below, its box one of three strides further
    found = YuNet(yunet_file, 1)(image)
    assert found.boxes[:, :2].round().tolist() == [[12, 8], [20, 8]]


def test_sides_that_are_no_multiple_of_the_strides_are_padded(yunet_file):
    found = YuNet(yunet_file, 1)(blob_image((50, 70), (60, 44, 8)))
    assert found.boxes.tolist() == [[52, 32, 68, 50]]  # cut at the border
    assert found.size == (50, 70)
    assert len(YuNet(yunet_file, 1)(np.full((33, 33, 3), 127, np.uint8))) == 0


def test_a_file_that_is_not_yunet_is_one_line(tmp_path, blob_model):
    with pytest.raises(ModelError, match=r"cannot load YuNet from .*none\.onnx"):
        YuNet(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="is not YuNet with dynamic height and width"):
        YuNet(blob_model)
    with pytest.raises(ModelError, match="is not YuNet with dynamic height and width"):
        YuNet(make_yunet(tmp_path / "fixed.onnx", 640, 640))
