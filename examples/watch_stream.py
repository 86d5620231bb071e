"""Say who comes and goes before a camera.

    python watch_stream.py rtsp://…|0|FILE

Goes on until Ctrl-C, or to the end of a file; a camera that dies is waited for.
"""

import sys

from faceresnet import FaceDetector
from faceresnet.apps.watch.events import Event
from faceresnet.apps.watch.loop import Watch
from faceresnet.video.addresses import parse_sources


def tell(event: Event) -> None:
    """Print an event; `event.crop` holds the best picture of the face."""
    print(f"{event.at:%H:%M:%S} {event.camera}: {event.kind}, now {event.count} faces", flush=True)


detector = FaceDetector()
sources = parse_sources([f"camera={sys.argv[1]}"])
watch = Watch(detector, sources, threshold=detector.spec.threshold, on_event=tell)
try:
    watch.run()
except KeyboardInterrupt:
    watch.stop()
