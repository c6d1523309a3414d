"""Batches for training and evaluation: order, decoding, sampling and stacking through Grain.

Training batches are a pure function of (source, spec, seed, step), whatever the number of hosts and
worker processes: global step s holds the global indices [s·batch, (s + 1)·batch) of `record_order`,
and everything random about an example comes from (seed, global index). To resume, start at a step.
"""

import atexit
import functools
import math
import os
import shutil
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grain
import numpy as np
from absl import flags
from tokenizers import Tokenizer

from weavejax.data.cache import DecodedCache
from weavejax.data.clip import DecodeError, Source, record_name
from weavejax.data.order import example_rng, record_order, replacement
from weavejax.data.recipe import Recipe
from weavejax.errors import UserError

Batch = dict[str, np.ndarray]
Read = TypeVar("Read")
SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class ExampleLoader:
    """Makes single examples; picklable, so that worker processes can."""

    source: Source
    spec: Recipe
    tokenizer: Tokenizer | None
    cache: DecodedCache | None = None
    seed: int = 0
    attempts: int = 0

    def training(self, index: int, record: int) -> Batch:
        """The example at global index `index`, which the order gives to `record`.

        A broken record is replaced by another that depends on (seed, index) alone; `wanted` keeps
        the one asked for, `index` says which was used.
        """
        failures = []
        tried = int(record)
        for attempt in range(self.attempts + 1):
            try:
                example = self._sample(tried, example_rng(self.seed, index))
            except DecodeError as error:
                failures.append(f"{record_name(self.source, tried)} ({error})")
                tried = replacement(self.seed, index, attempt, len(self.source))
            else:
                example = self.spec.wear(example, tried)
                return example | {"index": _int32(tried), "wanted": _int32(record)}
        raise UserError(
            f"{len(failures)} clips drawn in a row are broken, the last of them "
            f"{failures[-1]}: check the data"
        )

    def evaluation(self, record: int) -> Batch:
        """The example of `record`; `valid` is False for a broken one and for padding (index -1)."""
        record = int(record)
        inside = record < len(self.source)
        try:
            example, valid = self._sample(record, None) if inside else None, inside
        except DecodeError:
            example, valid = None, False
        found = self.spec.empty() if example is None else example
        return found | {"index": _int32(record if inside else -1), "valid": np.array(valid)}

    def _sample(self, record: int, rng: np.random.Generator | None) -> Batch:
        if self.cache is not None:
            decoded = self.cache.get(record, lambda: self._decode(record))
            captions, subtitle = self._read(record, self.source.text)
        else:
            clip = self._read(record, self.source.__getitem__)
            decoded, captions, subtitle = self.spec.decode(clip), clip.captions, clip.subtitle
        return self.spec.sample(decoded, captions, subtitle, self.tokenizer, rng)

    def _decode(self, record: int) -> dict[str, Any]:
        return self.spec.decode(self._read(record, self.source.__getitem__))

    def _read(self, record: int, read: Callable[[int], Read]) -> Read:
        try:
            return read(record)
        except Exception as error:  # each storage has its own way to report a broken record
            raise DecodeError(f"{type(error).__name__}: {error}") from error


class Batches(Iterator[Batch]):
    """An iterator of batches that owns threads or processes: close it, or use it in a `with`."""

    def __init__(self, dataset: grain.IterDataset) -> None:
        self._iterator: Any = iter(dataset)
        # For those who do not close: ends the workers when this is dropped, or else at exit, early
        # enough for Grain's iterators to go before the modules that their clean-up needs.
        self._end = weakref.finalize(self, self._iterator.close)
        self._at_exit = functools.partial(_close, weakref.ref(self))
        atexit.register(self._at_exit)

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __next__(self) -> Batch:
        if self._iterator is None:
            raise StopIteration
        try:
            batch = next(self._iterator)
        except BaseException:
            self.close()
            raise
        # Worker processes hand over shared memory that is unmapped with its last reference: copy
        # it, so that no device buffer made without copying can outlive it.
        return {k: v if type(v) is np.ndarray else np.array(v) for k, v in batch.items()}

    def close(self) -> None:
        """Ends the worker processes and frees their memory; further calls do nothing."""
        self._iterator = None
        self._end()
        atexit.unregister(self._at_exit)


def _close(reference: "weakref.ref[Batches]") -> None:
    batches = reference()
    if batches is not None:
        batches.close()


def train_batches(
    source: Source,
    spec: Recipe,
    tokenizer: Tokenizer | None,
    *,
    batch: int,
    seed: int,
    start_step: int = 0,
    workers: int = 0,
    cache_dir: str | Path = "",
    prefetch: int = 2,
    rows: Sequence[int] | None = None,
    attempts: int = 16,
) -> Batches:
    """Training batches without end.

    Args:
      source: the clips.
      spec: how a clip becomes an example.
      tokenizer: of captions and subtitles.
      batch: global batch size, B.
      seed: of order and augmentation.
      start_step: the first step: resuming is starting here.
      workers: worker processes; 0 decodes in a thread of this process.
      cache_dir: where decoded clips are kept; "" decodes every time.
      prefetch: batches that each worker process keeps ready: as many as the first, uncached
        epoch may fall behind.
      rows: the rows of each global batch that this process holds (b of them); default all.
      attempts: replacements tried for a broken clip before giving up.

    Returns:
      Batches of b examples (`Recipe.sample`), each array owned and contiguous, with `index` and
      `wanted` int32 [b]: the records used and asked for.

    Raises:
      UserError: impossible sizes; later, when a clip and all its replacements are broken.
    """
    mine = _rows(rows, batch)
    cache = _cache(cache_dir, source, spec)
    loader = ExampleLoader(source, spec, tokenizer, cache, seed, attempts)
    ordered = record_order(len(source), seed)
    local = grain.MapDataset.range(start_step * len(mine), len(ordered) // batch * len(mine))
    chosen = local.map(_Training(loader, ordered, batch, mine)).batch(len(mine))
    return _run(chosen, workers, spec, len(mine), prefetch)


@dataclass(frozen=True)
class _Training:
    """Local position → example: every host cuts its rows out of the same global batches."""

    loader: ExampleLoader
    ordered: grain.MapDataset
    batch: int
    rows: tuple[int, ...]

    def __call__(self, position: int) -> Batch:
        step, row = divmod(int(position), len(self.rows))
        index = step * self.batch + self.rows[row]
        return self.loader.training(index, self.ordered[index])


def _rows(rows: Sequence[int] | None, batch: int) -> tuple[int, ...]:
    if batch < 1:
        raise UserError(f"the batch size is {batch}: it must be at least 1")
    mine = tuple(range(batch) if rows is None else rows)
    if not mine or not set(mine) <= set(range(batch)):
        raise UserError(f"a process cannot hold the rows {mine} of a batch of {batch}")
    return mine


def eval_batches(
    source: Source,
    spec: Recipe,
    tokenizer: Tokenizer | None,
    *,
    batch: int,
    workers: int = 0,
    cache_dir: str | Path = "",
    rows: Sequence[int] | None = None,
    numbers: Sequence[int] | None = None,
) -> Batches:
    """All clips in order, once, without chance.

    Args:
      source: the clips.
      spec: how a clip becomes an example.
      tokenizer: of captions and subtitles.
      batch: global batch size, B.
      workers: worker processes; 0 decodes in a thread of this process.
      cache_dir: where decoded clips are kept; "" decodes every time.
      rows: the rows of each global batch that this process holds; default all.
      numbers: of the batches wanted; default all.

    Returns:
      Batches of `batch` examples (`Recipe.sample`), or of the given rows of it, with `index` int32
      [B] (the record, -1 for the padding of the last batch) and `valid` bool [B] (False for broken
      clips and padding).
    """
    mine = _rows(rows, batch)
    loader = ExampleLoader(source, spec, tokenizer, _cache(cache_dir, source, spec))
    wanted = tuple(range(math.ceil(len(source) / batch)) if numbers is None else numbers)
    local = grain.MapDataset.range(len(wanted) * len(mine))
    chosen = local.map(_Evaluation(loader, batch, mine, wanted)).batch(len(mine))
    return _run(chosen, workers, spec, len(mine))


@dataclass(frozen=True)
class _Evaluation:
    """Local position → example, in order."""

    loader: ExampleLoader
    batch: int
    rows: tuple[int, ...]
    numbers: Sequence[int]

    def __call__(self, position: int) -> Batch:
        place, row = divmod(int(position), len(self.rows))
        return self.loader.evaluation(self.numbers[place] * self.batch + self.rows[row])


def _cache(directory: str | Path, source: Source, spec: Recipe) -> DecodedCache | None:
    if not str(directory) or not spec.stored:
        return None
    return DecodedCache(directory, source.fingerprint, spec, len(source))


def _run(
    batches: grain.MapDataset, workers: int, spec: Recipe, share: int, prefetch: int = 2
) -> Batches:
    """Reads ahead: one thread here, or `workers` processes with one thread each."""
    one_thread = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    dataset = batches.to_iter_dataset(one_thread)
    if workers:
        if not flags.FLAGS.is_parsed():  # Grain reads its flags; tests and notebooks have none
            flags.FLAGS.mark_as_parsed()
        # Inherited by the workers, where it counts; the NumPy of this process is already set up.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        _check_shared_memory(workers * (prefetch + 2), share * _nbytes(spec))
        options = grain.MultiprocessingOptions(workers, per_worker_buffer_size=prefetch)
        dataset = dataset.mp_prefetch(options, worker_init_fn=WorkerStart(os.getpid()))
    return Batches(dataset)


def _nbytes(spec: Recipe) -> int:
    return sum(value.nbytes for value in spec.empty().values())


def _check_shared_memory(batches: int, batch_bytes: int) -> None:
    """Worker processes die (SIGBUS) when /dev/shm runs out: containers often have only 64 MB."""
    if not SHARED_MEMORY.is_dir():
        return
    needed = batches * batch_bytes
    free = shutil.disk_usage(SHARED_MEMORY).free
    if needed > free:
        raise UserError(
            f"the loader's workers need {needed / 1e6:.0f} MB of {SHARED_MEMORY} and "
            f"{free / 1e6:.0f} MB are free: enlarge it (docker run --shm-size), or use fewer workers "
            "or a smaller prefetch"
        )


@dataclass(frozen=True)
class WorkerStart:
    """Runs first in each worker process. `parent` is the process id of the trainer."""

    parent: int

    def __call__(self, worker: int, workers: int) -> None:
        # The trainer decides when to stop; signals to the whole group (Ctrl-C, preemption) must
        # not tear the data away from the step that is running.
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, signal.SIG_IGN)
        os.environ["JAX_PLATFORMS"] = "cpu"  # Grain imports JAX: leave the accelerator alone
        threading.Thread(target=_leave_with, args=(self.parent, os._exit), daemon=True).start()


def _leave_with(parent: int, leave: Callable[[int], object]) -> None:
    """Ends an orphan: a trainer that was killed could not close its workers."""
    while os.getppid() == parent:
        time.sleep(1.0)
    leave(1)


def _int32(number: int) -> np.ndarray:
    return np.array(number, np.int32)
