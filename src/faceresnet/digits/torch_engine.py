"""The same networks in PyTorch, channels-last, as fast as it runs them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from faceresnet.digits.engines import Step
from faceresnet.digits.nets import Net, as_input, sequential
from faceresnet.nn import Apply, BatchNorm, Convolution, FullyConnected, flatten
from faceresnet.nn.optim import SGD, Adam
from faceresnet.nn.shapes import Array
from faceresnet.processors import cores

#: What the optimisers of `nn` remember under these names, PyTorch's remember under those.
MEMORY = {"v": "momentum_buffer"}, {"m": "exp_avg", "v": "exp_avg_sq"}


class TorchEngine:
    """PyTorch's operations, with the weights, the names and the averages of `faceresnet.nn`."""

    def __init__(
        self,
        net: Net,
        optimiser: SGD | Adam,
        weights: Mapping[str, Array],
        threads: int | None = None,
    ) -> None:
        torch.set_num_threads(threads or cores())
        self._net, self._ours, self._layers = net, optimiser, sequential(net).layers
        self.load(weights)

    def step(self, images: np.ndarray, labels: np.ndarray) -> Step:
        """Learn from one mini-batch."""
        x, truth = self._input(images), torch.from_numpy(labels.astype(np.int64))
        before = self._variances.clone()
        logits = self._forward(x, training=True)
        loss = F.cross_entropy(logits, truth)
        self._theirs.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        rate = self._ours.learning_rate
        for group in self._theirs.param_groups:
            group["lr"] = rate(self._iteration) if callable(rate) else rate
        self._theirs.step()
        self._iteration += 1
        self._correct_variances(before)
        correct = int((logits.detach().argmax(1) == truth).sum())
        return Step(loss.item(), correct, len(labels))

    def logits(self, images: np.ndarray) -> Array:
        """Outputs at run time."""
        with torch.inference_mode():
            return self._forward(self._input(images), training=False).numpy()

    def weights(self) -> dict[str, Array]:
        """Copy of parameters and moving averages."""
        theirs = {**self._parameters, **self._state}
        return {name: _to_ours(tensor) for name, tensor in theirs.items()}

    def memory(self) -> dict[str, Array]:
        """Copy of what the optimiser remembers."""
        memory: dict[str, Array] = {"iteration": np.array(self._iteration, np.float64)}
        for ours, theirs in self._names().items():
            for name, parameter in self._parameters.items():
                state = self._theirs.state[parameter].get(theirs)
                known = state is not None
                memory[f"{ours}.{name}"] = _to_ours(state if known else torch.zeros_like(parameter))
        return memory

    def load(self, weights: Mapping[str, Array], memory: Mapping[str, Array] | None = None) -> None:
        """Take up what `weights` and `memory` once gave."""
        self._parameters: dict[str, Tensor] = {}
        self._state: dict[str, Tensor] = {}
        norms = [str(i) for i, layer in enumerate(self._layers) if isinstance(layer, BatchNorm)]
        # In one piece, so that PyTorch's averages are corrected by one operation.
        self._variances = torch.cat([_to_torch(weights[f"{i}.variance"]) for i in norms])
        parts = torch.split(self._variances, [len(weights[f"{i}.variance"]) for i in norms])
        for name, array in weights.items():
            index, _, kind = name.partition(".")
            if kind == "variance":
                self._state[name] = parts[norms.index(index)]
            elif kind == "mean":
                self._state[name] = _to_torch(array)
            else:
                self._parameters[name] = _to_torch(array).requires_grad_()
        self._dtype = next(iter(weights.values())).dtype.type
        self._iteration = 0
        self._theirs = self._make_optimiser()
        if memory is not None:
            self._load_memory(memory)

    def _make_optimiser(self) -> torch.optim.Optimizer:
        parameters, decay = list(self._parameters.values()), self._ours.weight_decay
        if isinstance(self._ours, Adam):
            return torch.optim.Adam(
                parameters,
                betas=(self._ours.beta1, self._ours.beta2),
                eps=self._ours.epsilon,
                weight_decay=decay,
                fused=True,
            )
        momentum = self._ours.momentum
        return torch.optim.SGD(parameters, 1.0, momentum, weight_decay=decay, fused=True)

    def _names(self) -> dict[str, str]:
        if isinstance(self._ours, Adam):
            return MEMORY[1]
        return MEMORY[0] if self._ours.momentum else {}

    def _load_memory(self, memory: Mapping[str, Array]) -> None:
        self._iteration = int(memory["iteration"])
        for name, parameter in self._parameters.items():
            state = self._theirs.state[parameter]
            for ours, theirs in self._names().items():
                state[theirs] = _to_torch(memory[f"{ours}.{name}"])
            if isinstance(self._ours, Adam):
                state["step"] = torch.tensor(float(self._iteration))

    def _input(self, images: np.ndarray) -> Tensor:
        x = torch.from_numpy(as_input(self._net, images, self._dtype))
        return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x

    def _forward(self, x: Tensor, training: bool) -> Tensor:
        """Logits; in training the moving averages move."""
        one = {**self._parameters, **self._state}
        self._counts: list[tuple[int, int]] = []  # channels, and numbers that each averages
        for index, layer in enumerate(self._layers):
            if isinstance(layer, BatchNorm):
                x = F.batch_norm(
                    x,
                    one[f"{index}.mean"],
                    one[f"{index}.variance"],
                    one[f"{index}.gamma"],
                    one[f"{index}.beta"],
                    training,
                    layer.weight,
                    layer.epsilon,
                )
                self._counts.append((layer.channels, x.numel() // layer.channels))
            elif isinstance(layer, Convolution):
                x = F.conv2d(x, one[f"{index}.w"], one[f"{index}.b"])
            elif isinstance(layer, FullyConnected):
                x = F.linear(x, one[f"{index}.w"], one[f"{index}.b"])
            elif isinstance(layer, Apply):
                x = x.flatten(1) if layer.operation is flatten else F.relu(x, inplace=True)
        return x

    def _correct_variances(self, before: Tensor) -> None:
        """Average the variances of eq. 38, divided by n; PyTorch averages those by n − 1."""
        dtype = before.dtype
        factors = [torch.full((c,), (n - 1) / n, dtype=dtype) for c, n in self._counts]
        keep = 1 - BatchNorm(1).weight
        kept = keep * before
        self._variances.sub_(kept).mul_(torch.cat(factors)).add_(kept)


def _to_torch(array: Array) -> Tensor:
    """Weights in PyTorch's layout: kernels channels-last, neurons (outputs, inputs)."""
    if array.ndim == 4:
        return torch.tensor(array).contiguous(memory_format=torch.channels_last)
    return torch.tensor(array.T).contiguous()


def _to_ours(tensor: Tensor) -> Array:
    """The inverse of `_to_torch`."""
    array = tensor.detach().numpy()
    return np.array(array if array.ndim == 4 else array.T, order="C")
