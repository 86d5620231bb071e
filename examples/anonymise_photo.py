"""Cover every face of a photo and drop its metadata.

    python anonymise_photo.py PHOTO OUT

Look at the result before it goes out: no detector finds every face.
"""

import sys
from pathlib import Path

from faceresnet import FaceDetector
from faceresnet.apps.anonymise import Covering, anonymise_photo, locate_with

photo, out = map(Path, sys.argv[1:])
locate = locate_with(FaceDetector())  # with a lower threshold: a missed face is the costly error
covered = anonymise_photo(photo, out, locate, Covering("pixelate", margin=0.3))
print(f"{covered.faces} faces covered in {out}")
