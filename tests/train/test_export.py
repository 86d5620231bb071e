from __future__ import annotations

import copy
from dataclasses import asdict, replace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file

from faceresnet import FaceDetector
from faceresnet.engine import open_engine, read_spec
from faceresnet.errors import ImageError, TrainingError
from faceresnet.protocols import EVALUATION_THRESHOLD
from faceresnet.train import export as exporting
from faceresnet.train import recipes
from faceresnet.train.export import (
    CalibrationPhotos,
    average,
    check,
    export,
    halve,
    load_run,
    quantise,
    rewrite,
    save_weights,
    shift_scores,
)
from faceresnet.train.fold import fold_pixels
from faceresnet.train.model import FaceResNet
from faceresnet.train.runs import LAST, load_weights, make_spec, write_json
from faceresnet.train.training import TorchDetector
from train.samples import face_photo, small_network, small_recipe, write_split

#: Odd multiples of the size multiple, wide, high, and in batches.
SHAPES = [(1, 32, 32), (3, 96, 32), (1, 160, 224), (2, 32, 352)]
ENGINES = ["onnxruntime", "openvino"]


def trained_model(network):
    """A network whose normalisation has statistics, and whose logits differ; folded as in files."""
    return fold_pixels(unfolded_model(network))


def unfolded_model(network):
    torch.manual_seed(0)
    model = FaceResNet(network)
    with torch.no_grad():
        model.classify.predict.weight.mul_(20)
        for seed in range(5):
            photo, _ = face_photo(seed)
            model.train()(torch.tensor(photo)[None].repeat(2, 1, 1, 1))
    return model.eval()


#: Five levels beyond the backbone's last, and bottleneck heads, as in the paper.
DEEP = replace(
    small_network(levels=recipes.recipe("paper").network.levels, head_block="bottleneck"),
    block="bottleneck",
)


#: One head, and no smoothing of the pyramid, as in the small model.
ONE_HEAD = small_network(shared_head=True, smooth=False)


def test_folding_changes_outputs_at_the_border_only():
    network = small_network()
    model = unfolded_model(network)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    photo = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 256, 256, 3), np.uint8))
    folded = fold_pixels(model)
    with torch.no_grad():
        x = [((photo.float() - m.mean) / m.std).permute(0, 3, 1, 2) for m in (model, folded)]
        want, got = (
            m.backbone.bn1(m.backbone.conv1(pixels))
            for m, pixels in zip((model, folded), x, strict=True)
        )
        far = (model(photo)[0] - folded(photo)[0]).abs().max()
    assert torch.allclose(want[..., 2:-2, 2:-2], got[..., 2:-2, 2:-2], atol=1e-4)
    assert not torch.allclose(want, got, atol=1e-4)
    assert far < 0.5
    assert len(folded.mean.unique()) == len(folded.std.unique()) == 1
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.fixture(scope="module")
def model():
    return trained_model(small_network())


@pytest.fixture(scope="module")
def spec():
    recipe = small_recipe()
    return make_spec(recipe, name="tiny", licence="none", measured={"all": 0.5}, threshold=0.4)


@pytest.fixture(scope="module")
def file(model, spec, tmp_path_factory):
    file = tmp_path_factory.mktemp("models") / "deep" / "tiny.onnx"
    export(model, spec, file)
    return file


def noise(n, height, width, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def differences(engine, model, shapes=SHAPES):
    for shape in shapes:
        images = noise(*shape)
        with torch.no_grad():
            expected = model(torch.from_numpy(images))
        for want, got in zip(expected, engine(images), strict=True):
            assert got.shape == tuple(want.shape)
            yield float(np.abs(want.numpy() - got).max())


@pytest.mark.parametrize("engine", ENGINES)
def test_the_file_gives_pytorchs_outputs_at_every_size(file, model, engine):
    assert max(differences(open_engine(file, engine, threads=1), model)) < 2e-3


@pytest.mark.parametrize("network", [DEEP, ONE_HEAD], ids=["deep", "one head"])
def test_other_networks_are_exported_too(tmp_path, network):
    model = trained_model(network)
    spec = make_spec(small_recipe(network=network))
    export(model, spec, tmp_path / "other.onnx")
    for engine in ENGINES:
        opened = open_engine(tmp_path / "other.onnx", engine, threads=1)
        assert max(differences(opened, model, SHAPES[1:3])) < 2e-3


def test_the_file_says_everything_about_itself(file, spec):
    assert read_spec(file) == spec
    assert open_engine(file, "onnxruntime", threads=1).spec == spec
    proto = onnx.load(file)
    onnx.checker.check_model(proto)
    assert [i.name for i in proto.graph.input] == ["images"]
    assert [o.name for o in proto.graph.output] == ["logits", "deltas"]
    tensor = proto.graph.input[0].type.tensor_type
    assert tensor.elem_type == onnx.TensorProto.UINT8
    assert [bool(d.dim_param) for d in tensor.shape.dim] == [True, True, True, False]
    assert sorted(p.name for p in file.parent.iterdir()) == ["tiny.onnx"]


def test_the_file_detects_what_the_network_in_training_does(file, model, spec):
    photo, _ = face_photo(0, (70, 101))
    ours = TorchDetector(model, spec)(photo)
    theirs = FaceDetector(file, threshold=EVALUATION_THRESHOLD, threads=1)(photo)
    assert len(ours.scores) > 5
    assert np.allclose(ours.scores, theirs.scores, atol=1e-3)
    assert np.abs(ours.boxes - theirs.boxes).max() < 0.1


@pytest.mark.parametrize("before", [b"", b"an older model"])
def test_a_file_that_differs_from_pytorch_is_not_written(
    file, model, spec, tmp_path, monkeypatch, before
):
    out = tmp_path / "out.onnx"
    if before:
        out.write_bytes(before)
    monkeypatch.setattr(exporting, "TOLERANCE", 1e-12)
    with pytest.raises(TrainingError, match=r"differs from PyTorch by .* not written"):
        exporting.write_onnx(onnx.load(file), spec, out, model)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([before] if before else [])


def test_the_check_finds_a_changed_weight(file, model):
    assert check(file, model) < 2e-3
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.regress.predict.bias[2] += 0.01
    with pytest.raises(TrainingError, match=r"differs from PyTorch by 1\.0e-02"):
        check(file, changed)
    with torch.no_grad():
        changed.regress.predict.bias[2] = float("nan")
    with pytest.raises(TrainingError, match="differs from PyTorch by nan"):
        check(file, changed)
    with pytest.raises(TrainingError, match="has shape"):
        check(
            file, trained_model(small_network(levels=recipes.recipe("faceresnet-n").network.levels))
        )


def test_a_specification_is_rewritten(file, model, spec, tmp_path):
    other = replace(spec, name="other", threshold=0.7)
    rewrite(file, other, tmp_path / "other.onnx")
    assert read_spec(tmp_path / "other.onnx") == other
    assert read_spec(file) == spec
    engine = open_engine(tmp_path / "other.onnx", "onnxruntime", threads=1)
    assert max(differences(engine, model, SHAPES[:1])) < 2e-3


# --- int8 ---


@pytest.fixture(scope="module")
def calibration(tmp_path_factory):
    root = tmp_path_factory.mktemp("calibration")
    return write_split(root, "train", [face_photo(seed) for seed in range(6)])


@pytest.fixture(scope="module")
def int8(file, spec, calibration, tmp_path_factory):
    out = tmp_path_factory.mktemp("int8") / "tiny.onnx"
    quantise(file, out, replace(spec, precision="int8"), calibration)
    return out


def producers(proto):
    return {output: node for node in proto.graph.node for output in node.output}


def test_int8_convolutions_take_quantised_inputs_and_weights(int8, spec):
    assert read_spec(int8) == replace(spec, precision="int8")
    check_int8(int8, heads=2 * len(spec.levels), widths={1, 4})


def test_int8_of_one_head(calibration, tmp_path):
    spec = make_spec(small_recipe(network=ONE_HEAD))
    export(trained_model(ONE_HEAD), spec, tmp_path / "fp32.onnx")
    quantise(
        tmp_path / "fp32.onnx", tmp_path / "int8.onnx", replace(spec, precision="int8"), calibration
    )
    check_int8(tmp_path / "int8.onnx", heads=len(spec.levels), widths={5})


def test_int8_ranges_are_the_mean_of_the_photos(file, spec, calibration, tmp_path):
    def scales(name, photos):
        quantise(file, tmp_path / name, replace(spec, precision="int8"), photos)
        proto = onnx.load(tmp_path / name)
        values = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
        return {n.input[0]: values[n.input[1]] for n in proto.graph.node if is_rounding(n)}

    one, two = (scales(f"{i}.onnx", [calibration[i]]) for i in range(2))
    both = scales("both.onnx", calibration[:2])
    assert both.keys() == one.keys()
    differing = [name for name in both if abs(one[name] - two[name]) > 0.01 * both[name]]
    assert len(differing) > 5
    for name in both:
        assert both[name] == pytest.approx((one[name] + two[name]) / 2, rel=1e-5)


def check_int8(file, heads, widths):
    """All convolutions are in int8; what so many last ones, of so many outputs, give is float."""
    proto = onnx.load(file)
    assert proto.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    maker = producers(proto)
    weights = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    convolutions = [node for node in proto.graph.node if node.op_type == "Conv"]
    assert len(convolutions) > 15
    shapes = []
    for node in convolutions:
        assert [maker[name].op_type for name in node.input[:2]] == ["DequantizeLinear"] * 2
        source = maker[node.input[1]].input
        assert weights[source[0]].dtype == np.int8
        shapes.append(weights[source[0]].shape)
        assert weights[source[1]].shape == shapes[-1][:1]  # by channel
        check_pairs(weights[source[0]])
    rounded = {name for node in proto.graph.node if is_rounding(node) for name in node.input[:1]}
    exact = [i for i, node in enumerate(convolutions) if node.output[0] not in rounded]
    # The last convolution of each head, once for each level.
    assert len(exact) == heads
    assert {shapes[i][0] for i in exact} == widths
    # Nor is anything rounded on its way from there to the outputs.
    after = {convolutions[i].output[0] for i in exact}
    for node in proto.graph.node:
        if after & set(node.input):
            after |= set(node.output)
            assert not is_rounding(node)
    assert after >= {output.name for output in proto.graph.output}
    # Enlarged levels are not rounded a second time.
    enlarged = {node.output[0] for node in proto.graph.node if node.op_type == "Resize"}
    assert enlarged
    assert not enlarged & rounded


def check_pairs(weights):
    """Two products of a byte and a weight fit in 16 bits, and use most of them."""
    filters, channels = weights.shape[:2]
    largest = np.zeros(filters)
    for part in (np.maximum(weights.astype(int), 0), np.maximum(-weights.astype(int), 0)):
        if channels % 2:
            sums = np.sort(part.reshape(filters, -1))[:, -2:].sum(axis=1)
        else:
            sums = (part[:, ::2] + part[:, 1::2]).reshape(filters, -1).max(axis=1)
        largest = np.maximum(largest, sums)
    assert largest.max() <= 128
    assert largest.min() >= 126


def is_rounding(node):
    return node.op_type == "QuantizeLinear"


def test_int8_runs_in_both_engines_alike_and_close_to_fp32(int8, file):
    photo, _ = face_photo(3)
    images = np.stack([photo, photo[::-1]])
    exact = open_engine(file, "onnxruntime", threads=1)(images)
    ours = {name: open_engine(int8, name, threads=1)(images) for name in ENGINES}
    for want, one, two in zip(exact, *ours.values(), strict=True):
        spread = want.std()
        assert one.shape == two.shape == want.shape
        assert np.abs(one - two).mean() < 0.1 * spread
        assert 0 < np.abs(one - want).mean() < 0.3 * spread
        assert np.corrcoef(one.ravel(), want.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("engine", ENGINES)
def test_int8_takes_any_size(int8, engine):
    opened = open_engine(int8, engine, threads=1)
    for shape in SHAPES[:3]:
        logits, deltas = opened(noise(*shape))
        assert deltas.shape == (*logits.shape, 4)


def test_calibration_photos_are_shrunk_and_padded(tmp_path):
    photos = write_split(
        tmp_path, "train", [face_photo(0, (72, 2000)), face_photo(1, (40, 104), faces=0)]
    )
    reader = CalibrationPhotos(photos, 32)
    shapes = []
    while (inputs := reader.get_next()) is not None:
        assert inputs["images"].dtype == np.uint8
        shapes.append(inputs["images"].shape)
    assert shapes == [(1, 32, 640, 3), (1, 64, 128, 3)]


def test_a_broken_calibration_photo_is_named(file, spec, tmp_path):
    photos = write_split(tmp_path / "data", "train", [face_photo(0), face_photo(1)])
    photos[1].path.write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"event/1\.png"):
        quantise(file, tmp_path / "out" / "x.onnx", spec, photos)
    assert not (tmp_path / "out").exists()


# --- runs ---


def test_a_folder_without_checkpoints_cannot_be_exported(tmp_path):
    with pytest.raises(TrainingError, match="is not a run folder"):
        load_run(tmp_path)
    write_json(tmp_path / "recipe.json", asdict(small_recipe()))
    with pytest.raises(TrainingError, match="has no checkpoint yet"):
        load_run(tmp_path)


def test_without_a_best_checkpoint_the_last_is_taken(model, tmp_path):
    write_json(tmp_path / "recipe.json", asdict(small_recipe()))
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    (tmp_path / LAST).parent.mkdir()
    torch.save({"state_dict": state}, tmp_path / LAST)
    _, loaded = load_run(tmp_path)
    assert torch.equal(loaded.classify.predict.weight, model.classify.predict.weight)


def test_networks_are_averaged_weight_by_weight(model, tmp_path):
    others = [copy.deepcopy(model) for _ in range(2)]
    for number, other in enumerate(others, 1):
        with torch.no_grad():
            other.classify.predict.bias += 3 * number
        save_weights(other, tmp_path / f"{number}.safetensors")
    mean = average(model, [tmp_path / f"{number}.safetensors" for number in (1, 2)])
    bias = model.classify.predict.bias + 3
    torch.testing.assert_close(mean.classify.predict.bias, bias)
    torch.testing.assert_close(mean.backbone.conv1.weight, model.backbone.conv1.weight)


@pytest.mark.parametrize("shared", [True, False])
def test_scores_are_shifted_and_boxes_stay(shared):
    network = small_network(shared_head=shared)
    model = FaceResNet(network).eval()
    images = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    with torch.no_grad():
        logits, deltas = model(images)
        shift_scores(model, 0.25)
        shifted, same = model(images)
    torch.testing.assert_close(shifted, logits + 0.25)
    assert torch.equal(same, deltas)


def test_weights_are_written_to_start_from(model, tmp_path):
    file = tmp_path / "deep" / "x.safetensors"
    save_weights(model, file)
    again = FaceResNet(small_network()).eval()
    load_weights(again, file)
    for name, value in again.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert [p.name for p in file.parent.iterdir()] == ["x.safetensors"]


def test_half_the_size_is_saved_on_what_has_more_than_one_axis(model, file, spec, tmp_path):
    save_weights(model, tmp_path / "x.safetensors", half=True)
    saved = load_file(tmp_path / "x.safetensors")
    for name, value in model.state_dict().items():
        assert saved[name].dtype == (torch.float16 if value.ndim > 1 else value.dtype), name
    halve(file, tmp_path / "x.onnx", replace(spec, precision="fp16"))
    weights = map(numpy_helper.to_array, onnx.load(tmp_path / "x.onnx").graph.initializer)
    kinds = {(one.ndim > 1, one.dtype.name) for one in weights if one.dtype.kind == "f"}
    assert kinds == {(True, "float16"), (False, "float32")}


@pytest.mark.parametrize(("half", "tolerance"), [(False, 1e-6), (True, 1e-3)])
def test_a_model_file_is_something_to_start_from_too(tmp_path, half, tolerance):
    trained = unfolded_model(small_network())
    spec = make_spec(small_recipe())
    file = tmp_path / "x.onnx"
    export(trained, spec, file)
    if half:
        halve(file, file, replace(spec, precision="fp16"))
    again = FaceResNet(small_network()).eval()
    load_weights(again, file)
    for name, value in again.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            expected = trained.state_dict()[name]
            assert torch.allclose(value, expected, rtol=tolerance, atol=tolerance), name


def test_int8_is_nothing_to_start_from(int8):
    with pytest.raises(TrainingError, match="int8 is for detecting only"):
        load_weights(FaceResNet(small_network()), int8)
