"""Write the faces of photos into XMP sidecars, as digiKam reads them.

python tag_photo.py PHOTO …
"""

import sys

from faceresnet import FaceDetector
from faceresnet.apps.tag import TagOptions, tag

detector = FaceDetector()
for photo in sys.argv[1:]:
    tagged = tag(photo, detector(photo), TagOptions())
    print(
        f"{photo}: {tagged.faces} faces, {'written to' if tagged.changed else 'already in'} "
        f"{tagged.target}"
    )
