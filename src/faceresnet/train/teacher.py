"""Distillation: a trained detector says how sure one can be of each face (Hinton et al. 2015).

Labels know only faces and background. A better detector looks at the very images that the network
in training is shown, as they are disturbed: a face that is blurred beyond recognition counts less
as one, and what the annotators left out counts as much as it looks like a face. What the teacher
says is faces with scores, not the values of its anchors: its levels may be others than the pupil's.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8
from torch import Tensor

from faceresnet import boxes as boxes_
from faceresnet.anchors import make_anchors
from faceresnet.detector import postprocess
from faceresnet.engine import Engine, open_engine, read_spec
from faceresnet.pyramid import Found, agree, fragments
from faceresnet.relabel import inside
from faceresnet.train.targets import Faces
from faceresnet.train.yunet import YuNet
from faceresnet.weights import locate

#: A detection that overlaps a face by this IoU has seen it.
SEEN_IOU = 0.4
#: Least score of a detection that counts for a face of the labels.
FAINTEST = 0.05
#: YuNet sees the images enlarged by this factor.
ENLARGED = 2
#: It is asked for faces below this side (√area, px).
SMALL = 96.0
#: YuNet's share in the score and box of a face that the teachers see, too (`pyramid.agree`).
YUNETS_SHARE = 0.65


@dataclass(frozen=True)
class Distillation:
    """What teachers have to say.

    Attributes:
        teachers: shipped models' names or model files, which agree as two looks do
            (`pyramid.agree`); none leaves the labels alone.
        trust: share of the teachers' score in what the network is taught, the labels' is the rest;
            at 1 the labels have no part in it, nor have their boxes.
        least: least score of a face that only the teachers see.
        yunet: YuNet's .onnx file. It looks at the images enlarged, and what it finds below `SMALL`
            px is merged with what the teachers find. If empty, the teachers are alone.
    """

    teachers: tuple[str, ...] = ()
    trust: float = 0.5
    least: float = 0.5
    yunet: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.trust <= 1:
            raise ValueError(f"trust must be above 0 and at most 1, got {self.trust}")
        if not FAINTEST <= self.least <= 1:
            raise ValueError(f"least must lie in {FAINTEST}..1, got {self.least}")
        if self.yunet and not self.teachers:
            raise ValueError("yunet speaks together with a teacher: name one")

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
    """Models that look at training images, on the CPU.

    They are opened once for each shape of images: compiled for one alone, they always say the same.

    Args:
        distillation: which, and what they have to say.

    Raises:
        ModelError: there is no such model, or its file is broken.
    """

    def __init__(self, distillation: Distillation) -> None:
        self.distillation = distillation
        self._files = [locate(teacher) for teacher in distillation.teachers]
        for file in self._files:
            read_spec(file)
        self._engines: dict[tuple[int, ...], list[Engine]] = {}
        self._yunet: YuNet | None = None
        if distillation.yunet:
            self._yunet = YuNet(distillation.yunet, torch.get_num_threads(), FAINTEST)

    def __call__(self, images: Tensor, faces: Faces) -> Faces:
        """The faces with the scores to teach them with, and after them those that labels lack.

        Args:
            images: (N, S, S, 3) uint8.
            faces: as labelled.
        """
        pixels = images.cpu().numpy()
        if self.distillation.trust == 1:
            faces = faces.none()
        boxes, ignore = faces.boxes.cpu().numpy(), faces.ignore.cpu().numpy()
        image, score = faces.image.cpu().numpy(), faces.score.cpu().numpy().copy()
        new_boxes, new_scores, new_images = [boxes[:0]], [score[:0]], [image[:0]]
        for index, (found, sure) in enumerate(self._look(pixels)):
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

    def _look(self, images: UInt8[np.ndarray, "N H W 3"]) -> list[Found]:
        """What the teachers see in each image, agreeing one after the other, YuNet last."""
        size = (images.shape[1], images.shape[2])
        together: list[Found] = []
        for engine in self._open(images.shape):
            anchors = make_anchors(engine.spec.levels, size)
            outputs = zip(*engine(images), strict=True)
            seen = [postprocess(*its, anchors, engine.spec, FAINTEST, size) for its in outputs]
            if together:
                seen = [agree(*both, inf) for both in zip(together, seen, strict=True)]
            together = seen
        if self._yunet is None:
            return together
        pairs = zip(images, together, strict=True)
        return [_with_yunet(self._yunet, image, found) for image, found in pairs]

    def _open(self, shape: tuple[int, ...]) -> list[Engine]:
        if shape not in self._engines:
            threads = torch.get_num_threads()
            self._engines[shape] = [open_engine(file, threads=threads) for file in self._files]
        return self._engines[shape]


def _with_yunet(yunet: YuNet, image: UInt8[np.ndarray, "H W 3"], found: Found) -> Found:
    """What teachers, who found this in an image, and YuNet say together."""
    import cv2

    size = (image.shape[1] * ENLARGED, image.shape[0] * ENLARGED)
    closer = yunet(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC))
    its_boxes = closer.boxes / np.float32(ENLARGED)
    small = boxes_.area(its_boxes) < SMALL**2
    boxes, scores = agree(found, (its_boxes[small], closer.scores[small]), SMALL, YUNETS_SHARE)
    whole = ~fragments(boxes, scores, np.zeros(len(boxes), np.int64))
    return boxes[whole], scores[whole]
