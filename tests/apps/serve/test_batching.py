"""Photos of many requests in one batch: which, how many, and what happens when one goes wrong."""

import threading
import time

import numpy as np
import pytest

from conftest import blob_image
from faceresnet.apps.serve import batching
from faceresnet.apps.serve.batching import Batcher, Job
from faceresnet.apps.serve.refusals import Refusal

from .conftest import encode, grey, wait_for

WAIT_S = 20


@pytest.fixture
def make(fake):
    """Start batchers with the fake detector, closed after the test."""
    batchers = []

    def make(**options):
        batchers.append(Batcher(fake, **options))
        return batchers[-1]

    yield make
    fake.gate.set()
    for batcher in batchers:
        batcher.close()


def busy(batcher, fake):
    """Keep the detector busy with a photo of its own; gives that photo's job."""
    fake.gate.clear()
    job = Job(grey(8, 8), 0.5)
    batcher.submit([job])
    assert fake.entered.wait(WAIT_S)
    return job


def submit(batcher, *sizes, threshold=0.5):
    jobs = [Job(grey(*size), threshold) for size in sizes]
    batcher.submit(jobs)
    return jobs


def finish(fake, jobs):
    fake.gate.set()
    return [job.future.result(WAIT_S) for job in jobs]


def wait_until_ready(batcher, count):
    wait_for(lambda: len(batcher._ready) == count)


def test_one_photo_alone_is_not_kept_waiting(make, fake):
    found = finish(fake, submit(make(), (32, 48)))
    assert found[0].faces.size == (32, 48)
    assert fake.batches == [[(32, 48)]]


def test_what_gathers_while_the_detector_is_busy_goes_together(make, fake):
    batcher = make(batch_size=4)
    busy(batcher, fake)
    jobs = submit(batcher, *[(32, 32)] * 6)
    wait_until_ready(batcher, 6)
    finish(fake, jobs)
    assert [len(batch) for batch in fake.batches] == [1, 4, 2]


def test_a_batch_is_a_power_of_two(make, fake):
    batcher = make(batch_size=8)
    busy(batcher, fake)
    jobs = submit(batcher, *[(32, 32)] * 7)
    wait_until_ready(batcher, 7)
    finish(fake, jobs)
    assert [len(batch) for batch in fake.batches] == [1, 4, 2, 1]


def test_only_photos_of_like_size_and_threshold_go_together(make, fake):
    """(30, 40) and (32, 64) are the same to the network, which pads to multiples of 32."""
    batcher = make()
    busy(batcher, fake)
    jobs = submit(batcher, (30, 40), (64, 64), (32, 64), (100, 32), (64, 40))
    jobs += submit(batcher, (32, 64), threshold=0.3)
    wait_until_ready(batcher, 6)
    finish(fake, jobs)
    assert fake.batches[1:] == [[(30, 40), (32, 64)], [(64, 64), (64, 40)], [(100, 32)], [(32, 64)]]


def test_everyone_gets_the_faces_of_the_own_photo(make, fake):
    batcher = make(batch_size=4)
    busy(batcher, fake)
    sizes = [(40 + number % 5, 50 + number) for number in range(14)]
    jobs = submit(batcher, *sizes)
    assert [found.faces.size for found in finish(fake, jobs)] == sizes


def test_batches_say_what_they_did(fake):
    told = []
    batcher = Batcher(
        fake,
        on_read=lambda s: told.append("read"),
        on_detected=lambda count, s: told.append(count),
    )
    found = finish(fake, submit(batcher, (32, 32)))[0]
    batcher.close()
    assert told == ["read", 1]
    assert min(found.wait_s, found.read_s, found.detect_s) >= 0


def test_a_broken_photo_fails_alone(make, fake):
    batcher = make()
    jobs = [Job(grey(32, 32), 0.5), Job(grey(32, 32)[:60], 0.5), Job(b"text", 0.5)]
    batcher.submit(jobs)
    assert jobs[0].future.result(WAIT_S)
    codes = [job.future.exception(WAIT_S).code for job in jobs[1:]]
    assert codes == ["unreadable_image", "unsupported_type"]
    wait_for(lambda: batcher.held == 0)


def test_a_photo_that_the_detector_fails_on_does_not_take_others_along(make, fake):
    def fails(image):
        if image[0, 0, 0] == 0:
            raise RuntimeError("out of order")

    batcher = make()
    busy(batcher, fake)
    fake.fails = fails
    jobs = submit(batcher, (32, 32), (32, 32), (32, 32))
    bad = Job(encode(np.zeros((32, 32, 3), np.uint8), "PNG"), 0.5)
    batcher.submit([bad])
    wait_until_ready(batcher, 4)
    finish(fake, jobs)
    with pytest.raises(RuntimeError, match="out of order"):
        bad.future.result(WAIT_S)
    assert finish(fake, submit(batcher, (32, 32)))
    wait_for(lambda: batcher.held == 0)


def test_a_full_queue_takes_all_of_a_request_or_nothing(make, fake):
    batcher = make(queue_size=4)
    first = busy(batcher, fake)
    jobs = submit(batcher, (32, 32), (32, 32))
    assert not batcher.full
    with pytest.raises(Refusal) as refused:
        submit(batcher, (32, 32), (32, 32))
    assert refused.value.code == "queue_full"
    jobs += submit(batcher, (32, 32))
    assert batcher.full
    finish(fake, [first, *jobs])
    wait_for(lambda: batcher.held == 0)


def test_nobody_looks_at_photos_that_nobody_waits_for(make, fake):
    batcher = make()
    busy(batcher, fake)
    jobs = submit(batcher, (32, 32), (32, 32), (64, 64))
    wait_until_ready(batcher, 3)
    batcher.forget([jobs[0], jobs[2]])
    finish(fake, jobs[1:2])
    wait_for(lambda: batcher.held == 0)
    assert fake.batches[1:] == [[(32, 32)]]


def test_photos_that_nobody_waits_for_leave_the_queue_at_once(make, fake):
    batcher = make(batch_size=1)
    first = busy(batcher, fake)
    jobs = submit(batcher, *[(32, 32)] * 5)
    wait_until_ready(batcher, 2)
    batcher.forget(jobs)
    assert batcher.held == 3  # that in work and two that were read
    assert not batcher._waiting
    assert all(job.future.cancelled() for job in jobs)
    batcher.forget([first, *jobs])  # once more does no harm
    assert batcher.held == 3
    fake.gate.set()
    wait_for(lambda: batcher.held == 0)


def test_photos_that_wait_stay_encoded(make, fake):
    """Only two batches are decoded ahead of the detector."""
    batcher = make(batch_size=2)
    busy(batcher, fake)
    jobs = submit(batcher, *[(32, 32)] * 12)
    wait_until_ready(batcher, 4)
    time.sleep(0.1)
    assert [bool(job.content) for job in jobs] == [False] * 4 + [True] * 8
    finish(fake, jobs)
    assert all(job.image is None and not job.content for job in jobs)


def test_decoded_pixels_are_bounded(make, fake):
    """Two of the largest photos at a time; a large one is not overtaken by small ones."""
    batcher = make(max_pixels=100 * 100)
    busy(batcher, fake)
    jobs = submit(batcher, (100, 100), (100, 100), (8, 8), (8, 8))
    wait_until_ready(batcher, 1)
    time.sleep(0.1)
    assert len(batcher._ready) == 1
    assert batcher._pixels == 64 + 10_000
    finish(fake, jobs)
    wait_for(lambda: batcher._pixels == 0)
    assert batcher.held == 0


def test_boxes_of_a_reduced_photo_are_those_of_the_whole(make, fake):
    batcher = make()
    job = Job(grey(200, 400), 0.5, max_side=100)
    batcher.submit([job])
    faces = job.future.result(WAIT_S).faces
    assert fake.batches == [[(50, 100)]]
    assert faces.size == (200, 400)
    assert faces.boxes.tolist() == [[100, 50, 200, 100]]


def test_closing_refuses_what_waits_and_ends_the_threads(fake):
    before = threading.active_count()
    batcher = Batcher(fake, batch_size=1)
    busy_job = busy(batcher, fake)
    jobs = submit(batcher, *[(32, 32)] * 5)
    wait_until_ready(batcher, 2)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    for job in jobs:
        assert job.future.exception(WAIT_S).code == "not_ready"
    fake.gate.set()
    closing.join(WAIT_S)
    assert busy_job.future.result(0).faces
    assert threading.active_count() == before
    with pytest.raises(Refusal, match="about to stop"):
        submit(batcher, (32, 32))


def test_the_real_detector_gives_the_same_in_batches(blob_detector):
    sizes = [(96, 96), (64, 128), (96, 90)]
    contents = [
        encode(blob_image(sizes[number % 3], (36 + 8 * (number % 4), 36, 18)), "PNG")
        for number in range(24)
    ]
    batcher = Batcher(blob_detector, batch_size=4)
    jobs = [Job(content, 0.5) for content in contents]
    batcher.submit(jobs)
    for content, job in zip(contents, jobs, strict=True):
        assert job.future.result(WAIT_S).faces == blob_detector(content)
    batcher.close()


def test_a_reader_survives_running_out_of_memory(make, fake, monkeypatch):
    batcher = make()
    read = batching.photos.read
    failures = iter([MemoryError("no more")])

    def fails_once(content, max_pixels):
        for error in failures:
            raise error
        return read(content, max_pixels)

    monkeypatch.setattr(batching.photos, "read", fails_once)
    jobs = submit(batcher, (32, 32), (32, 32))
    assert isinstance(jobs[0].future.exception(WAIT_S), MemoryError)
    assert jobs[1].future.result(WAIT_S)
    wait_for(lambda: batcher.held == 0 and batcher._pixels == 0)
