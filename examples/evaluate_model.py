"""How good a model is on labelled photos.

    python evaluate_model.py DATA [MODEL]

DATA is laid out as WIDER FACE. By the command line: faceresnet evaluate --data DATA --model MODEL
"""

import sys

from faceresnet import FaceDetector
from faceresnet.evaluation import evaluate
from faceresnet.protocols import EVALUATION_THRESHOLD, predict
from faceresnet.widerface import read_split

data, model = (*sys.argv[1:], "faceresnet-n")[:2]
photos = read_split(data, "val")
detector = FaceDetector(
    model, threshold=EVALUATION_THRESHOLD, tile=False, pyramid=False, crowds=False
)

found = predict(detector, photos)  # each looked at once, as it is
report = evaluate(found, photos, protocol="original", threshold=detector.spec.threshold)
print(f"AP {report.ap:.3f} on {len(photos)} photos")
for size in report.sizes:
    if size.faces:
        print(f"faces of {size.low:g} to {size.high:g} px: {size.faces}, found {size.recall:.0%}")
