"""The feed-forward and convolutional networks of Zozoulenko (2018), by hand, in NumPy alone.

    y, backward = conv2d(x, w, b, stride=2, padding=1)
    dx, dw, db = backward(dy)

`docs/paper.md` says which function is which equation, `docs/errata.md` where the printed equation
is not the one that stands here.
"""

from faceresnet.nn.fast_convolution import fast_conv2d
from faceresnet.nn.functional import (
    Statistics,
    batch_norm,
    batch_norm_at_run_time,
    flatten,
    fully_connected,
    moving_average,
    relu,
    sigmoid,
    softmax,
    tanh,
)
from faceresnet.nn.gradcheck import GradientError, gradcheck, numerical_derivative, relative_error
from faceresnet.nn.layers import (
    Apply,
    BatchNorm,
    Convolution,
    FullyConnected,
    Layer,
    Sequential,
    TrainingStep,
    training_step,
)
from faceresnet.nn.losses import cross_entropy, mean_squared_error, one_hot, softmax_cross_entropy
from faceresnet.nn.optim import SGD, Adam, StepSchedule, he_normal
from faceresnet.nn.spatial import conv2d, im2row, max_pool2d, row2im
from faceresnet.nn.winograd import winograd_conv2d

__all__ = [
    "SGD",
    "Adam",
    "Apply",
    "BatchNorm",
    "Convolution",
    "FullyConnected",
    "GradientError",
    "Layer",
    "Sequential",
    "Statistics",
    "StepSchedule",
    "TrainingStep",
    "batch_norm",
    "batch_norm_at_run_time",
    "conv2d",
    "cross_entropy",
    "fast_conv2d",
    "flatten",
    "fully_connected",
    "gradcheck",
    "he_normal",
    "im2row",
    "max_pool2d",
    "mean_squared_error",
    "moving_average",
    "numerical_derivative",
    "one_hot",
    "relative_error",
    "relu",
    "row2im",
    "sigmoid",
    "softmax",
    "softmax_cross_entropy",
    "tanh",
    "training_step",
    "winograd_conv2d",
]
