"""How far a decoder is behind its camera, and when to skip what it cannot keep up with."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import av

#: A decoder this far behind the camera, for this long, skips to the newest key frame, s.
BEHIND_S, BEHIND_FOR_S = 1.5, 2.0
#: So far behind is caught up, s.
CAUGHT_UP_S = 0.3
#: Skipping that does not catch up within so long does not help: the network is slow, or what
#: stands in the packets is no clock, s.
USELESS_S = 2.0
#: Larger steps in a stream's clock are jumps of the clock, s.
CLOCK_JUMP_S = 5.0
#: How fast the clocks of camera and computer may drift apart, s in a second: 40 times as fast as
#: those of bad crystals.
CLOCK_DRIFT = 0.002


class Delay:
    """How far a decoder is behind its camera, by the clock in the packets.

    The packet that came soonest after its own time sets what "not behind" is. A decoder that stays
    behind skips packets until it reads the newest ones, then waits for a key frame. Where that
    does not help, it never skips again.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._least: float | None = None
        self._last: tuple[float, float] | None = None
        self._behind_since: float | None = None
        self._skipping_since: float | None = None
        self._useless = False

    def skip(self, packet: av.Packet[Any]) -> bool:
        """Whether to pass over a packet without decoding it."""
        stamp = packet.dts if packet.dts is not None else packet.pts
        if stamp is None or packet.time_base is None:
            return False
        now_s = self._clock()
        behind_s = self._measure(float(stamp * packet.time_base), now_s)
        if self._useless:
            return False
        if self._skipping_since is not None:
            if behind_s <= CAUGHT_UP_S:
                if packet.is_keyframe:
                    self._skipping_since = None
            elif now_s - self._skipping_since > USELESS_S:
                self._skipping_since, self._useless = None, True
        elif behind_s < BEHIND_S:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = now_s
        elif now_s - self._behind_since > BEHIND_FOR_S:
            self._skipping_since, self._behind_since = now_s, None
        return self._skipping_since is not None

    def _measure(self, stamp_s: float, now_s: float) -> float:
        offset = now_s - stamp_s
        if self._last is not None and self._least is not None:
            step_s = stamp_s - self._last[0]
            if -CLOCK_JUMP_S < step_s < CLOCK_JUMP_S + (now_s - self._last[1]):
                drift_s = CLOCK_DRIFT * max(0.0, now_s - self._last[1])
                self._least = min(self._least + drift_s, offset)
            else:
                self._least = offset
        else:
            self._least = offset
        self._last = stamp_s, now_s
        return offset - self._least
