"""OpenVINO without its telemetry: a face detector tells nobody that it runs."""

from __future__ import annotations

import sys
import threading
from types import ModuleType

_lock = threading.Lock()
_REPORTER = "openvino_telemetry"


def import_openvino() -> ModuleType:
    """``import openvino``, which otherwise reports each import to Google Analytics.

    It does so under an identity that it writes into the user's home, from a process that it forks
    where other threads may hold locks. It runs without the package that reports, so that package is
    hidden during the import. If OpenVINO was imported before this call, nothing is changed.
    """
    with _lock:
        if "openvino" not in sys.modules:
            before = sys.modules.get(_REPORTER)
            sys.modules[_REPORTER] = None  # type: ignore[assignment]  # importing it fails
            try:
                import openvino
            finally:
                if before is None:
                    del sys.modules[_REPORTER]
                else:
                    sys.modules[_REPORTER] = before
        import openvino
    return openvino
