from __future__ import annotations

import numpy as np

from faceresnet.train.model import FaceResNet
from faceresnet.train.runs import make_spec
from faceresnet.train.training import TorchDetector
from train.samples import small_network, small_recipe


def test_the_detector_in_training_clips_to_photos_of_any_size():
    recipe = small_recipe()
    model = FaceResNet(small_network(prior=None)).eval()
    detector = TorchDetector(model, make_spec(recipe))
    for size in ((1, 1), (33, 70), (96, 64)):
        found = detector(np.zeros((*size, 3), np.uint8))
        assert found.boxes.shape == (len(found.scores), 4)
        assert (found.boxes >= 0).all()
        assert (found.boxes <= (size[1], size[0], size[1], size[0])).all()
