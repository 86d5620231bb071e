"""Time of the network on a GPU: compiled into one CUDA graph a batch size, photos in GPU memory.

    python benchmarks/gpu.py [--recipe faceresnet-50] [--weights FILE] [--size 512x512]
                             [--batches 1,8,32,128] [--precision bf16] [--seconds 2] [--autotune]

Prints for each batch size the median time of a photo, from uint8 pixels to logits and deltas, as
torch runs it, line by line, and compiled; and how far the scores are from those in fp32. Time does
not depend on the weights: without a file they are random. ``--device cpu`` rehearses it.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from faceresnet.train.model import FaceResNet
from faceresnet.train.recipes import recipe
from faceresnet.train.runs import load_weights

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
#: Calls before those that are timed: the first compile, the next record the graph.
WARM_UP = 5


def photos(batch: int, size: tuple[int, int], device: str) -> Tensor:
    """Noise as photos, (N, H, W, 3) uint8."""
    generator = torch.Generator().manual_seed(batch)
    pixels = torch.randint(0, 256, (batch, *size, 3), generator=generator, dtype=torch.uint8)
    return pixels.to(device)


def convert(model: FaceResNet, kind: torch.dtype) -> FaceResNet:
    """A copy whose convolutions are in another precision; pixels and normalisations stay as is."""
    model = copy.deepcopy(model).to(memory_format=torch.channels_last)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.to(kind)
    model.backbone.register_forward_pre_hook(lambda _, inputs: (inputs[0].to(kind),))
    return model


def median_ms(call: Callable[[], object], device: str, seconds: float) -> float:
    """Median time of a call, whose work on the GPU is waited for."""

    def finish() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(WARM_UP):
        call()
    finish()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        finish()
        times.append(1000 * (time.perf_counter() - start))
    return float(np.median(times))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--recipe", default="faceresnet-50", help="whose network")
    parser.add_argument("--weights", type=Path, help="checkpoint or .safetensors; else random")
    parser.add_argument("--size", default="512x512", help="WIDTHxHEIGHT px, multiples of 32")
    parser.add_argument("--batches", default="1,8,32,128")
    parser.add_argument("--precision", choices=PRECISIONS, default="bf16")
    parser.add_argument("--seconds", type=float, default=2.0, help="that each figure is timed for")
    parser.add_argument("--autotune", action="store_true", help="try kernels, for minutes")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    return parser.parse_args()


@torch.inference_mode()
def main() -> None:
    """Measure and print."""
    options = parse()
    device = options.device
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"torch {torch.__version__} finds no GPU: --device cpu rehearses this")
    width, height = (int(side) for side in options.size.split("x"))
    exact = FaceResNet(recipe(options.recipe).network).eval()
    if options.weights:
        load_weights(exact, options.weights)
    exact = exact.to(device)
    network = convert(exact, PRECISIONS[options.precision])
    mode = "max-autotune" if options.autotune else "reduce-overhead"
    compiled = torch.compile(network, mode=mode, dynamic=False)

    name = torch.cuda.get_device_name() if device == "cuda" else "the processor"
    print(f"{options.recipe}, {width}×{height} px, {options.precision}, {name}")
    print(f"torch {torch.__version__}, {mode}; times in ms a photo\n")
    print(f"{'batch':>6}{'eager':>10}{'compiled':>10}{'photos/s':>10}{'score off':>12}")
    for batch in (int(n) for n in options.batches.split(",")):
        images = photos(batch, (height, width), device)
        want = exact(images)[0].sigmoid()
        eager, fast = (
            median_ms(partial(call, images), device, options.seconds) / batch
            for call in (network, compiled)
        )
        off = float((compiled(images)[0].float().sigmoid() - want).abs().max())
        print(f"{batch:>6}{eager:>10.3f}{fast:>10.3f}{1000 / fast:>10.0f}{off:>12.4f}")


if __name__ == "__main__":
    main()
