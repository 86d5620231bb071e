"""Distillation: a trained detector says how sure one can be of each face (Hinton et al. 2015).

Labels know only faces and background. A better detector looks at the very images that the network
in training is shown, as they are disturbed: a face that is blurred beyond recognition counts less
as one, and what the annotators left out counts as much as it looks like a face. What the teacher
says is faces with scores, not the values of its anchors: its levels may be others than the pupil's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from faceresnet import boxes as boxes_
from faceresnet.anchors import make_anchors
from faceresnet.detector import postprocess
from faceresnet.engine import Engine, open_engine, read_spec
from faceresnet.relabel import inside
from faceresnet.train.targets import Faces
from faceresnet.weights import locate

#: A detection that overlaps a face by this IoU has seen it.
SEEN_IOU = 0.4
#: Least score of a detection that counts for a face of the labels.
FAINTEST = 0.05


@dataclass(frozen=True)
class Distillation:
    """What a teacher has to say.

    Attributes:
        teacher: a shipped model's name or a model file; none teaches from the labels alone.
        trust: share of the teacher's score in what the network is taught, the labels' is the rest.
        least: least score of a face that only the teacher sees.
    """

    teacher: str = ""
    trust: float = 0.5
    least: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.trust <= 1:
            raise ValueError(f"trust must be above 0 and at most 1, got {self.trust}")
        if not FAINTEST <= self.least <= 1:
            raise ValueError(f"least must lie in {FAINTEST}..1, got {self.least}")

    def judge(
        self,
        labelled: Float32[np.ndarray, "G 4"],
        ignore: Bool[np.ndarray, "G"],
        found: Float32[np.ndarray, "M 4"],
        sure: Float32[np.ndarray, "M"],
    ) -> tuple[Float32[np.ndarray, "G"], Float32[np.ndarray, "K 4"], Float32[np.ndarray, "K"]]:
        """What to teach of one image.

        A face of the labels that the teacher does not see keeps 1 − `trust`; one that only the
        teacher sees gets `trust` of its score, or all of it where the labels say nothing, inside
        an ignored box.

        Args:
            labelled: boxes, px.
            ignore: which of them are neither faces nor background.
            found: the teacher's detections, px.
            sure: their scores.

        Returns:
            scores of the labelled boxes, and boxes and scores of K more faces.
        """
        seen = boxes_.iou(labelled, found) >= SEEN_IOU
        believed = np.max(sure * seen, axis=1, initial=0)
        scores = np.where(ignore, 1, 1 - self.trust + self.trust * believed)
        new = (sure >= self.least) & ~seen[~ignore].any(axis=0)
        unsaid = inside(found[new], labelled[ignore])
        weight = np.where(unsaid, 1, self.trust).astype(np.float32)
        return scores.astype(np.float32), found[new], sure[new] * weight


class Teacher:
    """A model that looks at training images, on the CPU.

    It is opened once for each shape of images: compiled for one alone, it always says the same.

    Args:
        distillation: which, and what it has to say.

    Raises:
        ModelError: there is no such model, or its file is broken.
    """

    def __init__(self, distillation: Distillation) -> None:
        self.distillation = distillation
        self._file = locate(distillation.teacher)
        read_spec(self._file)
        self._engines: dict[tuple[int, ...], Engine] = {}

    def __call__(self, images: Tensor, faces: Faces) -> Faces:
        """The faces with the scores to teach them with, and after them those that labels lack.

        Args:
            images: (N, S, S, 3) uint8.
            faces: as labelled.
        """
        engine = self._open(tuple(images.shape))
        size = (images.shape[1], images.shape[2])
        anchors = make_anchors(engine.spec.levels, size)
        logits, deltas = engine(images.cpu().numpy())
        boxes, ignore = faces.boxes.cpu().numpy(), faces.ignore.cpu().numpy()
        image, score = faces.image.cpu().numpy(), faces.score.cpu().numpy().copy()
        new_boxes, new_scores, new_images = [boxes[:0]], [score[:0]], [image[:0]]
        for index in range(len(images)):
            found, sure = postprocess(
                logits[index], deltas[index], anchors, engine.spec, FAINTEST, size
            )
            own = image == index
            score[own], extra, extra_sure = self.distillation.judge(
                boxes[own], ignore[own], found, sure
            )
            new_boxes.append(extra)
            new_scores.append(extra_sure)
            new_images.append(np.full(len(extra), index))
        added = np.concatenate(new_boxes)
        columns = (
            np.concatenate([boxes, added]),
            np.concatenate([image, *new_images]),
            np.concatenate([ignore, np.zeros(len(added), bool)]),
            np.concatenate([score, *new_scores]),
        )
        return Faces(*(torch.from_numpy(column).to(faces.boxes.device) for column in columns))

    def _open(self, shape: tuple[int, ...]) -> Engine:
        if shape not in self._engines:
            self._engines[shape] = open_engine(self._file, threads=torch.get_num_threads())
        return self._engines[shape]
