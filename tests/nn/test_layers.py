from functools import partial

import numpy as np
import pytest

from faceresnet.nn import (
    SGD,
    Adam,
    Apply,
    BatchNorm,
    Convolution,
    FullyConnected,
    Sequential,
    conv2d,
    flatten,
    gradcheck,
    max_pool2d,
    mean_squared_error,
    relu,
    sigmoid,
    softmax,
    tanh,
    training_step,
)


def _block(channels, layer):
    """Batch normalisation before, ReLU after, as section 5.1 has them."""
    return BatchNorm(channels), layer, Apply(relu)


def cnn(size):
    """6 convolutions of 32 channels, 5×5, then 1024 and 10 (section 5.1), on size × size px."""
    after = size - 6 * 4
    return Sequential(
        (
            *_block(1, Convolution(1, 32, 5)),
            *(layer for _ in range(5) for layer in _block(32, Convolution(32, 32, 5))),
            Apply(flatten),
            *_block(32 * after**2, FullyConnected(32 * after**2, 1024)),
            *_block(1024, FullyConnected(1024, 10)),
        )
    )


def fcc():
    """6 layers of 784, then 10 (section 5.1)."""
    return Sequential(
        (
            *(layer for _ in range(6) for layer in _block(784, FullyConnected(784, 784))),
            *_block(784, FullyConnected(784, 10)),
        )
    )


def _in_torch(torch, net, parameters):
    """The same network with the same weights."""
    modules = []
    for index, layer in enumerate(net.layers):
        match layer:
            case Apply():
                modules.append(
                    torch.nn.Flatten() if layer.operation is flatten else torch.nn.ReLU()
                )
                continue
            case BatchNorm():
                one = (
                    torch.nn.BatchNorm2d
                    if index < len(net.layers) and _is_before_convolution(net, index)
                    else torch.nn.BatchNorm1d
                )(layer.channels)
                weight, bias = "gamma", "beta"
            case Convolution():
                one = torch.nn.Conv2d(layer.channels, layer.channels_out, layer.kernel)
                weight, bias = "w", "b"
            case FullyConnected():
                one = torch.nn.Linear(layer.inputs, layer.outputs)
                weight, bias = "w", "b"
        w = parameters[f"{index}.{weight}"]
        one.double()
        with torch.no_grad():
            one.weight.copy_(torch.tensor(w.T if isinstance(layer, FullyConnected) else w))
            one.bias.copy_(torch.tensor(parameters[f"{index}.{bias}"]))
        modules.append(one)
    return torch.nn.Sequential(*modules)


def _is_before_convolution(net, index):
    return isinstance(net.layers[index + 1], Convolution)


@pytest.mark.parametrize(
    ("net", "shape"), [(cnn(28), (16, 1, 28, 28)), (fcc(), (16, 784))], ids=["cnn", "fcc"]
)
@pytest.mark.parametrize("optimiser", ["SGD", "Adam"])
def test_ten_steps_of_both_networks_lose_what_pytorch_loses(net, shape, optimiser):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    parameters, state = net.initialise(rng, np.float64)
    theirs = _in_torch(torch, net, parameters)
    ours = SGD(0.001, momentum=0.9) if optimiser == "SGD" else Adam(0.001)
    reference = (
        torch.optim.SGD(theirs.parameters(), lr=0.001, momentum=0.9)
        if optimiser == "SGD"
        else torch.optim.Adam(theirs.parameters(), lr=0.001)
    )
    memory = ours.initialise(parameters)
    losses, expected = [], []
    for _ in range(10):
        x, y = rng.standard_normal(shape), rng.integers(10, size=shape[0])
        step = training_step(net, parameters, state, x, y)
        ours.step(parameters, step.gradients, memory)
        state = step.state
        losses.append(float(step.loss))

        loss = torch.nn.functional.cross_entropy(theirs(torch.tensor(x)), torch.tensor(y))
        reference.zero_grad()
        loss.backward()
        reference.step()
        expected.append(float(loss.detach()))
    assert losses == pytest.approx(expected, abs=1e-8)
    assert max(losses) - min(losses) > 0.1  # it moved
    x = rng.standard_normal(shape)
    for index, module in enumerate(theirs):  # the averages differ in n and n − 1 alone
        if hasattr(module, "running_var"):
            module.running_mean[:] = torch.tensor(state[f"{index}.mean"])
            module.running_var[:] = torch.tensor(state[f"{index}.variance"])
    theirs.eval()
    with torch.no_grad():
        assert net.predict(parameters, state, x) == pytest.approx(
            theirs(torch.tensor(x)).numpy(), abs=1e-8
        )


def _small():
    return Sequential(
        (
            BatchNorm(2),
            Convolution(2, 3, (2, 3), stride=(1, 2), padding=1),
            Apply(tanh),
            Apply(partial(max_pool2d, kernel=2, stride=1)),
            Apply(flatten),
            BatchNorm(24, weight=0.5),
            Sequential((FullyConnected(24, 4), Apply(sigmoid))),
        )
    )


def test_gradients_of_a_network_are_derivatives_by_every_parameter():
    net = _small()
    rng = np.random.default_rng(0)
    parameters, state = net.initialise(rng, np.float64)
    x, y = rng.standard_normal((3, 2, 4, 6)), rng.standard_normal((3, 4))
    names = list(parameters)

    def loss(*arrays):
        step = training_step(
            net, dict(zip(names, arrays, strict=True)), state, x, y, mean_squared_error
        )
        return step.loss, lambda dloss: tuple(dloss * step.gradients[name] for name in names)

    errors = gradcheck(loss, parameters)
    assert [one.name for one in errors] == names
    # The bias before batch normalisation has derivative 0 but for rounding.
    assert max(one.error for one in errors) < 1e-7
    assert "6.0.w" in names


def test_a_network_keeps_nothing_between_calls():
    net = _small()
    rng = np.random.default_rng(0)
    parameters, state = net.initialise(rng, np.float64)
    before = {name: one.copy() for name, one in (parameters | state).items()}
    x1, x2 = rng.standard_normal((2, 3, 2, 4, 6))
    _, backward1, _ = net.forward(parameters, state, x1)
    y2, backward2, _ = net.forward(parameters, state, x2)
    dx2, _ = backward2(y2)
    dx1, _ = backward1(y2)
    alone, backward, _ = net.forward(parameters, state, x2)
    assert np.array_equal(alone, y2)
    assert np.array_equal(backward(alone)[0], dx2)
    assert not np.array_equal(dx1, dx2)
    assert all(np.array_equal(one, before[name]) for name, one in (parameters | state).items())


def test_averages_move_in_training_and_are_used_at_run_time():
    net = Sequential((BatchNorm(2, weight=0.25),))
    parameters, state = net.initialise(np.random.default_rng(0), np.float64)
    x = np.array([[1.0, 2.0], [3.0, 2.0]])
    y, _, after = net.forward(parameters, state, x)
    assert y == pytest.approx(np.array([[-1, 0], [1, 0]]), abs=1e-5)
    assert after["0.mean"].tolist() == [0.5, 0.5]
    assert after["0.variance"].tolist() == [1.0, 0.75]
    assert state["0.mean"].tolist() == [0, 0]
    at_run_time = net.predict(parameters, after, x)
    assert at_run_time == pytest.approx((x - 0.5) / np.sqrt([1 + 1e-5, 0.75 + 1e-5]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_precision_is_kept_and_an_empty_batch_teaches_nothing(dtype):
    net = _small()
    parameters, state = net.initialise(np.random.default_rng(0), dtype)
    step = training_step(
        net,
        parameters,
        state,
        np.zeros((0, 2, 4, 6), dtype),
        np.zeros((0, 4), dtype),
        mean_squared_error,
    )
    assert step.loss == 0
    assert step.y.shape == (0, 4)
    assert not any(one.any() for one in step.gradients.values())
    assert all(np.array_equal(one, state[name]) for name, one in step.state.items())
    arrays = (*parameters.values(), *state.values(), *step.gradients.values(), step.y, step.loss)
    assert {one.dtype for one in arrays} == {np.dtype(dtype)}


def test_both_convolutions_may_stand_in_a_layer():
    x = np.random.default_rng(0).standard_normal((2, 3, 6, 6))
    layer = Convolution(3, 4, 3, stride=2, padding=1)
    slow = Convolution(3, 4, 3, stride=2, padding=1, convolve=conv2d)
    parameters, state = layer.initialise(np.random.default_rng(0), np.float64)
    assert parameters["w"].shape == (4, 3, 3, 3)
    assert layer.predict(parameters, state, x) == pytest.approx(slow.predict(parameters, state, x))


def test_softmax_may_end_a_network():
    net = Sequential((FullyConnected(4, 3), Apply(softmax)))
    parameters, state = net.initialise(np.random.default_rng(0))
    y = net.predict(parameters, state, np.ones((2, 4), np.float32))
    assert y.sum(axis=1) == pytest.approx(1)
