"""Fine-tune the shipped model on your own photos.

    python train_own.py DATA RUN MODEL.onnx [SET …]

DATA is laid out as WIDER FACE. A SET changes a number of the recipe, as in schedule.iterations=300.
If your boxes are exact to the pixel, which WIDER FACE's are not: augmentation.shortfall=0 excess=0.
The result inherits the shipped weights' licence note (MODEL_CARD.md): they start it.
The command line's way: faceresnet train --init faceresnet-n --set …
"""

import sys
from pathlib import Path

from faceresnet import FaceDetector, weights
from faceresnet.train import export, loop, recipes, runs, settings
from faceresnet.widerface import read_split

#: Shorter and gentler than from nothing.
FINE_TUNING = ["schedule.iterations=1000", "schedule.rate=3e-4", "schedule.warmup=50"]

data, run, out = map(Path, sys.argv[1:4])
recipe = settings.override(recipes.recipe("faceresnet-n"), FINE_TUNING + sys.argv[4:])
start = weights.SHIPPED / "faceresnet-n.safetensors"
loop.train(recipe, read_split(data, "train"), read_split(data, "val"), run, init=start, workers=0)
recipe, model = export.load_run(run)
export.export(model, runs.make_spec(recipe, name=out.stem), out)
print(f"{out}: ready for FaceDetector({str(out)!r}), threshold {FaceDetector(out).spec.threshold}")
