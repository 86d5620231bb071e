"""Find the faces in a folder of photos, as a table.

python folder_to_csv.py FOLDER OUT.csv
"""

import sys
from pathlib import Path

from faceresnet import FaceDetector, ImageError

folder, out = map(Path, sys.argv[1:])
detector = FaceDetector(threshold=0.5)
with out.open("w", encoding="utf-8", newline="") as table:
    table.write("image,x1,y1,x2,y2,score\n")
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"):
            try:
                table.write(detector(path).to_csv(path.name, header=False))
            except ImageError as error:
                print(error, file=sys.stderr)
