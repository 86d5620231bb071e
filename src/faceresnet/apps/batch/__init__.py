"""Faces in millions of photos: folders, lists, Parquet files and object stores, resumable.

    from faceresnet.apps import batch

    summary = batch.run("photos/", "faces/", batch.BatchOptions(threshold=0.6))
    for row in batch.read_rows("faces/"):
        print(row["source"], len(row["faces"]))

The rows are described in `faceresnet.apps.batch.rows`, the files in `faceresnet.apps.batch.job`.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from faceresnet.apps.batch.job import (
    ENGINES,
    TIMEOUT_S,
    Job,
    Summary,
    check_work,
    open_job,
    read_rows,
)
from faceresnet.apps.batch.options import FORMATS, BatchOptions
from faceresnet.apps.batch.storage import open_storage

__all__ = ["ENGINES", "FORMATS", "BatchOptions", "Summary", "read_rows", "run"]


def run(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: BatchOptions | None = None,
    *,
    engine: str = "local",
    workers: int | None = None,
    timeout_s: float = TIMEOUT_S,
    ray_address: str | None = None,
    on_listed: Callable[[int], None] = lambda number: None,
    on_start: Callable[[Job], None] = lambda job: None,
    on_photos: Callable[[int], None] = lambda number: None,
) -> Summary:
    """Find the faces in every photo of a source; go on where an earlier run was broken off.

    Args:
        source: folder, list of paths or addresses, photo, Parquet file, glob, address of any of
            these, or ``-`` for a list on standard input.
        out: folder for the results, a path or an address.
        options: what decides the rows.
        engine: ``local``, worker processes on this machine, or ``ray``.
        workers: processes or actors; by default one for each core, or one (``ray``: one for each)
            where the model runs on a graphics card.
        timeout_s: a photo that takes longer ends its worker, as a crash does, and becomes a row
            with an error.
        ray_address: of the cluster; by default RAY_ADDRESS, or one started for this job.
        on_listed: called with the number of photos listed so far, now and then.
        on_start: called when the photos are listed.
        on_photos: called with the number of photos just done, from any thread.

    Returns:
        what the job has done in all its runs.

    Raises:
        ValueError: an argument is out of its range.
        DataError: the source cannot be read, the results cannot be written, or `out` holds the
            job of another source or other options.
        ModelError: there is no such model.
        EngineError: the engine or Ray cannot start.
        MissingExtraError: something that is needed is not installed.
    """
    check_work(engine, workers, timeout_s)
    storage = open_storage(out)
    with storage.lock():
        job = open_job(source, storage, options or BatchOptions(), on_listed)
        on_start(job)
        return job.run(
            engine=engine,
            workers=workers,
            timeout_s=timeout_s,
            ray_address=ray_address,
            on_photos=on_photos,
        )
