"""Which boxes to cover in each frame of a video, so that no face shows while the detector blinks.

Everything found is covered where it was found. Then time is filled: between two detections of a
track its box moves straight from one to the other, and before the first and after the last it
stays for a moment. Filled boxes are larger, because nobody looked. What was found once or twice and
never with a good score is mostly no face; it is held much shorter, or covers would be everywhere.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float32, Int64

from faceresnet import boxes as boxes_

#: Overlap from which a face without an id is the one that was found a few frames away.
SAME_FACE_IOU = 0.3
#: How many frames away.
NEIGHBOURS = 3
#: Times are rounded to units of a clock: what differs by less is the same, s.
CLOCK_S = 0.001

Boxes = Float32[np.ndarray, "M 4"]


@dataclass(frozen=True)
class Filling:
    """How long a face counts as there though nobody sees it.

    Attributes:
        hold_s: before its first detection and after its last.
        doubtful_hold_s: the same for what is doubtful: never found with a score of at least
            `sure_score` and in fewer than `sure_count` frames.
        bridge_s: longest gap in which a track is bridged; beyond it both ends are held.
        growth: by how much of its width and height a filled box grows at each side, beside the
            margin that all boxes get.
    """

    hold_s: float = 0.5
    doubtful_hold_s: float = 0.1
    sure_score: float = 0.3
    sure_count: int = 5
    bridge_s: float = 2.0
    growth: float = 0.1

    def __post_init__(self) -> None:
        numbers = (self.hold_s, self.doubtful_hold_s, self.bridge_s, self.growth)
        if not all(number >= 0 for number in numbers):
            raise ValueError(
                "hold_s, doubtful_hold_s, bridge_s and growth must not be negative, got "
                f"{self.hold_s}, {self.doubtful_hold_s}, {self.bridge_s} and {self.growth}"
            )


@dataclass(frozen=True, eq=False)
class Look:
    """What was found in one frame.

    Attributes:
        time_s: of the frame.
        boxes: (M, 4) px.
        scores: (M,) 0..1.
        ids: (M,) of their tracks, negative where there is none.
    """

    time_s: float
    boxes: Boxes
    scores: Float32[np.ndarray, "M"]
    ids: Int64[np.ndarray, "M"]


def fill(looks: Sequence[Look], filling: Filling) -> list[Boxes]:
    """Boxes to cover in each frame: what was found first, then what was filled in.

    Args:
        looks: every frame of the video, in order.
        filling: how long.
    """
    times_s = np.array([look.time_s for look in looks])
    filled: list[list[np.ndarray]] = [[] for _ in looks]

    def hold(face: _Found, hold_s: float, step: int) -> None:
        """Let a box stay for a while after (step 1) or before (-1) its frame."""
        grown, other = _grown(face.box, filling.growth), face.frame + step
        while (
            0 <= other < len(looks)
            and abs(times_s[other] - times_s[face.frame]) <= hold_s + CLOCK_S
        ):
            filled[other].append(grown)
            other += step

    for chain in _chains(looks):
        sure = max(face.score for face in chain) >= filling.sure_score
        sure = sure or len(chain) >= filling.sure_count
        hold_s = filling.hold_s if sure else min(filling.hold_s, filling.doubtful_hold_s)
        hold(chain[0], hold_s, -1)
        hold(chain[-1], hold_s, 1)
        for before, after in pairwise(chain):
            gap_s = times_s[after.frame] - times_s[before.frame]
            if gap_s > filling.bridge_s:
                hold(before, hold_s, 1)
                hold(after, hold_s, -1)
                continue
            for number in range(before.frame + 1, after.frame):
                part = (times_s[number] - times_s[before.frame]) / gap_s
                box = before.box + (after.box - before.box) * part
                filled[number].append(_grown(box, filling.growth))
    return [
        np.concatenate([look.boxes, np.array(more, np.float32).reshape(-1, 4)])
        for look, more in zip(looks, filled, strict=True)
    ]


def count(looks: Sequence[Look]) -> int:
    """How many faces there are: tracks, and faces that belong to none."""
    return len(_chains(looks))


@dataclass(frozen=True, eq=False)
class _Found:
    """A face in a frame."""

    frame: int
    box: np.ndarray
    score: float


def _chains(looks: Sequence[Look]) -> list[list[_Found]]:
    """What was found of each face, in order; a second box of it in one frame is left out."""
    chains: dict[int, dict[int, _Found]] = defaultdict(dict)
    ids = _identify(looks)
    for tracked in (True, False):
        for number, look in enumerate(looks):
            faces = zip(look.boxes, look.scores.tolist(), look.ids >= 0, ids[number], strict=True)
            for box, score, has_track, identity in faces:
                if has_track == tracked:
                    chains[int(identity)].setdefault(number, _Found(number, box, score))
    return [[chain[number] for number in sorted(chain)] for chain in chains.values()]


def _identify(looks: Sequence[Look]) -> list[Int64[np.ndarray, "M"]]:
    """Ids of all faces: what has none takes that of a face close by, before or after, or a new one.

    The tracker gives none to a face that it never finds in two frames running.
    """
    ids = [look.ids.copy() for look in looks]
    new = 1 + max((int(own.max(initial=0)) for own in ids), default=0)
    single = [(n, m) for n, own in enumerate(ids) for m in np.flatnonzero(own < 0).tolist()]
    for last, order in ((False, single), (False, single[::-1]), (True, single)):
        for number, place in order:
            if ids[number][place] >= 0:
                continue
            ids[number][place] = _neighbour(looks, ids, number, looks[number].boxes[place])
            if last and ids[number][place] < 0:
                ids[number][place], new = new, new + 1
    return ids


def _neighbour(
    looks: Sequence[Look], ids: Sequence[Int64[np.ndarray, "M"]], frame: int, box: np.ndarray
) -> int:
    """The id of this face in a frame close by, -1 if there is none."""
    best, identity = SAME_FACE_IOU, -1
    for other in range(max(0, frame - NEIGHBOURS), min(len(looks), frame + NEIGHBOURS + 1)):
        if other == frame:
            continue
        overlaps = boxes_.iou(looks[other].boxes, box[None])[:, 0].tolist()
        for overlap, candidate in zip(overlaps, ids[other].tolist(), strict=True):
            if overlap >= best and candidate >= 0:
                best, identity = overlap, candidate
    return identity


def _grown(box: np.ndarray, growth: float) -> np.ndarray:
    border = (box[2:] - box[:2]) * growth
    return np.concatenate([box[:2] - border, box[2:] + border])
