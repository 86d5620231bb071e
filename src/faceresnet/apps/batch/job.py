"""A batch from its listing to its last part, however often it is broken off.

A job's folder holds

    _job.json           what was asked for, and how many photos there are
    _listing.jsonl.gz   the entries, in order: the one listing of this job
    part-00000.parquet  the rows of the first shard, and so on
    _summary.json       counts, and the bytes of all parts; written when these are there

A shard is done when its part is there: parts are written whole, by one process, under a name that
follows from the listing. So no row can be missing or twice, and the same command goes on after any
break.
"""

from __future__ import annotations

import gzip
import json
import os
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import islice
from typing import Any, BinaryIO

from faceresnet.apps.batch import cluster, local
from faceresnet.apps.batch.listing import (
    STDIN,
    Entry,
    fingerprint,
    from_json,
    is_address,
    list_entries,
    spooled_input,
    to_json,
)
from faceresnet.apps.batch.options import BatchOptions, Plan, model_identity
from faceresnet.apps.batch.rows import Counts, count_part, decode, require_pyarrow
from faceresnet.apps.batch.shards import Shard
from faceresnet.apps.batch.storage import Storage, open_storage
from faceresnet.engine import ENGINES as RUNTIMES
from faceresnet.errors import DataError, MissingExtraError
from faceresnet.processors import cores
from faceresnet.weights import locate, shipped

JOB, LISTING, SUMMARY = "_job.json", "_listing.jsonl.gz", "_summary.json"
#: Raised when jobs of an older version can no longer be continued.
FORMAT = 1
#: Photos in a part, unless the caller says how many, and into how many parts a job falls at least.
SHARD_SIZES, SHARDS = (16, 1_000), 64
#: A photo may take this long.
TIMEOUT_S = 300.0
ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Summary:
    """What a finished job has done.

    Attributes:
        photos: rows.
        faces: in all of them.
        errors: rows with an error.
        parts: files.
        photos_now: of the photos, those that this run looked at.
        seconds: that this run took.
    """

    photos: int
    faces: int
    errors: int
    parts: int
    photos_now: int
    seconds: float


class Job:
    """A batch that was listed, and may be partly or wholly done.

    Attributes:
        left_out: numbers of files in the folder that are not named as photos are, by suffix.
        photos: entries of the listing.
        shard_size: of them in a part; the last may have fewer.
        done: what is in the parts that are there already.
        resumed: whether the listing is an earlier run's.
        may_grow: whether the source, such as a folder, may name more photos by now; others are
            refused when they change.
    """

    def __init__(
        self,
        storage: Storage,
        options: BatchOptions,
        facts: dict[str, Any],
        *,
        resumed: bool = False,
    ) -> None:
        self._storage = storage
        self._options = options
        self._facts = facts
        self.left_out: dict[str, int] = facts.get("left_out", {})
        self.photos: int = facts["photos"]
        self.shard_size: int = facts["shard_size"]
        self.resumed = resumed
        self.may_grow = not facts["fingerprint"]
        self._finished = self._read_summary()
        self._there: set[int] = set()
        self.done = self._finished or self._count_parts()

    @property
    def parts(self) -> int:
        """Shards, each of which becomes a part."""
        return -(-self.photos // self.shard_size)

    def part_name(self, number: int) -> str:
        """Name of the file of a shard."""
        return f"part-{number:05d}.{self._options.format}"

    def run(
        self,
        *,
        engine: str,
        workers: int | None,
        timeout_s: float,
        ray_address: str | None,
        on_photos: Callable[[int], None],
    ) -> Summary:
        """Do what is left of the job; nothing if it is finished.

        Arguments, which are checked there, and errors as `batch.run`'s.
        """
        start = time.monotonic()
        counts, now = self.done, 0
        if self._finished is None:
            shards, plan = self._pending(), self._plan(engine)
            if engine == "ray":
                parts = cluster.detect_shards(
                    shards, plan, workers, timeout_s, on_photos, ray_address
                )
            else:
                workers = workers or (cores() if self._options.on_cpu else 1)
                parts = local.detect_shards(shards, plan, workers, timeout_s, on_photos)
            for part in parts:
                with self._storage.writing(self.part_name(part.number)) as file:
                    file.write(part.content)
                self._there.add(part.number)
                counts += part.counts
                now += part.counts.photos
            if counts.photos != self.photos:
                raise DataError(
                    f"the job's listing names {counts.photos} photos, not {self.photos}: it is "
                    "broken; start anew in another folder"
                )
            summary = {**asdict(counts), "bytes": self._part_bytes(self._storage.sizes())}
            with self._storage.writing(SUMMARY) as file:
                file.write(json.dumps(summary).encode())
            self.done = self._finished = counts
        seconds = time.monotonic() - start
        return Summary(counts.photos, counts.faces, counts.errors, self.parts, now, seconds)

    def _plan(self, engine: str) -> Plan:
        """What the workers need; those on other machines may not have the model's file."""
        content = None
        if engine == "ray" and os.fspath(self._options.model) not in shipped():
            content = locate(self._options.model).read_bytes()
        return Plan(self._options, self._facts["model"], self._facts["folder"], content)

    def _pending(self) -> Iterator[Shard]:
        """Shards without a part, read from the listing as they are needed."""
        entries = self._entries()
        number = 0
        while chunk := list(islice(entries, self.shard_size)):
            if number not in self._there:
                yield Shard(number, tuple(map(from_json, chunk)))
            number += 1

    def _entries(self) -> Iterator[Any]:
        try:
            with self._storage.read(LISTING) as file, gzip.open(file) as lines:
                for line in lines:
                    yield json.loads(line)
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise DataError(
                f"the job's {LISTING} is broken ({error}): start anew in another folder"
            ) from error

    def _read_summary(self) -> Counts | None:
        """Counts of a finished job; none if parts are gone or cut, or its summary is broken."""
        sizes = self._storage.sizes()
        if SUMMARY not in sizes:
            return None
        with suppress(ValueError, TypeError, LookupError), self._storage.read(SUMMARY) as file:
            summary = json.load(file)
            if summary.pop("bytes") == self._part_bytes(sizes):
                return Counts(**summary)
        return None

    def _part_bytes(self, sizes: dict[str, int]) -> int:
        """Bytes of all parts; no part is empty, so one that is gone makes a difference."""
        return sum(sizes.get(self.part_name(number), 0) for number in range(self.parts))

    def _count_parts(self) -> Counts:
        """What is in the parts that are there; a part that is broken is made again."""
        total, sizes = Counts(), self._storage.sizes()
        for number in range(self.parts):
            if self.part_name(number) not in sizes:
                continue
            with self._storage.read(self.part_name(number)) as file:
                content = file.read()
            with suppress(DataError):
                counts = count_part(content, self._options.format)
                if counts.photos == min(self.shard_size, self.photos - number * self.shard_size):
                    self._there.add(number)
                    total += counts
        return total


def open_job(
    source: str | os.PathLike[str],
    storage: Storage,
    options: BatchOptions,
    on_listed: Callable[[int], None],
) -> Job:
    """Go on with the job in a locked folder, or list the photos and begin one.

    Arguments and errors as `batch.run`'s.
    """
    if options.format == "parquet":
        require_pyarrow("faceresnet batch --format parquet")
    place = os.fspath(source)
    with spooled_input() if place == STDIN else nullcontext() as stdin:
        return _open_job(place, stdin, storage, options, on_listed)


def _open_job(
    place: str,
    stdin: BinaryIO | None,
    storage: Storage,
    options: BatchOptions,
    on_listed: Callable[[int], None],
) -> Job:
    model, sha256 = model_identity(options.model)
    asked = {
        "format": FORMAT,
        "source": place if is_address(place) or place == STDIN else os.path.abspath(place),
        "options": {**options.to_dict(), "model": sha256},
        "fingerprint": fingerprint(place, stdin),
    }
    sizes = storage.sizes()
    parts = sorted(name for name in sizes if name.startswith("part-"))
    if JOB in sizes:
        with storage.read(JOB) as file:
            facts = _parse(file.read())
        try:
            _compare(facts, asked)
            return Job(storage, options, facts, resumed=True)
        except DataError:
            if parts:  # else nothing is lost by beginning anew
                raise
        storage.remove(JOB)  # before its listing is: one must not be taken for the other's
    elif parts:
        raise DataError(f"the folder holds {parts[0]} of something else: choose another")
    facts = {**asked, "folder": os.getcwd(), "model": model}
    left_out: Counter[str] = Counter()
    entries = list_entries(place, options.column, stdin, left_out)
    facts["photos"] = _write_listing(storage, entries, on_listed)
    facts["left_out"] = left_out
    least, most = SHARD_SIZES
    automatic = min(most, max(least, -(-facts["photos"] // SHARDS)))
    facts["shard_size"] = options.shard_size or automatic
    with storage.writing(JOB) as file:
        file.write(json.dumps(facts, indent=1).encode())
    return Job(storage, options, facts)


def _write_listing(
    storage: Storage, entries: Iterator[Entry], on_listed: Callable[[int], None]
) -> int:
    """Save the listing; returns how many photos it names."""
    number = 0
    with (
        storage.writing(LISTING) as file,
        gzip.GzipFile("", "wb", fileobj=file, compresslevel=3, mtime=0) as lines,
    ):
        for number, entry in enumerate(entries, start=1):
            lines.write(json.dumps(to_json(entry)).encode() + b"\n")
            if number % 1_000 == 0:
                on_listed(number)
    on_listed(number)
    return number


def _parse(content: bytes) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads(content)
        if facts["format"] != FORMAT:
            raise DataError(f"the folder's job was made by another version ({facts['format']})")
        return facts
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"the folder's {JOB} is broken: start anew in another folder") from error


def _compare(facts: dict[str, Any], asked: dict[str, Any]) -> None:
    """Make sure that the folder's job is the one asked for.

    Raises:
        DataError: it is another.
    """
    if facts["source"] != asked["source"]:
        raise DataError(
            f"the folder holds a job for {facts['source']}, not {asked['source']}: choose another"
        )
    if facts["fingerprint"] != asked["fingerprint"]:
        source = "the list on standard input" if asked["source"] == STDIN else asked["source"]
        raise DataError(f"{source} has changed since the folder's job began: choose another folder")
    for name, value in asked["options"].items():
        before = facts["options"].get(name)
        if before != value:
            raise DataError(
                f"the folder's job was begun {_said(name, before)}, and is now to go on "
                f"{_said(name, value)}: give the same, or choose another --out"
            )


def check_work(engine: str, workers: int | None, timeout_s: float) -> None:
    """Make sure, before photos are listed, that somebody can do the work.

    Raises:
        ValueError: there is no such engine, or a number is out of its range.
        MissingExtraError: Ray is not installed.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    if not timeout_s > 0:
        raise ValueError(f"timeout_s must be above 0, got {timeout_s}")
    if engine not in ENGINES:
        hint = " (the network's is --runtime)" if engine in RUNTIMES else ""
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got '{engine}'{hint}")
    if engine == "ray" and find_spec("ray") is None:
        raise MissingExtraError("faceresnet batch --engine ray", "ray")


def _said(name: str, value: Any) -> str:
    """How an option is given on the command line."""
    option = f"--{name.replace('_', '-')}"
    if name == "model":
        return f"with a {option} of sha256 {value[:12]}"
    if name == "max_pixels":
        value = value or 0
    elif name == "tile" and isinstance(value, bool):
        value = "on" if value else "off"
    if isinstance(value, bool):
        return f"with {option}" if value else f"with --no-{name}"
    return f"without {option}" if value is None else f"with {option} {value}"


def read_parts(storage: Storage) -> Iterator[dict[str, Any]]:
    """Rows of a job's parts, in the order of the listing as far as they are done."""
    for name in sorted(storage.sizes(), key=lambda name: (len(name), name)):
        if name.startswith("part-"):
            with storage.read(name) as file:
                yield from decode(file.read(), name.rpartition(".")[2])


def read_rows(folder: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """Read what a batch has written so far.

    Args:
        folder: of the job, a path or an address.

    Yields:
        rows as dictionaries (`rows`), in the order of the listing.

    Raises:
        DataError: a part is broken.
        MissingExtraError: Parquet or the store needs a package that is not installed.
    """
    return read_parts(open_storage(folder))
