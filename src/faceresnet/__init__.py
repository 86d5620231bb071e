"""Dense face detection: find every face in a photo, from 6 px to frame-filling."""

__version__ = "0.1.0"
