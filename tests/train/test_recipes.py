from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from faceresnet.anchors import Level
from faceresnet.pyramid import plan
from faceresnet.train import recipes
from faceresnet.train.recipes import Recipe, Schedule, recipe
from faceresnet.train.settings import from_json, override
from train.samples import small_recipe

NAMES = list(recipes.RECIPES)


def test_the_recipe_of_the_paper_has_the_papers_numbers():
    paper = recipe("paper")
    network, loss, schedule = paper.network, paper.loss, paper.schedule
    assert network.anchors_per_cell == 6
    assert [level.stride for level in network.levels] == [8, 16, 32, 64, 128]
    sizes = [size for level in network.levels for size in level.sizes]
    assert sizes == pytest.approx([16 * 2 ** (i / 3) for i in range(15)])
    assert max(sizes) == pytest.approx(406, abs=0.5)
    assert all(level.ratios == (1.0, 1.5) for level in network.levels)
    # Ratio 1:1.5 is width to height: anchors are taller than wide.
    (height, width) = network.levels[0].shapes[1]
    assert height / width == pytest.approx(1.5)
    assert height * width == pytest.approx(16**2)
    assert (network.block, network.depths) == ("bottleneck", (3, 4, 6, 3))
    assert network.planes == (64, 128, 256, 512)
    assert (network.stem, network.stem_kernel, network.max_pool) == (64, 7, True)
    assert (network.pyramid, network.head_block, network.head_blocks) == (256, "bottleneck", 8)
    assert network.prior is None
    assert (loss.assigner, loss.positive_iou, loss.negative_iou) == ("iou", 0.5, 0.4)
    assert (loss.gamma, loss.alpha, loss.box_loss) == (2.0, 3.0, "smooth_l1")
    assert (loss.best_anchor, loss.quality, loss.per_positive) == (False, False, False)
    assert loss.box_weight == 1.0
    assert (schedule.optimiser, schedule.rate, schedule.batch) == ("sgd", 0.001, 2)
    assert (schedule.iterations, schedule.decay, schedule.average) == (700_000, "constant", 0.0)
    augmentation = paper.augmentation
    assert augmentation.sizes == (512, 640)
    assert (augmentation.flip, augmentation.grids) == (0.5, (1.0,))
    assert augmentation.colour > 0
    assert not any((augmentation.grey, augmentation.blur, augmentation.noise, augmentation.jpeg))


@pytest.mark.parametrize("name", NAMES)
def test_recipes_survive_json(name):
    original = recipe(name)
    assert original.name == name
    again = from_json(Recipe, json.loads(json.dumps(asdict(original))))
    assert again == original
    assert hash(again.network) == hash(original.network)
    assert isinstance(again.network.levels[0], Level)
    assert isinstance(again.augmentation.event_weights, tuple)


def test_the_improved_recipes_reach_tiny_faces_and_faces_that_fill_the_frame():
    for name in ("faceresnet-50", "faceresnet-n"):
        sizes = [size for level in recipe(name).network.levels for size in level.sizes]
        assert min(sizes) <= 8
        assert max(sizes) >= 576
        assert all(
            view.on_suspicion
            for view in plan((640, 640), recipe(name).largest_face, largest_anchor=max(sizes))[1:]
        )


def test_an_unknown_recipe_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match="unknown recipe 'x', expected one of: paper"):
        recipe("x")


@pytest.mark.parametrize(
    ("setting", "read", "value"),
    [
        ("seed=7", lambda r: r.seed, 7),
        ("name=mine", lambda r: r.name, "mine"),
        ("name=a=b", lambda r: r.name, "a=b"),
        ("schedule.rate=1e-4", lambda r: r.schedule.rate, 1e-4),
        ("schedule.rate=1", lambda r: r.schedule.rate, 1.0),
        ("schedule.iterations=1e3", lambda r: r.schedule.iterations, 1000),
        ("schedule.bf16=false", lambda r: r.schedule.bf16, False),
        ("schedule.bf16=True", lambda r: r.schedule.bf16, True),
        ("schedule.optimiser=sgd", lambda r: r.schedule.optimiser, "sgd"),
        ("network.prior=None", lambda r: r.network.prior, None),
        ("network.prior=0.3", lambda r: r.network.prior, 0.3),
        ("network.depths=(1,1,2,1)", lambda r: r.network.depths, (1, 1, 2, 1)),
        ("network.depths=[1, 1, 2, 1]", lambda r: r.network.depths, (1, 1, 2, 1)),
        ("network.delta_scales=1,2", lambda r: r.network.delta_scales, (1.0, 2.0)),
        ("augmentation.sizes=64", lambda r: r.augmentation.sizes, (64,)),
        ("augmentation.sizes=64,96", lambda r: r.augmentation.sizes, (64, 96)),
        ("augmentation.grids=1", lambda r: r.augmentation.grids, (1.0,)),
        (
            "augmentation.event_weights=(('a', 2), ('b', 0.5))",
            lambda r: r.augmentation.event_weights,
            (("a", 2.0), ("b", 0.5)),
        ),
        ("augmentation.event_weights=()", lambda r: r.augmentation.event_weights, ()),
    ],
)
def test_settings_change_one_field(setting, read, value):
    base = small_recipe()
    changed = override(base, [setting])
    assert read(changed) == value
    assert type(read(changed)) is type(value)
    assert repr(read(changed)) == repr(value)  # tells 1 from 1.0 within tuples too
    # Nothing else changed.
    difference = {
        (group, key)
        for group, values in asdict(changed).items()
        for key, new in (values.items() if isinstance(values, dict) else [("", values)])
        if new != (asdict(base)[group][key] if key else asdict(base)[group])
    }
    group, _, key = setting.partition("=")[0].partition(".")
    assert difference <= {(group, key)}
    assert from_json(Recipe, json.loads(json.dumps(asdict(changed)))) == changed


def test_later_settings_win():
    changed = override(small_recipe(), ["seed=1", "schedule.rate=0.5", "seed=2"])
    assert (changed.seed, changed.schedule.rate) == (2, 0.5)
    assert override(small_recipe(), []) == small_recipe()


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("seed", "expected key=value, got 'seed'"),
        ("sed=1", "unknown setting 'sed': 'sed' is none of name, network"),
        ("schedule.speed=1", "unknown setting 'schedule.speed': 'speed' is none of iterations"),
        ("seed.deep=1", "'seed' has no fields"),
        ("network=3", "network is a group of settings: change one of them, as network.levels="),
        ("schedule.rate=fast", "schedule.rate takes a finite float, such as 0.005; got 'fast'"),
        ("schedule.rate=1e999", "schedule.rate takes a finite float"),
        ("schedule.rate=True", "schedule.rate takes a finite float"),
        ("schedule.rate=-1", "rate must be positive"),
        ("schedule.average=1", "average must lie"),
        ("schedule.warmup=-1", "warmup must not be negative"),
        ("schedule.iterations=2.5", "schedule.iterations takes an int"),
        ("schedule.iterations=0", "iterations must be at least 1"),
        ("schedule.bf16=1", "schedule.bf16 takes a bool"),
        ("schedule.optimiser=lion", "optimiser must be sgd or adamw"),
        ("schedule.decay=linear", "decay must be constant or cosine"),
        ("loss.assigner=best", "assigner must be iou or adaptive"),
        ("augmentation.sizes=(64, 'a')", "augmentation.sizes takes an int"),
        ("augmentation.sizes=100", "sizes must be multiples of 32 px"),
        ("augmentation.sizes=", "augmentation.sizes takes"),
        ("augmentation.sizes=64,", None),
        ("augmentation.event_weights=(('a', 'b'),)", "takes a finite float"),
        ("augmentation.event_weights=a", "augmentation.event_weights takes"),
        ("network.delta_scales=(1, 2, 3)", "network.delta_scales takes"),
        ("network.prior=2", "prior must lie"),
        ("network.prior=none of it", "network.prior takes a finite float"),
        ("network.depths=(1, 1)", "four positive numbers"),
        ("network.levels=8", "network.levels takes"),
        ("seed=-1", "seed must not be negative"),
        ("excess=-1", "excess must not be negative"),
        ("nms_iou=3", "nms_iou must lie in 0..1"),
        ("loss.gamma=-3", "gamma and box_weight must not be negative"),
        ("loss.alpha=0", "alpha positive"),
        ("loss.positive_iou=0.2", "the first not above the second"),
        ("augmentation.min_face=-1", "min_face not negative"),
        ("seed={}", "seed takes an int"),
        ("seed=" + "(" * 500, "seed takes an int"),
    ],
)
def test_settings_that_do_not_fit_are_one_clear_error(setting, says):
    if says is None:
        assert override(small_recipe(), [setting]).augmentation.sizes == (64,)
        return
    with pytest.raises(ValueError, match=r"\w") as caught:
        override(small_recipe(), [setting])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "break_it",
    [
        lambda v: v.pop("network"),
        lambda v: v.update(colour="red"),
        lambda v: v["schedule"].update(batch="two"),
        lambda v: v["network"].update(levels=[{"stride": 8}]),
        lambda v: v["network"].update(levels=3),
        lambda v: v.update(network=None),
    ],
)
def test_broken_json_is_a_value_error(break_it):
    values = json.loads(json.dumps(asdict(small_recipe())))
    break_it(values)
    with pytest.raises(ValueError, match=r"\w"):
        from_json(Recipe, values)


@pytest.mark.parametrize(
    ("change", "says"),
    [({"momentum": -0.1}, "momentum"), ({"clip": -1.0}, "clip"), ({"epoch": 0}, "epoch")],
)
def test_impossible_schedules_are_refused(change, says):
    with pytest.raises(ValueError, match=says):
        replace(Schedule(iterations=1), **change)
