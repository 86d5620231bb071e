"""A window that shows a video while it is looked at."""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import Self

from faceresnet import images
from faceresnet.errors import VideoError

#: Keys that end the show: q, Q and escape.
QUIT = frozenset({ord("q"), ord("Q"), 27})


class Window:
    """Shows pictures, from the main thread only; a context manager.

    with Window("clip.mp4") as window:
        while window(image): ...
    """

    def __init__(self, title: str) -> None:
        """Args:
            title: of the window.

        Raises:
            VideoError: this OpenCV draws no windows, or there is no screen.
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
        self._title = title

    def __enter__(self) -> Self:
        return self

    def __call__(self, image: images.Image) -> bool:
        """Show a picture; False when the user closed the window or pressed q or escape.

        Raises:
            VideoError: the screen cannot be drawn on.
        """
        import cv2

        try:
            cv2.imshow(self._title, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            pressed = cv2.waitKey(1) & 0xFF
            return pressed not in QUIT and cv2.getWindowProperty(self._title, 0) >= 0
        except cv2.error as error:
            raise VideoError(f"no window can be shown: {error.err or error}") from error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        import cv2

        cv2.destroyAllWindows()
