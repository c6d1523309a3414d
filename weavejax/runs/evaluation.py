"""What the doors share: from a system and its parameters to vectors, matches and reports."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from weavejax.data.pipeline import eval_batches
from weavejax.metrics.measured import manifest_hash
from weavejax.metrics.report import Report
from weavejax.ops.exchange import take_rows
from weavejax.ops.placement import on_mesh, split_batch
from weavejax.runs.assemble import Data
from weavejax.runtime import cluster
from weavejax.runtime.mesh import (
    batch_rows,
    batch_sharding,
    check_batch,
    put_batch,
    replicated,
)
from weavejax.runtime.signals import Stopped
from weavejax.systems.base import SecondStage, System

KEPT = {"valid": "valid", "index": "index"}  # of a batch, beside what is computed
Vectors = dict[str, np.ndarray]
Batches = Iterator[Mapping[str, np.ndarray]]
Reports = dict[str, Report]
Evaluation = Callable[..., tuple[Reports, Vectors]]


def _never() -> bool:
    return False


def make_embedding(
    system: System,
    placed: Any,
    mesh: Mesh,
    batch: int,
    compute: Callable[..., dict[str, jax.Array]] | None = None,
    keep: Mapping[str, str] = KEPT,
    more: Sequence[str] = (),
) -> Callable[..., Vectors]:
    """(params, host batches, stopping) → what `system.embed` gives and what to keep, gathered.

    `keep` names arrays of the batches, by the name they get; `more` those that `embed` gets beside the
    arrays of the system's `batch_spec`. `compute` takes the place of
    `system.embed`, as `system.features` may. Host batches hold this process's rows (`batch_rows`).
    `stopping` is asked before every batch, on all processes alike; `Stopped` follows when it says so.
    """
    check_batch(batch, mesh)
    data, everywhere = batch_sharding(mesh), replicated(mesh)

    def outputs(params: Any, inputs: Mapping[str, jax.Array], kept: Mapping[str, jax.Array]) -> Any:
        return {**on_mesh(compute or system.embed, mesh)(params, inputs), **kept}

    embed = jax.jit(outputs, in_shardings=(placed, data, data), out_shardings=everywhere)

    def run(params: Any, batches: Batches, stopping: Callable[[], bool] = _never) -> Vectors:
        parts: list[Vectors] = []
        for host in batches:
            if stopping():
                raise Stopped
            inputs = put_batch({name: host[name] for name in (*system.batch_spec, *more)}, data)
            kept = put_batch({name: host[given] for name, given in keep.items()}, data)
            parts.append(jax.device_get(embed(params, inputs, kept)))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return run


def make_matching(
    second: SecondStage, system: System, placed: Any, mesh: Mesh, batch: int
) -> Callable[..., np.ndarray]:
    """(params, host batches, pairs [P,2], texts [N,L], stopping) → match probabilities [P].

    Pairs are (text, clip), clips numbered in the order of the batches. What a clip shows is made once
    and forgotten with its batch, so that memory does not grow with the gallery.
    """
    data, everywhere = batch_sharding(mesh), replicated(mesh)
    see = jax.jit(
        on_mesh(second.see, mesh), in_shardings=(placed, data), out_shardings=(data, data)
    )

    def judge(params: Any, seen: Any, mask: Any, texts: Any, places: Any) -> Any:
        chosen = (take_rows(seen, places), take_rows(mask, places))
        return second.match(params, split_batch(texts), *chosen)

    match = jax.jit(
        on_mesh(judge, mesh),
        in_shardings=(placed, data, data, everywhere, data),
        out_shardings=everywhere,
    )

    def run(
        params: Any,
        batches: Batches,
        pairs: np.ndarray,
        texts: np.ndarray,
        stopping: Callable[[], bool] = _never,
    ) -> np.ndarray:
        found = np.zeros(len(pairs), np.float32)
        order = np.argsort(pairs[:, 1], kind="stable")
        ends = np.searchsorted(pairs[order, 1], np.arange(0, len(texts) + batch, batch))
        bar = tqdm(total=len(pairs), desc="matching", unit=" pairs", disable=not cluster.primary())
        with bar:
            for number, host in enumerate(batches):
                if stopping():
                    raise Stopped
                inputs = put_batch({name: host[name] for name in system.batch_spec}, data)
                seen = see(params, inputs)
                wanted = order[ends[number] : ends[number + 1]]
                for start in range(0, len(wanted), batch):
                    part = wanted[start : start + batch]
                    filled = np.resize(part, batch)  # whole batches: one program for all
                    places = (pairs[filled, 1] % batch).astype(np.int32)
                    shared = jax.make_array_from_callback((batch,), data, places.__getitem__)
                    out = match(params, *seen, texts[pairs[filled, 0]], shared)
                    found[part] = np.asarray(out)[: len(part)]
                    bar.update(len(part))
        return found

    return run


def make_evaluation(
    system: System,
    config: Any,
    data: Data,
    placed: Any,
    mesh: Mesh,
    told: Mapping[str, np.ndarray] | None = None,
) -> Evaluation:
    """(params, stopping) → (reports by evaluator, the vectors they were made from), of the test split.

    `told` are arrays by record of the split, such as `following.predicted` gives: the system then makes
    something of them as well, and has reports of that (`System.told`).

    A system with a second stage looks at the test split twice: once for the vectors, and once for what
    its candidates' clips show, one batch at a time.

    Raises `Stopped` when `stopping` says so meanwhile.
    """
    batch = config.runtime.evaluate_batch
    second = system.second_stage
    keep = {**KEPT, **({"tokens": "text"} if second else {})}
    beside = {f"told_{name}": rows for name, rows in (told or {}).items()}
    evaluators = {**system.evaluators, **(system.told if beside else {})}
    embed = make_embedding(system, placed, mesh, batch, keep=keep, more=tuple(beside))
    match = make_matching(second, system, placed, mesh, batch) if second else None
    rows = batch_rows(batch, mesh)
    manifest = functools.cache(
        lambda: manifest_hash(data.test.id(record) for record in range(len(data.test)))
    )

    def batches() -> Any:
        return eval_batches(
            data.test, data.spec, data.tokenizer, batch=batch, cache_dir=data.cache, rows=rows
        )

    def run(params: Any, stopping: Callable[[], bool] = _never) -> tuple[Reports, Vectors]:
        with batches() as clips:
            heard = ({**host, **_rows(beside, host["index"])} for host in clips)
            vectors = embed(params, heard, stopping)
        if second and match:
            pairs = second.candidates(vectors)
            with batches() as clips:
                found = match(params, clips, pairs, vectors["tokens"], stopping)
            vectors |= {"pairs": pairs, "match": found}
        seen = {**vectors, "manifest": np.array(manifest())}
        return {n: evaluate(seen) for n, evaluate in evaluators.items()}, vectors

    return run


def _rows(by_record: Mapping[str, np.ndarray], records: np.ndarray) -> Vectors:
    """Those of a batch; what fills it up has the record −1, and any row will do."""
    return {name: rows[records] for name, rows in by_record.items()}
