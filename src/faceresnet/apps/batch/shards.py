"""Shards: the photos of one part, and what comes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from faceresnet.apps.batch.listing import Entry, name
from faceresnet.apps.batch.options import Plan
from faceresnet.apps.batch.rows import Counts, count, encode
from faceresnet.apps.batch.supervisor import Supervisor


@dataclass(frozen=True)
class Shard:
    """Consecutive photos of the listing; `number` counts from 0."""

    number: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Part:
    """A shard that is done: what its file holds, and how much that is."""

    number: int
    content: bytes
    counts: Counts


def make_part(
    shard: Shard, plan: Plan, supervisor: Supervisor, on_photo: Callable[[], None] = lambda: None
) -> Part:
    """Look at the photos of a shard.

    Raises:
        EngineError: workers cannot start here.
    """
    looked = supervisor.look(shard.entries, on_photo)
    sources = [name(entry) for entry in shard.entries]
    content = encode(sources, looked, plan.model_name, plan.options.format)
    return Part(shard.number, content, count(looked))
