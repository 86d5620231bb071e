"""The engine ``local``: worker processes on this machine."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from faceresnet.apps.batch.options import Plan
from faceresnet.apps.batch.shards import Part, Shard, make_part
from faceresnet.apps.batch.supervisor import Supervisor


def detect_shards(
    shards: Iterable[Shard],
    plan: Plan,
    workers: int,
    timeout_s: float,
    on_photos: Callable[[int], None],
) -> Iterator[Part]:
    """Look at shards in worker processes; parts come as they are done.

    Args:
        shards: taken as they are needed.
        plan: what to do.
        workers: how many at a time.
        timeout_s: a photo may take this long.
        on_photos: called with the number of photos just done, from any thread.

    Raises:
        EngineError: workers cannot start here.
    """
    supervisors = [Supervisor(plan, timeout_s) for _ in range(workers)]
    idle: queue.LifoQueue[Supervisor] = queue.LifoQueue()
    for supervisor in supervisors:
        idle.put(supervisor)

    def work(shard: Shard) -> Part:
        supervisor = idle.get()
        try:
            return make_part(shard, plan, supervisor, lambda: on_photos(1))
        finally:
            idle.put(supervisor)

    pool = ThreadPoolExecutor(workers)
    running: set[Future[Part]] = set()
    try:
        for shard in shards:
            running.add(pool.submit(work, shard))
            if len(running) > workers:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    finally:
        for future in running:
            future.cancel()
        for supervisor in supervisors:
            supervisor.close()
        pool.shutdown()
