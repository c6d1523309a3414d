"""Rendering a split in parallel processes into staged files, one a clip.

A staged file appears whole (written under another name, then renamed) and carries its length and
checksum, so a run that was ended at any moment goes on where it was, and a damaged file is rendered
again. What a file holds never depends on which process wrote it.
"""

import json
import multiprocessing
import os
import signal
import struct
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from weavejax.errors import UserError

from . import render
from .scene import Options

_MAGIC = b"foley1"
_HEADER = struct.Struct("<6sIIII")  # magic, checksum, lengths of text, video and audio
_CLIPS_PER_TASK = 4


def write(path: Path, example: dict[str, Any]) -> None:
    """Writes one clip, all or nothing."""
    media = {"video", "audio"}
    text = json.dumps({k: v for k, v in example.items() if k not in media}).encode()
    parts = (text, example["video"], example["audio"])
    body = b"".join(parts)
    header = _HEADER.pack(_MAGIC, zlib.crc32(body), *(len(part) for part in parts))
    unfinished = path.with_suffix(f".{os.getpid()}.part")
    try:
        unfinished.write_bytes(header + body)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def read(path: Path) -> dict[str, Any] | None:
    """Reads one clip; None when it is absent or damaged."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    if len(data) < _HEADER.size:
        return None
    magic, checksum, *lengths = _HEADER.unpack_from(data)
    body = data[_HEADER.size :]
    if magic != _MAGIC or len(body) != sum(lengths) or zlib.crc32(body) != checksum:
        return None
    text, video = body[: lengths[0]], body[lengths[0] : lengths[0] + lengths[1]]
    return {**json.loads(text), "video": video, "audio": body[lengths[0] + lengths[1] :]}


def path_of(folder: Path, split: str, index: int) -> Path:
    """Where clip `index` of `split` is staged."""
    return folder / f"{split}-{index:06d}.clip"


def fill(
    folder: Path, splits: dict[str, int], kinds: tuple[str, ...], options: Options, processes: int
) -> None:
    """Renders what is missing.

    Args:
      folder: of the staged files.
      splits: name → clips in it.
      kinds: of scenes, taking turns.
      options: of the data set.
      processes: that render; 0 for one per usable core.

    Raises:
      OSError: a file could not be written; what was written stays for the next run.
      UserError: a rendering process was killed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = {
        split: [k for k in range(count) if read(path_of(folder, split, k)) is None]
        for split, count in splits.items()
    }
    tasks = {
        split: [ks[n : n + _CLIPS_PER_TASK] for n in range(0, len(ks), _CLIPS_PER_TASK)]
        for split, ks in missing.items()
    }
    workers = min(processes or usable_cores(), sum(len(each) for each in tasks.values()))
    if not workers:
        return
    # Spawned, not forked: a process that has JAX's threads must not be forked.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker)
    try:
        futures = {
            split: [pool.submit(_render_some, folder, split, ks, kinds, options) for ks in each]
            for split, each in tasks.items()
        }
        for split, count in splits.items():
            _follow(futures[split], split, count, count - len(missing[split]))
    except BrokenProcessPool as error:
        raise UserError(
            "foley_world: a rendering process was killed (out of memory?); run again to go on "
            "where it stopped, with fewer processes"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _follow(futures: "list[Future[int]]", split: str, count: int, done: int) -> None:
    with tqdm(
        total=count, initial=done, desc=f"foley_world {split}", unit=" clips", smoothing=0.05
    ) as bar:
        for future in as_completed(futures):
            bar.update(future.result())


def usable_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def examples(folder: Path, split: str, count: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Reads a filled split in order."""
    for index in range(count):
        example = read(path_of(folder, split, index))
        if example is None:
            raise UserError(
                f"foley_world: {path_of(folder, split, index)} was damaged after it "
                "was rendered; run again"
            )
        yield index, example


def _start_worker() -> None:
    """Before the first array: one thread each, on the CPU, and Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    os.environ["NPROC"] = "1"  # threads of XLA's CPU client
    jax.config.update("jax_platforms", "cpu")


def _leave_with_parent() -> None:
    """Ends this process when the parent was killed: it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _render_some(
    folder: Path, split: str, indices: list[int], kinds: tuple[str, ...], options: Options
) -> int:
    for index in indices:
        write(path_of(folder, split, index), render.example(split, index, kinds, options))
    return len(indices)
