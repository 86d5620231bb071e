"""The two networks of section 5.1 as numbers, and their initial weights, which both engines share.

The paper names no padding and no pooling. Without them the six convolutions shrink 28 × 28 to
24, 20, 16, 12, 8 and 4, so that 512 numbers go into the layer of 1024. With a padding of 2 the
images would stay 28 × 28 and 25,088 numbers would go in: 26 million weights there alone, and
38 GFLOP in place of 7 for an iteration with 50 images, a quarter of a second at the very peak of
two processor cores. "Without" is what the text says, and what is built here.

"Every convolutional and fully connected layer is preceded by batch normalization and followed by a
ReLU layer. Both models use softmax as its last layer": the last layer, of 10, is followed by the
softmax alone. A ReLU between them would take from the network the way to say that a digit is none
of the others, and stop the gradient of every class below 0; the paper's own PyTorch code has none
there either.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from faceresnet.digits.data import CLASSES, SIZE
from faceresnet.nn import Apply, BatchNorm, Convolution, FullyConnected, Sequential, flatten, relu
from faceresnet.nn.layers import DType, Layer, State
from faceresnet.nn.optim import Parameters
from faceresnet.nn.shapes import Array


@dataclass(frozen=True)
class Net:
    """One of the networks; each of its layers is preceded by batch normalisation.

    Attributes:
        name: what the command line calls it.
        convolutions: output channels of each convolution, from the image on.
        kernel: side of their kernels, px; they have stride 1 and no padding.
        connected: neurons of each fully connected layer after them; the last are the classes.
    """

    name: str
    convolutions: tuple[int, ...]
    kernel: int
    connected: tuple[int, ...]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one digit as the network takes it."""
        return (1, *SIZE) if self.convolutions else (SIZE[0] * SIZE[1],)


CNN = Net("cnn", convolutions=(32,) * 6, kernel=5, connected=(1024, CLASSES))
FCC = Net("fcc", convolutions=(), kernel=0, connected=(784,) * 6 + (CLASSES,))
NETS = {net.name: net for net in (CNN, FCC)}


def sequential(net: Net) -> Sequential:
    """The network by hand; its names of parameters are those of files and of both engines."""
    layers: list[Layer] = []
    channels, side = 1, SIZE[0]
    for channels_out in net.convolutions:
        layers += [
            BatchNorm(channels),
            Convolution(channels, channels_out, net.kernel),
            Apply(relu),
        ]
        channels, side = channels_out, side - net.kernel + 1
    if net.convolutions:
        layers.append(Apply(flatten))
    inputs = channels * side * side
    for outputs in net.connected:
        layers += [BatchNorm(inputs), FullyConnected(inputs, outputs), Apply(relu)]
        inputs = outputs
    return Sequential(tuple(layers[:-1]))


def initial_weights(net: Net, seed: int, dtype: DType = np.float32) -> tuple[Parameters, State]:
    """Parameters and moving averages before training; float32 and float64 are the same numbers."""
    return sequential(net).initialise(np.random.default_rng(seed), dtype)


def as_input(net: Net, images: np.ndarray, dtype: DType = np.float32) -> Array:
    """Digits as the network takes them: (R, 1, 28, 28) or (R, 784), 0 paper to 1 ink."""
    x: Array = images.reshape(len(images), *net.input_shape).astype(dtype)
    x /= x.dtype.type(255)
    return x
