from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faceresnet.video.delay import BEHIND_FOR_S, BEHIND_S, Delay

FPS = 25


@dataclass
class Packet:
    dts: int | None
    is_keyframe: bool = False
    pts: int | None = None
    time_base: Fraction = Fraction(1, FPS)


class Decoder:
    """Reads packets of a camera by a clock of its own, each in `work_s`, if it is not skipped."""

    def __init__(self, work_s=0.0, drift=1.0, key_every=50):
        self.now_s = 1000.0
        self.delay = Delay(lambda: self.now_s)
        self.work_s, self.drift, self.key_every = work_s, drift, key_every
        self.start_s, self.number = self.now_s, 0

    def read(self, seconds):
        """Read for so long by the camera's clock; how late each decoded frame was, and skips."""
        late_s, skipped = [], 0
        for _ in range(int(seconds * FPS)):
            due_s = self.start_s + self.number / FPS * self.drift
            self.now_s = max(self.now_s, due_s)
            if self.delay.skip(Packet(self.number, self.number % self.key_every == 0)):
                skipped += 1
            else:
                self.now_s += self.work_s
                late_s.append(self.now_s - due_s)
            self.number += 1
        return late_s, skipped


def test_a_decoder_that_keeps_up_skips_nothing():
    assert Decoder(work_s=0.9 / FPS).read(600)[1] == 0


def test_clocks_that_drift_apart_are_no_delay():
    assert Decoder(drift=1.001).read(2400)[1] == 0
    assert Decoder(drift=0.999).read(2400)[1] == 0


@settings(deadline=None, max_examples=20)
@given(work=st.floats(1.1, 4.0), key_every=st.integers(1, 100))
def test_a_decoder_too_slow_is_never_far_behind(work, key_every):
    decoder = Decoder(work_s=work / FPS, key_every=key_every)
    late_s, skipped = decoder.read(120)
    assert skipped
    longest_s = (BEHIND_S + BEHIND_FOR_S) * work
    assert max(late_s) < longest_s + 1
    assert len(late_s) > 10, "it shows something, too"


def test_decoding_starts_again_at_a_key_frame():
    decoder = Decoder(work_s=2 / FPS)
    skips = []
    for _ in range(3000):
        decoder.now_s = max(decoder.now_s, decoder.start_s + decoder.number / FPS)
        packet = Packet(decoder.number, decoder.number % 50 == 0)
        skips.append((decoder.delay.skip(packet), packet.is_keyframe))
        decoder.now_s += 0 if skips[-1][0] else decoder.work_s
        decoder.number += 1
    resumed = [now for before, now in pairwise(skips) if before[0] > now[0]]
    assert len(resumed) > 3
    assert all(key for _, key in resumed)


def test_a_stall_of_the_network_that_is_caught_up_by_decoding_loses_nothing():
    decoder = Decoder(work_s=0.2 / FPS)
    decoder.read(60)
    decoder.now_s += 5
    assert decoder.read(60)[1] == 0


@pytest.mark.parametrize("jump_s", [-3600, -10, 10, 3600])
def test_a_camera_that_sets_its_clock_is_not_late(jump_s):
    decoder = Decoder()
    decoder.read(60)
    decoder.number += jump_s * FPS
    decoder.start_s -= jump_s
    assert decoder.read(60)[1] == 0


def test_packets_without_a_time_are_decoded():
    assert not Delay().skip(Packet(None))
    assert not Delay().skip(Packet(None, pts=3))


def test_times_that_are_no_clock_lose_a_moment_at_most():
    """A camera of 10 frames/s whose packets are stamped as if there were 25."""
    decoder = Decoder(drift=2.5)
    assert decoder.read(60)[1] * 2.5 / FPS < 2.5
    assert decoder.read(600)[1] == 0


def test_a_network_too_slow_for_the_stream_shows_what_comes():
    decoder = Decoder(drift=1.2)
    decoder.read(60)
    late_s, skipped = decoder.read(600)
    assert skipped == 0
    assert len(late_s) == 600 * FPS
