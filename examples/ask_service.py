"""Ask a running `faceresnet serve` for the faces in photos.

python ask_service.py ADDRESS PHOTO …
"""

import sys
from pathlib import Path

import httpx

address, *photos = sys.argv[1:]
files = [("file", (Path(photo).name, Path(photo).read_bytes())) for photo in photos]
answer = httpx.post(f"{address}/v1/detect", files=files, timeout=60)
answer.raise_for_status()  # 413, 415, 422, 429 …: the body says why
for image in answer.json()["images"]:
    print(f"{image['image']}: {len(image['faces'])} faces")
