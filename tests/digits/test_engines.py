import numpy as np
import pytest

from faceresnet.digits import fast_connected
from faceresnet.digits.engines import open_engine
from faceresnet.digits.nets import CNN, FCC, Net, as_input, initial_weights, sequential
from faceresnet.errors import EngineError
from faceresnet.nn import SGD, Adam, Convolution, FullyConnected, StepSchedule, training_step

from .synthetic import digits

ENGINES = ["numpy", "torch"]
NETS = {"cnn": CNN, "fcc": FCC}
#: Networks of the same make, small enough for many steps.
SMALL = {
    "cnn": Net("small", convolutions=(3, 4), kernel=5, connected=(32, 10)),
    "fcc": Net("small", convolutions=(), kernel=0, connected=(64, 48, 10)),
}
#: Slow: at higher rates the first steps multiply every rounding by some ten, whichever engine.
OPTIMISERS = {
    "sgd": SGD(StepSchedule(0.003, (2, 4))),
    "momentum": SGD(0.001, momentum=0.9, weight_decay=1e-2),
    "adam": Adam(0.0003, weight_decay=1e-2),
}


@pytest.fixture
def small_pieces(monkeypatch) -> None:
    """Give the threads something to share in the small networks too."""
    monkeypatch.setattr(fast_connected, "PIECE", 300)


def weights(net, seed=0, dtype=np.float64):
    parameters, state = initial_weights(net, seed, dtype)
    return {**parameters, **state}


def batches(n, size):
    some = digits(n * size)
    labels = some.labels.astype(np.int64)
    return [(some.images[i : i + size], labels[i : i + size]) for i in range(0, n * size, size)]


def train_as_it_reads(net, optimiser, start, given):
    """Losses and weights by `nn.training_step`, the definition."""
    layers = sequential(net)
    parameters, state = layers.initialise(np.random.default_rng(0), np.float64)
    parameters = {name: start[name].copy() for name in parameters}
    state = {name: start[name].copy() for name in state}
    memory, losses = optimiser.initialise(parameters), []
    for images, labels in given:
        x = as_input(net, images, np.float64)
        one = training_step(layers, parameters, state, x, labels)
        optimiser.step(parameters, one.gradients, memory)
        state = one.state
        losses.append(one.loss)
    return losses, {**parameters, **state}


def largest_difference(a, b):
    assert a.keys() == b.keys()
    return max(float(np.abs(a[name] - b[name]).max()) for name in a)


@pytest.mark.parametrize("name", NETS)
def test_ten_steps_of_both_engines_give_the_same_losses(name) -> None:
    net, optimiser = NETS[name], SGD(0.001)
    numpy, torch = (open_engine(one, net, optimiser, weights(net), 1) for one in ENGINES)
    for images, labels in batches(10, 16):
        ours, theirs = numpy.step(images, labels), torch.step(images, labels)
        assert ours.loss == pytest.approx(theirs.loss, abs=1e-8)
        assert ours[1:] == theirs[1:]
    assert largest_difference(numpy.weights(), torch.weights()) < 1e-6
    images = digits(20, 7).images
    np.testing.assert_allclose(numpy.logits(images), torch.logits(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.usefixtures("small_pieces")
def test_both_engines_are_what_nn_says(engine, name, optimiser) -> None:
    net, how = SMALL[name], OPTIMISERS[optimiser]
    start, given = weights(net), batches(6, 11)
    losses, after = train_as_it_reads(net, how, start, given)
    trained = open_engine(engine, net, how, start, 2)
    np.testing.assert_allclose([trained.step(*one).loss for one in given], losses, atol=1e-9)
    assert largest_difference(trained.weights(), after) < 1e-8
    layers, images = sequential(net), digits(30, 9).images
    np.testing.assert_allclose(
        trained.logits(images),
        layers.predict(after, after, as_input(net, images, np.float64)),
        atol=1e-7,
    )


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("first", ENGINES)
@pytest.mark.parametrize("second", ENGINES)
def test_one_engine_goes_on_where_another_stopped(first, second, optimiser) -> None:
    net, how = SMALL["cnn"], OPTIMISERS[optimiser]
    given = batches(6, 11)
    whole = open_engine(first, net, how, weights(net), 1)
    losses = [whole.step(*one).loss for one in given]
    before = open_engine(first, net, how, weights(net), 1)
    for one in given[:3]:
        before.step(*one)
    after = open_engine(second, net, how, weights(net, seed=1), 1)
    after.load(before.weights(), before.memory())
    np.testing.assert_allclose([after.step(*one).loss for one in given[3:]], losses[3:], atol=1e-8)
    assert largest_difference(after.memory(), whole.memory()) < 1e-8


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("name", SMALL)
def test_threads_change_no_number(name) -> None:
    net = SMALL[name]
    start, given = weights(net, dtype=np.float32), batches(3, 50)
    ends = []
    for threads in (1, 2, 3):
        engine = open_engine("numpy", net, SGD(0.01), start, threads)
        for one in given:
            engine.step(*one)
        ends.append({**engine.weights(), "logits": engine.logits(given[0][0])})
    assert largest_difference(ends[0], ends[1]) == largest_difference(ends[0], ends[2]) == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_given_out_or_in_stays_as_it_is(engine) -> None:
    net = SMALL["cnn"]
    start = weights(net)
    before = {name: array.copy() for name, array in start.items()}
    trained = open_engine(engine, net, OPTIMISERS["momentum"], start, 1)
    images, labels = batches(1, 10)[0]
    copies = images.copy(), labels.copy()
    trained.step(images, labels)
    out, memory = trained.weights(), trained.memory()
    held = {name: array.copy() for name, array in {**out, **memory}.items()}
    trained.step(images, labels)
    assert largest_difference(start, before) == 0
    assert largest_difference({**out, **memory}, held) == 0
    assert largest_difference(out, trained.weights()) > 0
    np.testing.assert_array_equal(images, copies[0])
    np.testing.assert_array_equal(labels, copies[1])


@pytest.mark.parametrize("engine", ENGINES)
def test_float32_stays_float32(engine) -> None:
    trained = open_engine(engine, CNN, SGD(0.01), weights(CNN, dtype=np.float32), 1)
    trained.step(*batches(1, 8)[0])
    assert {array.dtype for array in trained.weights().values()} == {np.dtype(np.float32)}
    assert trained.logits(digits(3).images).dtype == np.float32


def test_the_networks_are_those_of_the_paper() -> None:
    convolutions = [one for one in sequential(CNN).layers if isinstance(one, Convolution)]
    assert [(one.channels, one.channels_out) for one in convolutions] == [(1, 32)] + 5 * [(32, 32)]
    assert {(one.kernel, one.stride, one.padding) for one in convolutions} == {(5, 1, 0)}
    sizes = {
        name: [
            (one.inputs, one.outputs)
            for one in sequential(net).layers
            if isinstance(one, FullyConnected)
        ]
        for name, net in NETS.items()
    }
    assert sizes == {"cnn": [(512, 1024), (1024, 10)], "fcc": [(784, 784)] * 6 + [(784, 10)]}


def test_float32_and_float64_start_from_the_same_numbers() -> None:
    exact, rounded = weights(FCC), weights(FCC, dtype=np.float32)
    assert all(np.array_equal(exact[n].astype(np.float32), rounded[n]) for n in exact)


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ValueError, match="numpy, torch, got 'jax'"):
        open_engine("jax", FCC, SGD(0.1), {})


def test_without_pytorch_it_is_said_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faceresnet.digits.torch_engine", None)
    with pytest.raises(EngineError, match=r"pip install -c constraints.txt '\.\[train\]'"):
        open_engine("torch", FCC, SGD(0.1), {})


def test_other_kernels_do_not_reach_winograd() -> None:
    net = Net("small", convolutions=(3, 2), kernel=3, connected=(20, 10))
    with pytest.raises(ValueError, match="side of 5 px"):
        open_engine("numpy", net, SGD(0.1), weights(net), 1)
