"""From a run to one .onnx file that says everything about itself, in fp32, fp16 or int8."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from safetensors.torch import save

from faceresnet import images
from faceresnet.atomic import replacing
from faceresnet.engine import INPUT, OUTPUTS, open_engine
from faceresnet.errors import TrainingError, while_writing
from faceresnet.spec import ModelSpec
from faceresnet.train.fold import fold_pixels
from faceresnet.train.model import FaceResNet, Network
from faceresnet.train.narrow import CUT, narrow
from faceresnet.train.recipes import Recipe
from faceresnet.train.runs import BEST, HALF, LAST, WHOLE, load_weights, read_recipe
from faceresnet.widerface import Photo

#: Largest difference of a logit or delta between PyTorch and the exported fp32 file.
TOLERANCE = 2e-3
#: (batch, height, width) with which the exported file is checked: not the size it was traced with.
CHECKED_SHAPES = ((1, 64, 64), (2, 96, 160), (1, 480, 640))
#: px; longest side of the photos that set the ranges of an int8 network's activations.
CALIBRATION_SIDE = 640


def load_run(folder: Path, checkpoint: str | Path = "best") -> tuple[Recipe, FaceResNet]:
    """The recipe and the trained network of a run, ready for inference.

    Args:
        folder: the run folder.
        checkpoint: ``best`` by validation AP (``last`` where there is none), ``last``, or a file of
            the same network's weights (`load_weights`).

    Raises:
        TrainingError: the folder is no run, or has no checkpoint yet.
    """
    recipe = read_recipe(folder)
    file = folder / (BEST if checkpoint == "best" else LAST)
    if isinstance(checkpoint, Path):
        file = _whole(checkpoint)
    elif not file.exists():
        file = folder / LAST
    if not file.exists():
        raise TrainingError(f"{folder} has no checkpoint yet: train on, then export")
    model = FaceResNet(recipe.network)
    load_weights(model, file)
    return recipe, model.eval()


def _whole(file: Path) -> Path:
    """The file, if it is one of a whole network's weights: an ImageNet backbone detects nothing.

    Raises:
        TrainingError: it is not.
    """
    if file.suffix not in WHOLE:
        raise TrainingError(f"{file} is no checkpoint, .safetensors or .onnx of a whole network")
    return file


def cut_down(model: FaceResNet, network: Network) -> FaceResNet:
    """A narrower or shallower network from the strongest filters of a trained one, not trained on.

    Raises:
        TrainingError: it has something that is not the trained network's.
    """
    state, thin = model.state_dict(), FaceResNet(network)
    other = [
        name
        for name, value in thin.state_dict().items()
        if not name.startswith(CUT) and (name not in state or state[name].shape != value.shape)
    ]
    if other:
        raise TrainingError(
            f"{other[0]} would start anew: only the backbone can be cut down without training, "
            "else use faceresnet train --reshape narrow"
        )
    try:
        thin.load_state_dict(narrow(state, thin))
    except ValueError as error:
        raise TrainingError(f"this network cannot be cut down to that: {error}") from error
    return thin.eval()


def average(model: FaceResNet, files: Sequence[Path]) -> FaceResNet:
    """The mean of a network's weights and those in files, its relatives (`load_weights`).

    What one training went on to from another lies in the same valley of the loss, and the mean of
    both often does better than either (Wortsman et al. 2022, "Model soups").

    Raises:
        TrainingError: a file holds no weights of this network.
    """
    states = [model.state_dict()]
    for file in files:
        relative = FaceResNet(model.network)
        load_weights(relative, _whole(file))
        states.append(relative.state_dict())
    mean = {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(value.dtype)
        for name, value in states[0].items()
    }
    result = FaceResNet(model.network)
    result.load_state_dict(mean)
    return result.eval()


def shift_scores(model: FaceResNet, shift: float) -> None:
    """Add `shift` to every logit, in place: the same faces in the same order, with other scores.

    A network that was taught by doubtful teachers is doubtful, too; the thresholds of tools, and
    those from which the detector looks closer, were set for one that is not.
    """
    head = model.classify
    assert head.predict.bias is not None
    with torch.no_grad():
        head.predict.bias[:: head.outputs] += shift


def save_weights(model: FaceResNet, file: Path, *, half: bool = False) -> None:
    """Write the weights as .safetensors, to start other trainings from.

    With `half` convolutions are in float16; normalisations and biases, which need its range, not.

    Raises:
        TrainingError: the file cannot be written.
    """
    state = {
        name: (value.half() if half and value.ndim > 1 else value).contiguous()
        for name, value in model.state_dict().items()
    }
    with while_writing(file, TrainingError), replacing(file) as partial:
        partial.write_bytes(save(state))


def export(model: FaceResNet, spec: ModelSpec, file: Path) -> None:
    """Write the network as fp32 ONNX with dynamic batch, height and width.

    Its normalisations stay what they are, so that trainings can start from the file
    (`load_weights`); engines fold them into the convolutions when they load it.

    Raises:
        TrainingError: the file's outputs are not PyTorch's; nothing is written.
    """
    from onnxscript import optimizer

    model = fold_pixels(model.cpu().eval())
    # Several cells on every level: the exporter takes a side of 1 for a constant.
    side = max(spec.size_multiple, *(level.stride for level in spec.levels))
    height = torch.export.Dim("height", min=1, max=1024) * spec.size_multiple
    width = torch.export.Dim("width", min=1, max=1024) * spec.size_multiple
    example = torch.zeros(2, 3 * side, 4 * side, 3, dtype=torch.uint8)
    with _quiet():
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch"), 1: height, 2: width},),
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            verbose=False,
            optimize=False,  # it would fold the normalisations
        )
        assert program is not None
        optimizer.fold_constants(program.model)
        optimizer.remove_unused_nodes(program.model)
    write_onnx(program.model_proto, spec, file, model)


def write_onnx(
    proto: onnx.ModelProto, spec: ModelSpec, file: Path, reference: FaceResNet | None = None
) -> None:
    """Write a model file with its specification, checked against `reference` before it appears."""
    onnx.helper.set_model_props(proto, spec.to_metadata())
    with replacing(file) as partial:
        onnx.save(proto, partial)
        if reference is not None:
            check(partial, reference)


def rewrite(file: Path, spec: ModelSpec, out: Path) -> None:
    """Copy a model file, with another specification."""
    write_onnx(onnx.load(file), spec, out)


def halve(file: Path, out: Path, spec: ModelSpec) -> None:
    """Write a copy of a fp32 model of half the size: weights in float16.

    Each weight is cast back where it is used, which engines do once, when they load the file. They
    may compute in less than fp32: OpenVINO does, where the processor can.
    """
    from onnx import numpy_helper

    proto = onnx.load(file)
    casts = []
    for weight in proto.graph.initializer:
        values = numpy_helper.to_array(weight)
        if values.dtype != np.float32 or values.ndim < 2:
            continue
        name = weight.name
        weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), name + HALF))
        casts.append(
            onnx.helper.make_node("Cast", [weight.name], [name], to=onnx.TensorProto.FLOAT)
        )
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    write_onnx(proto, spec, out)


def check(file: Path, model: FaceResNet) -> float:
    """Compare a model file with PyTorch on noise of several shapes.

    Returns:
        the largest difference of any output.

    Raises:
        TrainingError: it is larger than `TOLERANCE`.
    """
    engine = open_engine(file, "onnxruntime")
    rng = np.random.default_rng(0)
    worst = 0.0
    for n, height, width in CHECKED_SHAPES:
        noise = rng.integers(0, 256, (n, height, width, 3), dtype=np.uint8)
        with torch.no_grad():
            expected = [output.numpy() for output in model(torch.from_numpy(noise))]
        for name, want, got in zip(OUTPUTS, expected, engine(noise), strict=True):
            if want.shape != got.shape:
                raise TrainingError(f"{name} has shape {got.shape}, PyTorch gives {want.shape}")
            worst = float(np.maximum(worst, np.abs(want - got).max()))  # keeps NaN, max does not
    if not worst <= TOLERANCE:
        raise TrainingError(
            f"the exported file differs from PyTorch by {worst:.1e}, at most {TOLERANCE:.0e} is "
            "expected: it was not written. Other versions of torch or onnxscript may export it."
        )
    return worst


def quantise(file: Path, out: Path, spec: ModelSpec, calibration: Sequence[Photo]) -> None:
    """Write an int8 copy of a fp32 model: QDQ, weights by channel, activations calibrated.

    The range of an activation is the mean of its ranges in the single photos. The range over all
    photos would be that of the most extreme one, and leave the others few of the 256 values.

    One file serves ONNX Runtime and OpenVINO, with and without VNNI (`_weight_ranges`). All
    convolutions are in int8, but the outputs of the last ones, of which scores and boxes are made,
    stay in fp32.

    Args:
        file: the fp32 model.
        out: the int8 model to write.
        spec: of the int8 model.
        calibration: real photos, whose activations set the ranges.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as temporary, _quiet():
        prepared = Path(temporary) / "prepared.onnx"
        quantised = Path(temporary) / "quantised.onnx"
        quant_pre_process(file, prepared, skip_symbolic_shape=True)
        float_proto = onnx.load(prepared)
        last, after = _outputs_end(float_proto)
        quantize_static(
            prepared,
            quantised,
            CalibrationPhotos(calibration, spec.size_multiple),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=after,
            extra_options={
                "ActivationSymmetric": False,
                "CalibMovingAverage": True,
                "TensorQuantOverrides": _weight_ranges(float_proto),
            },
        )
        proto = onnx.load(quantised)
        # Enlarged levels have the values they had before: rounding them again only takes time.
        enlarged = [node.output[0] for node in proto.graph.node if node.op_type == "Resize"]
        _keep_in_float(proto, [*last, *enlarged])
        write_onnx(proto, spec, out)


def _weight_ranges(proto: onnx.ModelProto) -> dict[str, list[dict[str, Any]]]:
    """What 127 stands for in each filter of each convolution, as ONNX Runtime takes it.

    x86 processors without VNNI add the products of an activation (0..255) and a weight of two
    neighbouring input channels in 16 bits, which saturate: were the largest weight 127, a network
    would lose a tenth of its AP there. Two weights whose sum is 128 fit, as 255 · 128 < 2¹⁵. So
    127 stands for the largest sum of two neighbours of one sign, which leaves each a half for
    rounding. Engines pair an odd number of channels in other ways: there any two count.
    """
    from onnx import numpy_helper

    weights = {weight.name: weight for weight in proto.graph.initializer}
    ranges = {}
    for node in proto.graph.node:
        if node.op_type != "Conv":
            continue
        values = numpy_helper.to_array(weights[node.input[1]])  # (O, I, H, W)
        channels = values.shape[1]
        highest = np.zeros(len(values), np.float32)
        for part in (np.maximum(values, 0), np.maximum(-values, 0)):
            if channels % 2:
                pairs = np.sort(part.reshape(len(part), -1))[:, -2:].sum(axis=1, keepdims=True)
            else:
                pairs = (part[:, ::2] + part[:, 1::2]).reshape(len(part), -1)
            highest = np.maximum(highest, pairs.max(axis=1))
        ranges[node.input[1]] = [
            {"axis": 0, "rmin": -np.float32(most), "rmax": np.float32(most)} for most in highest
        ]
    return ranges


def _outputs_end(proto: onnx.ModelProto) -> tuple[list[str], list[str]]:
    """Where a network's convolutions end.

    Found walking back from the outputs; paths on which a shape is computed are not followed.

    Returns:
        the outputs of the last convolutions, and the names of the nodes between these and the
        network's outputs.
    """
    maker = {output: node for node in proto.graph.node for output in node.output}
    waiting = [output.name for output in proto.graph.output]
    last, after = set(), set()
    while waiting:
        node = maker.get(waiting.pop())
        if node is None:
            continue
        if node.op_type == "Conv":
            last.add(node.output[0])
            continue
        after.add(node.name)
        if node.op_type != "Shape":
            waiting.extend(node.input)
    return sorted(last), sorted(after)


def _keep_in_float(proto: onnx.ModelProto, tensors: Sequence[str]) -> None:
    """Take the rounding of these tensors to 256 values out of a QDQ model, in place."""
    rounded = {
        node.output[0]: node.input[0]
        for node in proto.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] in tensors
    }
    instead = {
        node.output[0]: rounded[node.input[0]]
        for node in proto.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in rounded
    }
    gone = rounded.keys() | instead.keys()
    nodes = [node for node in proto.graph.node if node.output[0] not in gone]
    for node in nodes:
        for i, name in enumerate(node.input):
            node.input[i] = instead.get(name, name)
    used = {name for node in nodes for name in node.input}
    values = [value for value in proto.graph.initializer if value.name in used]
    for field, kept in ((proto.graph.node, nodes), (proto.graph.initializer, values)):
        del field[:]
        field.extend(kept)


class CalibrationPhotos:
    """Photos as ONNX Runtime's calibration wants them: one input dictionary after another."""

    def __init__(self, photos: Sequence[Photo], multiple: int) -> None:
        shrunk = (images.shrink(photo.read(), CALIBRATION_SIDE) for photo in photos)
        self._inputs = ({INPUT: images.letterbox(image, multiple)[None]} for image in shrunk)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next input, None after the last."""
        return next(self._inputs, None)


@contextlib.contextmanager
def _quiet() -> Any:
    """Keep the exporters' progress and warnings away from the user."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
