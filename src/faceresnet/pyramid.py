"""Which parts of a photo the network looks at, and at which scales.

One look finds faces from a few pixels up to the largest that the model is good at. Photos in which
a face could be larger are looked at again, reduced, until a face that fills the frame is smaller
than that. Photos too large for one look are cut into overlapping tiles. Each look
reports only the sizes that it sees best, and no face that the border of its tile cuts.
Where a look shows a crowd of small faces, it is taken again, enlarged; where it shows few that are
tiny, windows around them are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil, inf, log, sqrt
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float32, Int64

from faceresnet import boxes as boxes_

#: Side of a tile, px.
TILE = 1280
#: ``tile="auto"`` cuts photos whose longer side is larger than this, px.
TILE_FROM = 2048
#: Scales follow one another by at most this factor, so that every size is seen well at one.
MAX_STEP = 6.0
#: The coarsest scale reduces the whole frame to this part of the largest face.
FRAME = 0.75
#: A look reports faces up to this factor above the largest.
REACH = sqrt(2.0)
#: In a frame up to this factor above the largest anchor, every face has an anchor.
ANSWERED = 1.15
#: From this side on (√area, px) a face may show fragments in the very look that finds it whole.
LARGE = 192.0
#: How far a head reaches beyond its face's box: left, top, right, bottom, in widths and heights.
HEAD = np.array([-0.25, -0.1, 0.25, 0.0], np.float32)
#: What scores at most this fraction of a face's score, which is at least `SURE`, may be the ear of
#: that face. Nearly every other face behind the head scores more.
SURELY_WORSE = 0.9
SURE = 0.5
#: Nothing within the face that scores at least so much is another face, however small.
VERY_SURE = 0.7
#: A face is this large an ellipse, in half widths and heights of its box.
OVAL = 1.1
#: A box this close to an inner border of its tile, px, or in parts of its own size, is cut by it.
CUT_PX = 2.0
CUT_FRACTION = 0.04

#: A crowd is so many faces below this side (√area, px) with at least this score.
CROWD_FACES = 8
CROWD_SIDE = 24.0
CROWD_SCORE = 0.3
#: A closer look enlarges its window by this factor, for faces up to this side before that.
CLOSER = 1.5
CLOSER_SIDE = 64.0
#: Below this side (√area, px) and from this score on a face is looked at closer outside crowds,
#: too: in a window of so many px, this far from its border, enlarged by this factor.
TINY_SIDE = 12.0
TINY_SCORE = 0.25
WINDOW = 128
WINDOW_MARGIN = 24
WINDOW_ZOOM = 2.0
#: Least intersection over union of two boxes that are one face to two looks.
SAME_FACE = 0.5
#: What a score is worth when only one of two looks found the face.
ALONE = 0.7

#: Of a view that reports whatever it sees, px.
ANY_SIZE = (0.0, inf)

#: Boxes (M, 4) px and their scores (M,).
Found: TypeAlias = tuple[Float32[np.ndarray, "M 4"], Float32[np.ndarray, "M"]]


@dataclass(frozen=True)
class View:
    """One look at a photo: a window of the photo reduced to `image_size`.

    Attributes:
        level: 0 is the finest scale.
        image_size: (height, width) px of the whole photo at this scale.
        window: ``y1 x1 y2 x2`` px at this scale.
        sizes: (from, up to) px at this scale: the square root of the area of faces to report.
        on_suspicion: only worth a look if a finer one saw a large face, however faintly.
        zoom: the window is enlarged by this factor before the network sees it.
    """

    level: int
    image_size: tuple[int, int]
    window: tuple[int, int, int, int]
    sizes: tuple[float, float]
    on_suspicion: bool = False
    zoom: float = 1.0

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) px of the window."""
        y1, x1, y2, x2 = self.window
        return y2 - y1, x2 - x1

    @property
    def look_size(self) -> tuple[int, int]:
        """(height, width) px of what the network sees."""
        return _scaled(self.size, self.zoom)

    @property
    def may_come_closer(self) -> bool:
        """Whether it may be taken again, enlarged: at the finest scale, and small enough for it."""
        return self.level == 0 and self.zoom == 1 and max(self.size) <= TILE_FROM

    def closer(self) -> View:
        """The same window enlarged, for the faces of a crowd."""
        return replace(self, zoom=CLOSER, sizes=(0.0, CLOSER_SIDE * REACH))

    def around_tiny(
        self, boxes: Float32[np.ndarray, "M 4"], scores: Float32[np.ndarray, "M"]
    ) -> tuple[View, ...]:
        """Windows of this one, enlarged, around what may be tiny faces.

        At most as many as take as long as this look, on the surest faces first.

        Args:
            boxes: (M, 4) px of this window, best first.
            scores: (M,).
        """
        tiny = (boxes_.area(boxes) < TINY_SIDE**2) & (scores >= TINY_SCORE)
        if not tiny.any():
            return ()
        centres = (boxes[tiny, :2] + boxes[tiny, 2:]) / 2
        height, width = self.size
        room = np.maximum(0, (width - WINDOW, height - WINDOW))
        most = max(1, int(height * width / (WINDOW * WINDOW_ZOOM) ** 2))
        views: list[View] = []
        while len(centres) and len(views) < most:
            x, y = start = np.clip(np.rint(centres[0] - WINDOW / 2), 0, room).astype(int)
            end = np.minimum(start + WINDOW, (width, height))
            low = np.where(start > 0, start + WINDOW_MARGIN, 0)
            high = np.where(end < (width, height), end - WINDOW_MARGIN, end)
            centres = centres[~((centres >= low) & (centres <= high)).all(axis=1)]
            top, left = self.window[0] + int(y), self.window[1] + int(x)
            window = top, left, top + int(end[1] - y), left + int(end[0] - x)
            sizes = (0.0, CROWD_SIDE * REACH)
            views.append(replace(self, window=window, zoom=WINDOW_ZOOM, sizes=sizes))
        return tuple(views)

    def holds(
        self, boxes: Float32[np.ndarray, "M 4"], photo_size: tuple[int, int]
    ) -> Bool[np.ndarray, "M"]:
        """Which boxes (M, 4) px of the photo this view would report, were they of its sizes."""
        boxes = boxes_.scaled(boxes, photo_size, self.image_size)
        y1, x1, _, _ = self.window
        return self._uncut(boxes - np.array([x1, y1, x1, y1], dtype=np.float32))

    def place(
        self,
        boxes: Float32[np.ndarray, "M 4"],
        scores: Float32[np.ndarray, "M"],
        photo_size: tuple[int, int],
    ) -> tuple[Float32[np.ndarray, "K 4"], Float32[np.ndarray, "K"]]:
        """Boxes of this view that are its to report, in px of the photo.

        Args:
            boxes: (M, 4) px of what the network sees, clipped to it.
            scores: (M,).
            photo_size: (height, width) px of the photo.
        """
        if self.zoom != 1:
            boxes = boxes_.scaled(boxes, self.look_size, self.size)
        if self.sizes != ANY_SIZE:
            kept = self._of_its_sizes(boxes)
            boxes, scores = boxes[kept], scores[kept]
        if self.size != self.image_size:
            kept = self._uncut(boxes)
            y1, x1, _, _ = self.window
            boxes = boxes[kept] + np.array([x1, y1, x1, y1], dtype=np.float32)
            scores = scores[kept]
        if photo_size != self.image_size:
            boxes = boxes_.scaled(boxes, self.image_size, photo_size)
        return boxes, scores

    def _of_its_sizes(self, boxes: Float32[np.ndarray, "M 4"]) -> Bool[np.ndarray, "M"]:
        side: np.ndarray = np.sqrt(boxes_.area(boxes))
        return (side >= self.sizes[0]) & (side <= self.sizes[1])

    def _uncut(self, boxes: Float32[np.ndarray, "M 4"]) -> Bool[np.ndarray, "M"]:
        """Which boxes keep off the borders that the photo does not share."""
        y1, x1, y2, x2 = self.window
        height, width = self.size
        reach = np.maximum(CUT_PX, (boxes[:, 2:] - boxes[:, :2]) * CUT_FRACTION)
        uncut = np.ones(len(boxes), dtype=bool)
        if x1 > 0:
            uncut &= boxes[:, 0] > reach[:, 0]
        if y1 > 0:
            uncut &= boxes[:, 1] > reach[:, 1]
        if x2 < self.image_size[1]:
            uncut &= boxes[:, 2] < width - reach[:, 0]
        if y2 < self.image_size[0]:
            uncut &= boxes[:, 3] < height - reach[:, 1]
        return uncut


@lru_cache(maxsize=64, typed=True)  # True is no tile of 1 px
def plan(
    size: tuple[int, int],
    largest_face: float,
    *,
    largest_anchor: float = 0.0,
    max_side: int | None = None,
    enlarge: float = 1.0,
    tile: bool | int | str = "auto",
    pyramid: bool = True,
) -> tuple[View, ...]:
    """Choose the views of a photo, finest first.

    Args:
        size: (height, width) px of the photo.
        largest_face: side of the largest face that the model finds well in one look, px.
        largest_anchor: side of the model's largest anchor, px. A frame that is hardly larger is
            looked at again on suspicion only: its faces show in the finest look, if not well.
        max_side: the finest scale reduces the photo's longer side to at most this many px.
        enlarge: the finest scale is this many times as large as that.
        tile: False: never cut; True or a side in px: cut what is larger than a tile; ``auto``: cut
            what is longer than `TILE_FROM` into tiles of `TILE`.
        pyramid: also look at reduced scales, where a face could be too large for the finest.
    """
    side = tile if isinstance(tile, int) and not isinstance(tile, bool) else TILE
    scale = enlarge * (min(1.0, max_side / max(size)) if max_side else 1.0)
    finest = _scaled(size, scale)
    cuts = tile is not False and max(finest) > (TILE_FROM if tile == "auto" else side)
    overlap = ceil(min(largest_face / 2, max(side / 8, min(64, side / 4))))
    # A face larger than the overlap may be cut by every tile, so the next scale must see it.
    largest = 2.0 * overlap if cuts else largest_face
    smallest = largest / (2 * MAX_STEP)
    frame = sqrt(finest[0] * finest[1])
    spans = frame / (FRAME * largest)
    steps = ceil(log(spans) / log(MAX_STEP)) if pyramid and frame > REACH * largest else 0
    answered = not cuts and frame <= ANSWERED * largest_anchor
    views = []
    for level in range(steps + 1):
        scaled = _scaled(size, scale * spans ** (-level / steps)) if steps else finest
        sizes = (
            smallest if level else 0.0,
            largest * REACH if level < steps else inf,
        )
        for window in _windows(scaled, side if cuts else max(scaled), overlap):
            views.append(View(level, scaled, window, sizes, answered and level > 0))
    return tuple(views)


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _windows(size: tuple[int, int], side: int, overlap: int) -> Iterator[tuple[int, int, int, int]]:
    """Windows of at most `side` px that cover `size` and overlap by at least `overlap` px."""
    rows, columns = (_starts(length, side, overlap) for length in size)
    for y in rows:
        for x in columns:
            yield y, x, min(y + side, size[0]), min(x + side, size[1])


def _starts(length: int, side: int, overlap: int) -> list[int]:
    if length <= side:
        return [0]
    count = ceil((length - overlap) / (side - overlap))
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


def shows_crowd(boxes: Float32[np.ndarray, "M 4"], scores: Float32[np.ndarray, "M"]) -> bool:
    """Whether what a look found, in its own px, is a crowd of small faces."""
    small = boxes_.area(boxes) < CROWD_SIDE**2
    return int((small & (scores >= CROWD_SCORE)).sum()) >= CROWD_FACES


def agree(
    first: Found, closer: Found, side: float, share: float = 0.5
) -> tuple[Float32[np.ndarray, "K 4"], Float32[np.ndarray, "K"]]:
    """What two looks at small faces say together.

    A face that both found has the mean of their scores, and of their boxes weighted by these. A
    face that only one of them found has `ALONE` times its score, but for those too large for the
    closer look. Two boxes are the same face if each is the other's best, by intersection over
    union.

    Args:
        first: boxes (M, 4) px and scores (M,) of the first look.
        closer: of the closer look, in the same px.
        side: from this one on (√area, px) faces are too large for the closer look.
        share: of the closer look in what both found.
    """
    boxes, scores = first
    others, their_scores = closer
    mine, theirs = _same_faces(boxes, others)
    own, other = np.float32(1 - share) * scores[mine], np.float32(share) * their_scores[theirs]
    both = own + other
    weight = (own / np.maximum(both, np.finfo(np.float32).tiny))[:, None]
    together = weight * boxes[mine] + (1 - weight) * others[theirs]
    worth = np.where(boxes_.area(boxes) < side**2, np.float32(ALONE), np.float32(1))
    rest, their_rest = np.delete(boxes, mine, axis=0), np.delete(others, theirs, axis=0)
    all_boxes = np.concatenate([together, rest, their_rest])
    all_scores = np.concatenate(
        [
            both,
            np.delete(scores * worth, mine),
            np.delete(their_scores * np.float32(ALONE), theirs),
        ]
    )
    kept = boxes_.nms(all_boxes, all_scores, SAME_FACE)
    return all_boxes[kept], all_scores[kept]


def _same_faces(
    a: Float32[np.ndarray, "N 4"], b: Float32[np.ndarray, "M 4"]
) -> tuple[Int64[np.ndarray, "K"], Int64[np.ndarray, "K"]]:
    """Indices of the boxes that are each other's best, by intersection over union.

    Of thousands of boxes few lie close enough to be looked at: two that overlap by `SAME_FACE`
    differ in width at most by that factor, and in their left side by what is left of the width.
    """
    order = np.argsort(b[:, 0])
    reach = (1 / SAME_FACE - 1) * (a[:, 2] - a[:, 0])
    start = np.searchsorted(b[order, 0], a[:, 0] - reach)
    count = np.searchsorted(b[order, 0], a[:, 0] + reach, side="right") - start
    mine = np.repeat(np.arange(len(a)), count)
    nth = np.arange(len(mine)) - np.repeat(np.cumsum(count) - count, count)
    theirs = order[np.repeat(start, count) + nth]
    overlap = boxes_.overlap_of(a[mine], b[theirs])
    best = np.argsort(-overlap, kind="stable")
    best = best[overlap[best] >= SAME_FACE]
    mine, theirs = mine[best], theirs[best]
    _, first = np.unique(mine, return_index=True)
    _, their_first = np.unique(theirs, return_index=True)
    mutual = np.intersect1d(first, their_first)
    return mine[mutual], theirs[mutual]


def fragments(
    boxes: Float32[np.ndarray, "M 4"],
    scores: Float32[np.ndarray, "M"],
    levels: np.ndarray,
) -> Bool[np.ndarray, "M"]:
    """Which boxes are part of a large face that was found whole.

    A fragment was found at a finer scale than the whole face, or at the same one if the whole face
    is at least `LARGE` px. There are three kinds, told by their area as a part of the face's:

    - half of a face, seen alone, can look like a face. Such a box lies in the whole face's, has
      1/16 to 1/2 of its area and no better score.
    - an ear, an eye or a mouth can look like one, too. Such a box lies mostly in the `HEAD`, has
      1/100 to 1/4 of the area and a clearly worse score (`SURELY_WORSE`). A real face behind that
      head may be as small, but scores better.
    - so can less: the corner of an eye. Such a box lies within the face's oval and has less than
      1/100 of the area, a clearly worse score, and a face around it that is `VERY_SURE`.
    """
    area = boxes_.area(boxes)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    large = area >= LARGE**2
    is_fragment = np.zeros(len(boxes), dtype=bool)
    for whole in np.flatnonzero((levels > 0) | large):
        finer = (levels < levels[whole]) | (large[whole] & (levels == levels[whole]))
        part = area / area[whole]
        window = (
            (boxes_.intersection(boxes, boxes[whole]) >= 0.8 * area)
            & (part >= 1 / 16)
            # Overlapping as one face does: that is for non-maximum suppression to decide.
            & (part <= 1 / 2)
            & (scores <= scores[whole])
        )
        width, height = boxes[whole, 2:] - boxes[whole, :2]
        head = boxes[whole] + HEAD * np.array([width, height, width, height], np.float32)
        worse = scores <= SURELY_WORSE * scores[whole]
        feature = (
            (boxes_.intersection(boxes, head) >= 0.5 * area)
            & (part >= 1 / 100)
            & (part < 1 / 4)
            & worse
            & (scores[whole] >= SURE)
        )
        offset = (centres - centres[whole]) / np.array([width / 2, height / 2])
        speck = (
            ((offset**2).sum(axis=1) <= OVAL**2)
            & (part < 1 / 100)
            & worse
            & (scores[whole] >= VERY_SURE)
        )
        is_fragment |= finer & (window | feature | speck)
    return is_fragment
