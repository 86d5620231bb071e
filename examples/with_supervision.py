"""Go to supervision and come back.

python with_supervision.py PHOTO OUT.png
"""

import sys

import supervision as sv

from faceresnet import Detections, FaceDetector, images

photo, out = sys.argv[1:]
image = images.read(photo)
found = FaceDetector()(image).to_supervision()
large = found[found.area > 40 * 40]  # its own filters, zones and trackers work as ever
print(f"{len(large)} of {len(found)} faces are larger than 40×40 px")
drawn = sv.RoundBoxAnnotator().annotate(image.copy(), large)
images.write(drawn, out)
faces = Detections.from_supervision(large, size=image.shape[:2])
print(faces.to_json(photo))
