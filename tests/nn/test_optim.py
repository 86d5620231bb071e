import numpy as np
import pytest

from faceresnet.nn import SGD, Adam, StepSchedule, he_normal


def _parameters(dtype=np.float64):
    rng = np.random.default_rng(0)
    return {"w": rng.standard_normal((3, 4)).astype(dtype), "b": np.ones(4, dtype)}


def _gradients(parameters):
    """Of a loss that is not convex, so that the steps differ."""
    return {name: np.sin(one) + one**3 for name, one in parameters.items()}


@pytest.mark.parametrize(
    ("optimiser", "name", "options"),
    [
        (SGD(0.1), "SGD", {"lr": 0.1}),
        (SGD(0.1, momentum=0.9), "SGD", {"lr": 0.1, "momentum": 0.9}),
        (
            SGD(0.1, momentum=0.5, weight_decay=0.01),
            "SGD",
            {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.01},
        ),
        (Adam(0.1), "Adam", {"lr": 0.1}),
        (
            Adam(0.1, beta1=0.8, beta2=0.95, epsilon=1e-3, weight_decay=0.01),
            "Adam",
            {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.01},
        ),
    ],
)
def test_steps_are_those_of_pytorch(optimiser, name, options):
    torch = pytest.importorskip("torch")
    parameters = _parameters()
    memory = optimiser.initialise(parameters)
    tensors = [torch.tensor(one, requires_grad=True) for one in parameters.values()]
    theirs = getattr(torch.optim, name)(tensors, **options)
    for _ in range(10):
        optimiser.step(parameters, _gradients(parameters), memory)
        for tensor in tensors:
            tensor.grad = torch.sin(tensor.detach()) + tensor.detach() ** 3
        theirs.step()
    assert memory["iteration"] == 10
    for one, tensor in zip(parameters.values(), tensors, strict=True):
        assert one == pytest.approx(tensor.detach().numpy(), abs=1e-12)


@pytest.mark.parametrize("optimiser", [SGD(0.1), SGD(0.1, 0.9, 0.1), Adam(0.1, weight_decay=0.1)])
def test_precision_is_kept_and_gradients_are_not_written_to(optimiser):
    parameters = _parameters(np.float32)
    memory = optimiser.initialise(parameters)
    gradients = _gradients(parameters)
    for one in gradients.values():
        one.setflags(write=False)
    before = {name: one.copy() for name, one in parameters.items()}
    optimiser.step(parameters, gradients, memory)
    optimiser.step(parameters, gradients, memory)
    for name, one in parameters.items():
        assert one.dtype == np.float32
        assert not np.array_equal(one, before[name])
    assert {one.dtype for name, one in memory.items() if name != "iteration"} <= {
        np.dtype(np.float32)
    }


def test_a_saved_memory_goes_on_as_if_nothing_had_happened():
    optimiser = Adam(StepSchedule(0.1, (2,)))
    straight, stopped = _parameters(), _parameters()
    memory, saved = optimiser.initialise(straight), optimiser.initialise(stopped)
    for iteration in range(4):
        optimiser.step(straight, _gradients(straight), memory)
        if iteration == 1:
            saved = {name: one.copy() for name, one in saved.items()}
            stopped = {name: one.copy() for name, one in stopped.items()}
        optimiser.step(stopped, _gradients(stopped), saved)
    assert all(np.array_equal(straight[name], stopped[name]) for name in straight)


def test_step_schedule_divides_at_its_milestones():
    schedule = StepSchedule(0.001, (33_333, 66_666))
    rates = [schedule(at) for at in (0, 33_332, 33_333, 66_665, 66_666, 99_999)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5])


def test_the_schedule_is_asked_at_every_step():
    parameters = {"w": np.zeros(1)}
    optimiser = SGD(StepSchedule(1.0, (1, 2), 0.5))
    memory = optimiser.initialise(parameters)
    moved = []
    for _ in range(3):
        before = parameters["w"].copy()
        optimiser.step(parameters, {"w": np.ones(1)}, memory)
        moved.append(float((before - parameters["w"])[0]))
    assert moved == [1, 0.5, 0.25]


@pytest.mark.parametrize(
    ("gradients", "message"),
    [
        ({"w": np.ones((3, 4))}, r"missing \['b'\], unknown \[\]"),
        ({"w": np.ones((3, 4)), "b": np.ones(4), "c": np.ones(1)}, r"unknown \['c'\]"),
        ({"w": np.ones((3, 4)), "b": np.ones(5)}, "gradient of b: axis 0 .* length 4, got 5"),
        ({"w": np.ones((3, 4)), "b": np.ones(4, np.float32)}, "gradient of b must be float64"),
    ],
)
@pytest.mark.parametrize("optimiser", [SGD(0.1), Adam(0.1)])
def test_wrong_gradients_are_refused_and_change_nothing(optimiser, gradients, message):
    parameters = _parameters()
    memory = optimiser.initialise(parameters)
    with pytest.raises(ValueError, match=message):
        optimiser.step(parameters, gradients, memory)
    assert np.array_equal(parameters["w"], _parameters()["w"])
    assert memory["iteration"] == 0


def test_he_normal():
    w = he_normal((400, 300), 400, np.random.default_rng(0))
    assert w.dtype == np.float32
    assert w.std() == pytest.approx((2 / 400) ** 0.5, rel=0.01)
    assert abs(w.mean()) < 1e-3
    double = he_normal((400, 300), 400, np.random.default_rng(0), np.float64)
    assert np.array_equal(double.astype(np.float32), w)
    with pytest.raises(ValueError, match="fan_in must be at least 1, got 0"):
        he_normal((1,), 0, np.random.default_rng(0))


@pytest.mark.parametrize("optimiser", [SGD(0.1), SGD(0.1, 0.9, 0.1), Adam(0.1, weight_decay=0.1)])
def test_parameters_move_in_parts_as_they_move_whole(optimiser):
    whole, parts = _parameters(), _parameters()
    memories = optimiser.initialise(whole), optimiser.initialise(parts)
    for _ in range(3):
        optimiser.step(whole, _gradients(whole), memories[0])
        gradients = _gradients(parts)
        move = optimiser.mover(memories[1])
        for rows in (slice(0, 1), slice(1, 3)):
            gradient = gradients["w"][rows]
            move("w", parts["w"][rows], gradient, rows, scratch=gradient)
        move("b", parts["b"], gradients["b"])
        memories[1]["iteration"] += 1
    for name in whole:
        np.testing.assert_allclose(parts[name], whole[name], rtol=0, atol=1e-15)
