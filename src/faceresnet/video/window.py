"""A window that shows a video while it is looked at."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from faceresnet import images
from faceresnet.errors import VideoError

#: Keys that end the show: q, Q and escape.
QUIT = frozenset({ord("q"), ord("Q"), 27})
#: px of the screen; a larger picture opens reduced to this.
LONGER_SIDE = 1280


class Window:
    """Shows pictures, from the main thread only; a context manager.

        with Window("clip.mp4") as window:
            while window(image): ...

    It must be there before `open_video` imports PyAV, which brings system libraries of its own: the
    Qt of OpenCV freezes with them where it opens its first window.
    """

    def __init__(self, title: str) -> None:
        """Args:
            title: of the window.

        Raises:
            VideoError: this OpenCV draws no windows, there is no screen, or PyAV came first.
        """
        import cv2

        build = cv2.getBuildInformation()
        gui = next((line.split()[-1] for line in build.splitlines() if "GUI:" in line), "NONE")
        if gui == "NONE":
            raise VideoError(
                "a window needs OpenCV with its graphical part, this one has none: "
                "pip uninstall opencv-python-headless, then pip install --force-reinstall "
                "opencv-python; or write a file with --save"
            )
        screens = ("DISPLAY", "WAYLAND_DISPLAY")
        if sys.platform == "linux" and not any(os.environ.get(name) for name in screens):
            raise VideoError(  # Qt would end the whole program
                "there is no screen for a window (DISPLAY is not set): write a file with --save"
            )
        if gui.startswith("QT") and sys.modules.get("av") is not None:
            raise VideoError(
                "a window must be opened before PyAV (av) is imported: make it before open_video"
            )
        self._title, self._sized = title, False
        with self._drawing():
            # Scalable, in the picture's proportions, and without Qt's row of buttons.
            cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
            cv2.waitKey(1)

    def __enter__(self) -> Self:
        return self

    def __call__(self, image: images.Image) -> bool:
        """Show a picture; False when the user closed the window or pressed q or escape.

        Raises:
            VideoError: the screen cannot be drawn on.
        """
        import cv2

        if self._is_closed():
            return False
        with self._drawing():
            if not self._sized:
                scale = min(1.0, LONGER_SIDE / max(image.shape[:2]))
                height, width = (max(1, round(side * scale)) for side in image.shape[:2])
                cv2.resizeWindow(self._title, width, height)
                self._sized = True
            cv2.imshow(self._title, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            return cv2.waitKey(1) & 0xFF not in QUIT

    def __exit__(self, *error: object) -> None:
        import cv2

        cv2.destroyAllWindows()

    def _is_closed(self) -> bool:
        import cv2

        try:
            return cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) == 0  # −1: not known
        except cv2.error:  # Qt, when its last window is gone
            return True

    @staticmethod
    @contextmanager
    def _drawing() -> Iterator[None]:
        import cv2

        try:
            yield
        except cv2.error as error:
            raise VideoError(f"no window can be shown: {error.err or error}") from error
