"""All photos below a folder on all cores, resumable.

    python batch_folder.py FOLDER OUT

Start it again after any break, and it goes on; read the rows while it runs or when it is done.
"""

import sys

from faceresnet.apps import batch

source, out = sys.argv[1:]
summary = batch.run(source, out, batch.BatchOptions(threshold=0.6, max_side=1920))
print(f"{summary.photos} photos, {summary.faces} faces, {summary.errors} not read")
for row in batch.read_rows(out):
    print(row["source"], row["error"] or len(row["faces"]))
