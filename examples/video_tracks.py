"""Who is in a video, from when to when.

python video_tracks.py VIDEO
"""

import sys

from faceresnet import FaceDetector
from faceresnet.video.reading import open_video
from faceresnet.video.tracks import Tracker

detector = FaceDetector()
first: dict[int, float] = {}
last: dict[int, float] = {}
with open_video(sys.argv[1]) as video:
    track = Tracker(video.rate, threshold=detector.spec.threshold)
    for frame in video:
        for face in track(detector(frame.image), frame.time_s).tolist():
            if face >= 0:  # one that was seen in two frames or more
                first.setdefault(face, frame.time_s)
                last[face] = frame.time_s
for face in first:
    print(f"face {face}: from {first[face]:.1f} to {last[face]:.1f} s")
