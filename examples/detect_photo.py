"""Find the faces in a photo, print them and draw them.

python detect_photo.py PHOTO OUT.png
"""

import sys

from faceresnet import FaceDetector, images

photo, out = sys.argv[1:]
image = images.read(photo)  # RGB uint8 (height, width, 3), upright
faces = FaceDetector()(image)
for (x1, y1, x2, y2), score in faces:
    print(f"{score:.2f}: {x1:.0f} {y1:.0f} to {x2:.0f} {y2:.0f} px")
images.write(faces.draw(image), out)
