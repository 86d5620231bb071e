"""The engine ``ray``: a pool of Ray actors, on this machine or on a cluster.

Each actor looks after one worker process that holds the model, as the engine ``local`` does, so
that both make the same rows and get over the same photos. Actors that are lost with their machine
are replaced by Ray, which gives their shards to others.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, replace
from itertools import islice
from pathlib import Path
from typing import Any

from faceresnet.apps.batch.listing import from_json, to_json
from faceresnet.apps.batch.options import Plan
from faceresnet.apps.batch.rows import Counts
from faceresnet.apps.batch.shards import Part, Shard, make_part
from faceresnet.apps.batch.supervisor import Supervisor
from faceresnet.errors import EngineError, last_line, needs

#: Photos whose names are in memory at a time: the stretch of the listing that one run of Ray Data
#: works on. At its end the actors wait for the slowest of them.
WINDOW_PHOTOS = 500_000


def detect_shards(
    shards: Iterable[Shard],
    plan: Plan,
    workers: int | None,
    timeout_s: float,
    on_photos: Callable[[int], None],
    address: str | None,
) -> Iterator[Part]:
    """Look at shards in Ray actors, else as `local.detect_shards`.

    There are so many `workers`; by default one for each core of the cluster, or for each graphics
    card where the model runs on one. The cluster is that of `address`; by default that of
    RAY_ADDRESS, one that runs on this machine, or one that is started for this job.

    Raises:
        MissingExtraError: Ray is not installed.
        EngineError: the cluster cannot be reached or lacks what is asked for, or workers cannot
            start.
    """
    with needs("faceresnet batch --engine ray", "ray"):
        import ray
        import ray.data
    ours = not ray.is_initialized()
    if ours:
        _connect(ray, address)
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        workers = workers or _workers(ray, plan)
        remaining = iter(shards)
        for first in remaining:
            size = max(1, WINDOW_PHOTOS // max(1, len(first.entries)))
            window = [first, *islice(remaining, size - 1)]
            for part in _detect_window(ray, window, plan, workers, timeout_s):
                on_photos(part.counts.photos)
                yield part
    finally:
        if ours:
            ray.shutdown()


def _connect(ray: Any, address: str | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster of ours reports to nobody
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise EngineError(f"cannot reach Ray: {error}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own would not end the job cleanly


def _workers(ray: Any, plan: Plan) -> int:
    resource = "CPU" if plan.options.on_cpu else "GPU"
    there = int(ray.cluster_resources().get(resource, 0))
    if not there:
        raise EngineError(
            f"this Ray cluster has no {resource}, which --device {plan.options.device} needs"
        )
    return there


def _detect_window(
    ray: Any, window: list[Shard], plan: Plan, workers: int, timeout_s: float
) -> Iterator[Part]:
    rows = [
        {"shard": shard.number, "entries": json.dumps([to_json(entry) for entry in shard.entries])}
        for shard in window
    ]
    looked = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Actor,
        fn_constructor_args=(plan, timeout_s),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(workers, len(rows))),
        num_cpus=1 if plan.options.on_cpu else 0,
        num_gpus=0 if plan.options.on_cpu else 1,
    )
    try:
        for row in looked.iter_rows():
            yield Part(row["shard"], row["content"], Counts(*row["counts"]))
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        raise EngineError(f"Ray failed: {last_line(cause)}") from error


class _Actor:
    """Turns shards into parts; Ray makes one for each worker."""

    def __init__(self, plan: Plan, timeout_s: float) -> None:
        if plan.model_file is not None:
            self._folder = tempfile.TemporaryDirectory(prefix="faceresnet-")
            path = Path(self._folder.name) / "model.onnx"
            path.write_bytes(plan.model_file)
            plan = replace(plan, options=replace(plan.options, model=str(path)), model_file=None)
        self._plan = plan
        self._supervisor = Supervisor(plan, timeout_s)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        (number,), (entries,) = batch["shard"], batch["entries"]
        shard = Shard(int(number), tuple(map(from_json, json.loads(entries))))
        part = make_part(shard, self._plan, self._supervisor)
        return {
            "shard": [part.number],
            "content": [part.content],
            "counts": [list(astuple(part.counts))],
        }

    def __del__(self) -> None:
        supervisor = getattr(self, "_supervisor", None)
        if supervisor is not None:
            supervisor.close()
