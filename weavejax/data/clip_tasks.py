"""Writing the shards of a set of clips: pure functions of what they are given, in any order."""

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from weavejax.data import shards
from weavejax.data.clip_records import clip_record, record_features
from weavejax.data.inventory import Item, Lack
from weavejax.storage import write_text

LACKS = ".lacks.json"


class Task(NamedTuple):
    """One shard to write: a pure function of its fields."""

    path: Path
    split: str
    items: Sequence[Item]
    cut: bool
    side: int


def write_task(task: Task) -> None:
    """Writes one shard, and beside it what turned out to be missing."""
    serialise = shards.serialiser(record_features())
    lacks: list[Lack] = []

    def records() -> Iterator[bytes]:
        for item in task.items:
            record, more = clip_record(task.split, item, task.cut, task.side)
            lacks.extend(more)
            if record is not None:
                yield serialise(record)

    def keep_lacks() -> None:
        write_text(lacks_path(task.path), json.dumps([asdict(lack) for lack in lacks]))

    shards.write_shard(task.path, records(), keep_lacks)


def run_tasks(tasks: Sequence[Task], threads: int, title: str) -> None:
    """Writes shards in that many threads (0: one per usable core), with a bar."""
    clips = sum(len(task.items) for task in tasks)
    pool = ThreadPoolExecutor(threads or _cores())
    try:
        with tqdm(total=clips, desc=title, unit=" clips", disable=not tasks) as bar:
            futures = {pool.submit(write_task, task): task for task in tasks}
            for future in as_completed(futures):
                future.result()
                bar.update(len(futures[future].items))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def lacks_path(shard: Path) -> Path:
    """Where that is kept until the set is complete."""
    return shard.with_name(shard.name + LACKS)


def read_lacks(shard: Path) -> list[Lack]:
    """What turned out to be missing when a shard was written."""
    return [Lack(**each) for each in json.loads(lacks_path(shard).read_bytes())]
