"""Faces in the frames between two looks of the detector."""

from __future__ import annotations

import numpy as np

from faceresnet.detections import Detections


def between(before: Detections, after: Detections, part: float) -> Detections:
    """Guess the faces of a frame that the detector did not see.

    A track seen in both looks moves from one to the other in a straight line. A face of only one of
    them, or of no track, stays where it was for the half of the time that is nearer to its look.

    Args:
        before: (M,) of the look before, with tracks.
        after: (M',) of the look after, with tracks.
        part: of the time between them that has passed, 0..1.

    Returns:
        Detections with tracks: first those that moved, in the order of `before`, then those that
        stayed, in the order of their look.
    """
    near = before if part < 0.5 else after
    if before.tracks is None or after.tracks is None or before.size != after.size:
        return near
    there = {track: number for number, track in enumerate(after.tracks.tolist()) if track >= 0}
    pairs = [
        (number, there[track])
        for number, track in enumerate(before.tracks.tolist())
        if track in there
    ]
    old, new = (np.array([pair[side] for pair in pairs], dtype=np.int64) for side in (0, 1))
    near_tracks = before.tracks if part < 0.5 else after.tracks
    left = ~np.isin(near_tracks, before.tracks[old])
    stays = near[left]
    boxes = (1 - part) * before.boxes[old] + part * after.boxes[new]
    scores = (1 - part) * before.scores[old] + part * after.scores[new]
    return Detections(
        np.concatenate([boxes, stays.boxes]).astype(np.float32),
        np.concatenate([scores, stays.scores]).astype(np.float32),
        before.size,
        np.concatenate([before.tracks[old], near_tracks[left]]),
    )
