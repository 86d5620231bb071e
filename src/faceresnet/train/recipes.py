"""Recipes: every number of a training run, one frozen dataclass each, and nothing else.

`recipe(name)` finds one; `settings.override` changes single fields from ``key=value`` text, as
``faceresnet train --set schedule.iterations=1000`` does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from faceresnet.anchors import Level
from faceresnet.train.augment import Augmentation
from faceresnet.train.losses import Loss
from faceresnet.train.model import Network
from faceresnet.train.teacher import Distillation


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn.

    Attributes:
        iterations: gradient steps, those before `start` counted in.
        batch: images of the first of `Augmentation.sizes` in a step, in each process; other sizes
            get as many as hold the same number of pixels.
        optimiser: ``sgd`` or ``adamw``.
        rate: peak learning rate.
        momentum: of ``sgd``.
        weight_decay: L2 (``sgd``) or decoupled (``adamw``); not on biases and normalisation.
        warmup: iterations of linear warm-up.
        decay: ``constant`` or ``cosine`` down to zero.
        clip: largest gradient norm; 0 never clips.
        average: decay of the exponential moving average of the weights; 0 keeps none. It rises to
            that: the average of n iterations spans the last tenth of them at most.
        epoch: iterations between checkpoints; a killed run loses no more than these.
        validate_every: checkpoints between validations; a run's end is validated, too.
        bf16: compute in bfloat16 where the processor does so natively.
        start: the first iteration; those before it were another run's, whose weights this one
            starts from, as where a machine has been lost.
    """

    iterations: int
    batch: int = 32
    optimiser: str = "adamw"
    rate: float = 2e-3
    momentum: float = 0.9
    weight_decay: float = 0.02
    warmup: int = 500
    decay: str = "cosine"
    clip: float = 10.0
    average: float = 0.999
    epoch: int = 250
    validate_every: int = 4
    bf16: bool = True
    start: int = 0

    def __post_init__(self) -> None:
        if self.optimiser not in ("sgd", "adamw"):
            raise ValueError(f"optimiser must be sgd or adamw, got {self.optimiser!r}")
        if self.decay not in ("constant", "cosine"):
            raise ValueError(f"decay must be constant or cosine, got {self.decay!r}")
        for name in ("iterations", "batch", "epoch", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.start < self.iterations:
            raise ValueError(f"start must lie in 0..{self.iterations - 1}, got {self.start}")
        if self.rate <= 0:
            raise ValueError(f"rate must be positive, got {self.rate}")
        for name in ("momentum", "weight_decay", "warmup", "clip"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.average < 1:
            raise ValueError(f"average must lie in 0..1, below 1, got {self.average}")

    def rate_factor(self, iteration: int) -> float:
        """Share of the peak learning rate: linear warm-up, then constant or half a cosine to zero.

        A run that starts late warms up again, to where the cosine is by then.
        """
        warm = min(1.0, (iteration - self.start + 1) / max(1, self.warmup))
        if self.decay == "constant":
            return warm
        done = (iteration - self.warmup) / max(1, self.iterations - self.warmup)
        return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, done))))

    def epoch_end(self, done: int) -> int:
        """The iteration at which an epoch ends that starts after so many iterations.

        Epochs end at multiples of `epoch` and with the run: one that follows the end of a shorter
        run is cut short.
        """
        following = (done // self.epoch + 1) * self.epoch
        return max(done, min(following, self.iterations))


@dataclass(frozen=True)
class Recipe:
    """One way to train one network."""

    name: str
    network: Network
    loss: Loss
    augmentation: Augmentation
    schedule: Schedule
    distillation: Distillation = field(default_factory=Distillation)
    #: weights of a network to imitate (`imitation`); with none, it learns from labels.
    imitates: str = ""
    seed: int = 0
    #: px; the largest face that the trained model finds well in one look (`ModelSpec`), measured
    #: by benchmarks/stress.py; 0 stands for the largest anchor.
    largest_face: float = 0.0
    #: px that the trained model's boxes of small faces are too large (`ModelSpec`), measured by
    #: benchmarks/excess.py.
    excess: float = 0.0
    #: overlap above which the weaker of two of its detections is dropped (`ModelSpec`).
    nms_iou: float = 0.4

    def __post_init__(self) -> None:
        multiple = self.network.size_multiple
        if any(side % multiple for side in self.augmentation.sizes):
            raise ValueError(
                f"sizes must be multiples of {multiple} px, got {self.augmentation.sizes}"
            )
        for name in ("seed", "largest_face", "excess"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.nms_iou <= 1:
            raise ValueError(f"nms_iou must lie in 0..1, got {self.nms_iou}")


def paper() -> Recipe:
    """The paper's FaceResNet, section 5.2, as faithfully as its text allows.

    ``faceresnet train --recipe paper --data WIDER --out RUN --init resnet50.pth``

    Trained by the author for 700,000 iterations on a GTX 1080 Ti. What the text leaves open, and
    what is done here:

    * *Where the levels sit.* It names RetinaNet's P3 to P7 and sizes from 16 to 416 px scaled by
      2^(1/3). Sizes 16 · 2^(i/3) for i = 0 … 14 are three on each of five levels; with two ratios
      that makes A = 6. The last is 406 px, not 416. Strides 8 to 128 with these sizes put a 16 px
      anchor on stride 8, RetinaNet's own proportion of 4 : 1 halved, which fits faces.
    * *Offsets in pixels or scaled.* "Four coordinate offsets to shift the anchor box with" are read
      as RetinaNet's: centre offsets in anchor sizes and log size ratios, with scales of 1.
    * *K = 2 probabilities.* A softmax over face and background is a sigmoid of the difference of
      the two logits; that one logit is what the network predicts here.
    * *Equations 59 and 60* are each other's, as the text shows: 60 is the focal loss. Its factor
      p log p̂ would leave background anchors without loss; the focal loss of the cited paper is
      meant: α = 3 on faces, 1 on background, γ = 2.
    * *Negatives* are anchors below IoU 0.4 as in RetinaNet; the band 0.4 to 0.5 is left out.
    * *The heads' batch normalisation* has statistics for each level: one average over levels of
      different scale would fit none of them at run time.
    * *Initialisation* is not given. The last normalisation of each head block starts at 0 (Goyal et
      al. 2017): otherwise eight blocks pile up variance, and with two images in a batch the loss of
      the boxes rises in the first steps, or is no longer finite.
    * *The optimiser* is called gradient descent with an initial rate of 0.001; momentum 0.9 and the
      constant rate are the common reading.
    """
    sizes = [16 * 2 ** (i / 3) for i in range(15)]
    levels = tuple(
        Level(8 << i, (sizes[3 * i], sizes[3 * i + 1], sizes[3 * i + 2]), (1.0, 1.5))
        for i in range(5)
    )
    return Recipe(
        name="paper",
        network=Network(
            levels=levels,
            block="bottleneck",
            depths=(3, 4, 6, 3),
            planes=(64, 128, 256, 512),
            prior=None,
            delta_scales=(1.0, 1.0),
        ),
        loss=Loss(
            assigner="iou",
            best_anchor=False,
            alpha=3.0,
            quality=False,
            box_loss="smooth_l1",
            box_weight=1.0,
            per_positive=False,
        ),
        augmentation=Augmentation(
            sizes=(512, 640),
            grids=(1.0,),
            face_px=(16.0, 406.0),
            fill=0.0,
            max_scale=2.0,
            grey=0.0,
            blur=0.0,
            jpeg=0.0,
            noise=0.0,
        ),
        schedule=Schedule(
            iterations=700_000,
            batch=2,
            optimiser="sgd",
            rate=0.001,
            weight_decay=1e-4,
            warmup=0,
            decay="constant",
            clip=0.0,
            average=0.0,
            epoch=1000,
            validate_every=10,
        ),
    )


def faceresnet_n_wide() -> Recipe:
    """Part 1 of scripts/train-faceresnet-n.sh: a wider network than that which is shipped.

    A ResNet of seven basic blocks, 32 to 128 channels, and a pyramid of four levels. Two CPU cores
    in bfloat16: 1 h 50 min for 8,750 iterations, with numbers that moved on the way to these and
    250 left out; AP .905 on facecount and .411 on wider_small (docs/results.md).
    """
    return Recipe(
        name="faceresnet-n-wide",
        network=Network(
            levels=(
                Level(8, (8.0, 16.0), (1.25,)),
                Level(16, (32.0, 64.0), (1.25,)),
                Level(32, (128.0, 256.0), (1.25,)),
                Level(64, (400.0, 600.0), (1.25,)),
            ),
            block="basic",
            depths=(1, 2, 2, 2),
            planes=(32, 64, 96, 128),
            stem=16,
            stem_kernel=3,
            max_pool=False,
            pyramid=48,
            head_block="conv",
            head_blocks=1,
        ),
        loss=Loss(),
        augmentation=Augmentation(
            sizes=(256, 256, 256, 512),
            grids=(0.4, 0.25, 0.2, 0.15),
            face_px=(4.0, 600.0),
            min_face=3.0,
            event_weights=(("wider", 4.0), ("heads", 0.7), ("masks_a", 0.7)),
            label_styles=(
                ("facecount", (0.045, 0.012, 0.90, 1.04)),
                ("masks_b", (-0.018, -0.057, 0.92, 1.08)),
            ),
        ),
        schedule=Schedule(iterations=9_000, validate_every=8),
        largest_face=192.0,
    )


def faceresnet_n_native() -> Recipe:
    """Part 2 of scripts/train-faceresnet-n.sh: tiny faces as they are, not large ones scaled down.

    WIDER FACE's annotators drew tiny faces tighter than large ones, and cameras blur them otherwise
    than scaling does: three in five single photos keep their own size. 12 minutes on two CPU cores;
    AP .908 on facecount and .423 on wider_small in fp32.
    """
    first = faceresnet_n_wide()
    return replace(
        first,
        name="faceresnet-n-native",
        augmentation=replace(
            first.augmentation,
            grids=(0.6, 0.15, 0.15, 0.1),
            native=0.6,
            event_weights=(("wider", 14.0), ("heads", 0.7), ("masks_a", 0.5)),
        ),
        schedule=Schedule(
            iterations=1_200, rate=5e-4, warmup=50, average=0.997, epoch=200, validate_every=6
        ),
    )


def faceresnet_n_self() -> Recipe:
    """Part 3 of scripts/train-faceresnet-n.sh: photos whose labels the model itself has mended.

    Crowds are drawn more often, as the faces in their ignored heads are labelled now, and more
    images are blurred.
    """
    before = faceresnet_n_native()
    return replace(
        before,
        name="faceresnet-n-self",
        augmentation=replace(
            before.augmentation,
            grids=(0.55, 0.2, 0.15, 0.1),
            native=0.5,
            blur=0.25,
            event_weights=(("wider", 6.0), ("heads", 4.0), ("masks_b", 1.5), ("masks_a", 0.5)),
        ),
        schedule=Schedule(iterations=4_000, rate=1e-3, warmup=200, average=0.998, validate_every=8),
    )


def faceresnet_n_corrected() -> Recipe:
    """Part 4 of scripts/train-faceresnet-n.sh: corrected labels, harder pictures, larger faces."""
    before = faceresnet_n_self()
    return replace(
        before,
        name="faceresnet-n-corrected",
        augmentation=replace(
            before.augmentation,
            sizes=(256, 256, 512),
            fill=0.4,
            turn=0.2,
            cover=0.1,
            light=0.2,
            distract=0.3,
        ),
        schedule=replace(before.schedule, iterations=5_500),
    )


def faceresnet_n_narrow() -> Recipe:
    """Part 5 of scripts/train-faceresnet-n.sh: a network of half the arithmetic.

    It starts from the strongest filters of the wider network: 48 instead of 64 channels at stride
    8, one head for scores and boxes, no smoothing of the pyramid, three anchors a place on three
    levels instead of two on four; 1.39 instead of 1.93 GMAC at 640×480. Two CPU cores beside other
    work: 1 h 50 min; AP .910 on facecount and .446 on wider_small in fp32.
    """
    before = faceresnet_n_corrected()
    return replace(
        before,
        name="faceresnet-n-narrow",
        network=replace(
            before.network,
            levels=(
                Level(8, (8.0, 14.0, 24.0), (1.25,)),
                Level(16, (40.0, 68.0, 116.0), (1.25,)),
                Level(32, (198.0, 338.0, 576.0), (1.25,)),
            ),
            planes=(32, 48, 96, 128),
            smooth=False,
            shared_head=True,
        ),
        augmentation=replace(before.augmentation, shortfall=1.0),
        excess=1.0,
        schedule=replace(before.schedule, iterations=12_000, rate=1.5e-3, average=0.999),
    )


def faceresnet_n_deep() -> Recipe:
    """Part 6 of scripts/train-faceresnet-n.sh: wider and deeper where int8 makes that cheapest.

    It computes at first what the narrow network does, but has 64 to 256 channels from stride 8 on,
    a third block at stride 16, a pyramid of 64; 2.87 GMAC at 640×480. Each of two processes has 16
    images of the batch and a core of its own: 1 h 28 min on two cores with AMX. The best of three
    checkpoints on the validation photos is that of 8,000 iterations; AP .908 on facecount and .464
    on wider_small in fp32.
    """
    before = faceresnet_n_narrow()
    return replace(
        before,
        name="faceresnet-n-deep",
        network=replace(before.network, planes=(32, 64, 128, 256), depths=(1, 2, 3, 2), pyramid=64),
        schedule=replace(
            before.schedule, iterations=12_500, batch=16, warmup=300, validate_every=16
        ),
    )


def faceresnet_n_balanced() -> Recipe:
    """Part 7 of scripts/train-faceresnet-n.sh: every face counts, not every anchor.

    The same network learns that a box is right from an IoU of .6 on, too. Stopped after 9,300
    iterations and 1 h 25 min on two cores with AMX; AP .906 on facecount and .497 on wider_small in
    fp32.
    """
    before = faceresnet_n_deep()
    return replace(
        before,
        name="faceresnet-n-balanced",
        loss=replace(before.loss, balance=0.7, right=0.6),
        schedule=replace(
            before.schedule,
            iterations=14_000,
            rate=1e-3,
            warmup=50,
            average=0.9995,
            validate_every=8,
        ),
    )


def faceresnet_n_harder() -> Recipe:
    """Part 8 of scripts/train-faceresnet-n.sh: harder photos, and nothing that adds nothing.

    The third block at stride 16 and half the filters at stride 32 turned out to add nothing, so
    they go; 2.07 GMAC at 640×480. The mean of its weights and those it started from finds more of
    all faces than either. Stopped after 12,000 iterations and 1 h 30 min on two cores with AMX; AP
    .905 on facecount and .506 on wider_small in fp32.
    """
    before = faceresnet_n_balanced()
    return replace(
        before,
        name="faceresnet-n-harder",
        network=replace(before.network, planes=(32, 64, 128, 128), depths=(1, 2, 2, 2)),
        augmentation=replace(
            before.augmentation,
            stretch=0.2,
            turn=0.3,
            cover=0.2,
            light=0.3,
            blur=0.35,
            noise=0.2,
            jpeg=0.35,
            event_weights=(("wider", 8.0), ("heads", 4.0), ("masks_b", 1.5), ("masks_a", 0.5)),
        ),
        schedule=replace(before.schedule, iterations=16_000),
    )


def faceresnet_n() -> Recipe:
    """The small model, real time on two CPU cores; part 9 of scripts/train-faceresnet-n.sh.

    The blocks become thinner inside, 1.71 GMAC at 640×480, and learn to compute what they did
    before, not from labels. 52 minutes on two cores beside other work. The tenth part starts from
    the mean of two averages with a decay of .998, after 1,250 and 5,000 iterations; AP .904 on
    facecount and .508 on wider_small in fp32, its boxes tightened by 1 px (docs/experiments.md,
    step 43); the earlier parts were measured before that. The longer average of this recipe comes
    near it in one run; it has not been measured.
    """
    before = faceresnet_n_harder()
    return replace(
        before,
        name="faceresnet-n",
        network=replace(before.network, inner=(32, 48, 96, 96)),
    )


def faceresnet_n_taught() -> Recipe:
    """Part 10 of scripts/train-faceresnet-n.sh: taught by itself and YuNet, which looks closer.

    YuNet has seen more crowds, too. Nothing is learnt from labels. The last part starts from the
    mean of what it started from and of two such runs: 4,000 iterations in which YuNet's share was
    .5, γ 2 and the augmentation that of `faceresnet_n`, then, from the mean of the first two, 1,750
    with these numbers; AP .901 on facecount and .519 on wider_small in fp32 (docs/experiments.md,
    47 and 48).
    """
    before = faceresnet_n()
    return replace(
        before,
        name="faceresnet-n-taught",
        loss=replace(before.loss, gamma=1.0),
        augmentation=replace(
            before.augmentation, grids=(0.65, 0.2, 0.1, 0.05), native=0.7, cover=0.1
        ),
        distillation=Distillation(trust=1.0, least=0.1),
        schedule=replace(before.schedule, iterations=3_000, warmup=100, average=0.998),
        excess=0.5,
    )


def faceresnet_n_negatives() -> Recipe:
    """Part 11 of scripts/train-faceresnet-n.sh: unlearning what it sees in images without a face.

    In all others it learns to compute what it did, so nothing comes from labels but where no face
    is. 14 minutes on two cores beside other work; AP of the mean .902 on facecount and .515 on
    wider_small in fp32 (docs/experiments.md, 52).
    """
    before = faceresnet_n_taught()
    return replace(
        before,
        name="faceresnet-n-negatives",
        augmentation=replace(before.augmentation, empty=0.25),
        distillation=Distillation(),
        schedule=replace(
            before.schedule,
            iterations=1_500,
            rate=5e-4,
            warmup=50,
            weight_decay=0.0,
            average=0.997,
        ),
        excess=0.25,
    )


def faceresnet_50() -> Recipe:
    """The paper's network, improved: accuracy first.

    ``scripts/train-faceresnet-50.sh DATA OUT``

    ResNet-50; three anchors of one ratio from 4.6 to 576 px on strides 4 to 32, lighter heads, and
    the better loss, assignment and augmentation: 27.4 GMAC at 512×512. It starts as `faceresnet_n`,
    planted into it but for its last block (`grow`), which asks for no max pooling. One size of
    images, as a network is compiled for each; 512,000 of them, for about 16 minutes on one H100 or
    H200 (docs/gpu.md has the arithmetic; nobody has measured it).

    The shipped weights are of `faceresnet_50_taught`, far less training of a network that is
    thinner inside its last blocks; a GPU goes on from them, widened, with ``START=
    scripts/train-faceresnet-50.sh DATA OUT --init faceresnet-50 --reshape widen``.
    """
    small = faceresnet_n_harder()
    return replace(
        small,
        name="faceresnet-50",
        network=replace(
            small.network,
            levels=(Level(4, (4.6, 6.0, 10.6), (1.25,)), *small.network.levels),
            block="bottleneck",
            depths=(3, 4, 6, 3),
            planes=(64, 128, 256, 512),
            stem=64,
            stem_kernel=7,
            pyramid=80,
            head_blocks=2,
            shared_head=False,
        ),
        augmentation=replace(
            small.augmentation,
            sizes=(512,),
            grids=(0.55, 0.3, 0.15),
            face_px=(4.0, 640.0),
            empty=0.1,
        ),
        excess=0.5,
        nms_iou=0.5,
        schedule=Schedule(iterations=8_000, batch=64, rate=1e-3, epoch=400, validate_every=20),
    )


def faceresnet_50_crops() -> Recipe:
    """What two CPU cores make of `faceresnet_50` in two hours, from crops of 256² px.

    ``OMP_NUM_THREADS=1 faceresnet train --recipe faceresnet-50-crops --init ORIGINAL.safetensors
    --reshape grow --data DIR3 --out CROPS --accelerator cpu --devices 2 --strategy ddp --workers 0
    --compile``, with the weights of `faceresnet_n_harder` and, in DIR3, the data of its part

    Each of two processes has 8 images of the batch and a core of its own. Stopped after 4,400
    iterations and 1 h 59 min on two cores with AMX, beside other work; AP .897 on facecount and
    .522 on wider_small in fp32.
    """
    return replace(
        faceresnet_50(),
        name="faceresnet-50-crops",
        augmentation=replace(faceresnet_n_harder().augmentation, sizes=(256,)),
        schedule=Schedule(
            iterations=4_600,
            batch=8,
            rate=7e-4,
            warmup=100,
            average=0.998,
            epoch=100,
            validate_every=46,
        ),
    )


def faceresnet_50_cpu() -> Recipe:
    """And in two more, a third of them with crops of 512² px.

    ``OMP_NUM_THREADS=1 faceresnet train --recipe faceresnet-50-cpu --init
    CROPS/checkpoints/last.ckpt --data DIR3 --out RUN --accelerator cpu --devices 2 --strategy ddp
    --workers 0 --compile``

    Stopped after 3,200 iterations and 1 h 55 min on two cores with AMX, beside other work; AP .893
    on facecount and .547 on wider_small in fp32.
    """
    first = faceresnet_50_crops()
    return replace(
        first,
        name="faceresnet-50-cpu",
        augmentation=replace(first.augmentation, sizes=(256, 256, 512)),
        schedule=replace(first.schedule, iterations=3_300, rate=5e-4, validate_every=33),
    )


def faceresnet_50_thin() -> Recipe:
    """The same network thinner inside its last blocks, as it is shipped.

    ``OMP_NUM_THREADS=1 faceresnet train --recipe faceresnet-50-thin --imitate
    CPU/checkpoints/last.ckpt --data DIR3 --out RUN --accelerator cpu --devices 2 --strategy ddp
    --workers 0 --compile``

    It learns to compute what that one does, not from labels: 23.2 GMAC at 512×512 instead of 27.4,
    and half the weights. Stopped after 1,300 iterations and 1 h 16 min on two
    cores, beside other work; AP .897 on facecount and .550 on wider_small in fp32.
    """
    before = faceresnet_50_cpu()
    return replace(
        before,
        name="faceresnet-50-thin",
        network=replace(before.network, inner=(64, 128, 224, 160)),
        schedule=replace(before.schedule, iterations=1_900, warmup=50, weight_decay=0.0),
    )


def faceresnet_50_taught() -> Recipe:
    """And taught by itself, `faceresnet_n` and YuNet, which looks closer: the shipped weights.

    ``OMP_NUM_THREADS=1 faceresnet train --recipe faceresnet-50-taught --init
    THIN/checkpoints/last.ckpt --teacher THIN.onnx --teacher faceresnet-n --yunet YUNET.onnx
    --data DIR3 --out RUN --accelerator cpu --devices 2 --strategy ddp --workers 0 --compile``, then
    the mean of its weights and those it started from, with .45 added to all logits

    Nothing is learnt from labels. Stopped after 1,000 iterations and 50 minutes on two cores,
    beside other work; AP .899 on facecount and .561 on wider_small in fp32.
    """
    before, small = faceresnet_50_thin(), faceresnet_n_taught()
    return replace(
        before,
        name="faceresnet-50-taught",
        loss=small.loss,
        augmentation=replace(
            before.augmentation,
            grids=small.augmentation.grids,
            native=small.augmentation.native,
            cover=small.augmentation.cover,
        ),
        distillation=small.distillation,
        schedule=replace(before.schedule, iterations=1_200, epoch=50),
        excess=0.25,
    )


RECIPES = {
    make.__name__.replace("_", "-"): make
    for make in (
        paper,
        faceresnet_50,
        faceresnet_50_crops,
        faceresnet_50_cpu,
        faceresnet_50_thin,
        faceresnet_50_taught,
        faceresnet_n,
        faceresnet_n_taught,
        faceresnet_n_negatives,
        faceresnet_n_wide,
        faceresnet_n_native,
        faceresnet_n_self,
        faceresnet_n_corrected,
        faceresnet_n_narrow,
        faceresnet_n_deep,
        faceresnet_n_balanced,
        faceresnet_n_harder,
    )
}


def recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}, expected one of: {', '.join(RECIPES)}")
    return RECIPES[name]()
