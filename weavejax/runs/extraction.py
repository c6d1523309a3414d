"""Running frozen networks once over a split and keeping what they give, shard by shard.

All processes of a job compute every batch together, each decoding its own rows; the shards are
written in turn. A shard that is there is not computed again.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from weavejax.data import shards
from weavejax.data.clip import Source
from weavejax.data.features import MANIFEST, NAME, SPLIT, feature_record
from weavejax.data.pipeline import eval_batches
from weavejax.errors import UserError
from weavejax.runs.assemble import Data
from weavejax.runs.evaluation import Vectors, make_embedding
from weavejax.runs.restore import Trained
from weavejax.runtime import cluster
from weavejax.runtime.mesh import batch_rows
from weavejax.storage import write_text

PATIENCE = 24 * 3600.0  # s, with the process that writes the metadata


def extract(
    trained: Trained, data: Data, source: Source, out: Path, facts: Mapping[str, Any], shard: int
) -> None:
    """Writes the features of every clip of a source.

    Args:
      trained: the model.
      data: how a clip becomes an example.
      source: the clips.
      out: directory of these features alone.
      facts: what they are made by, for the manifest.
      shard: clips in a shard, at least; a whole number of batches.

    Raises:
      UserError: the system has no features, or `out` was begun with another model or other clips.
    """
    system, batch = trained.system, trained.config.runtime.evaluate_batch
    if system.features is None:
        raise UserError(f"the system {system.name} has no features to extract")
    shapes = jax.eval_shape(system.features, trained.params, dict(system.batch_spec))
    arrays = {n: tuple(s.shape[1:]) for n, s in shapes.items() if not n.endswith("_mask")}
    per = math.ceil(shard / batch)  # batches in a shard
    batches = math.ceil(len(source) / batch)
    count = math.ceil(batches / per)
    about = {
        **facts,
        "clips": len(source),
        "source": source.fingerprint,
        "arrays": {name: list(shape) for name, shape in arrays.items()},
        "shard": per * batch,
    }
    _begin(out, about)
    paths = [out / shards.shard_name(NAME, SPLIT, number, count) for number in range(count)]
    todo = json.loads(cluster.from_primary("shards", lambda: json.dumps(_missing(paths))))
    if todo:
        work = {number: range(number * per, min((number + 1) * per, batches)) for number in todo}
        _compute(trained, data, source, work, paths, arrays)
    cluster.barrier("features", PATIENCE)
    if cluster.primary():
        shards.remove_parts(out)
        shards.write_info(out, NAME, feature_record(arrays), {SPLIT: count})
    cluster.barrier("features described", PATIENCE)


def _compute(
    trained: Trained,
    data: Data,
    source: Source,
    work: Mapping[int, range],
    paths: Sequence[Path],
    arrays: Mapping[str, tuple[int, ...]],
) -> None:
    """Computes and writes the shards of `work`: number → its batches."""
    system, batch = trained.system, trained.config.runtime.evaluate_batch
    compute = make_embedding(system, trained.placed, trained.mesh, batch, system.features)
    serialise = shards.serialiser(feature_record(arrays))
    numbers = [number for batches in work.values() for number in batches]
    done = max(0, len(source) - len(numbers) * batch)
    with (
        eval_batches(
            source,
            data.spec,
            data.tokenizer,
            batch=batch,
            workers=trained.config.runtime.workers,
            cache_dir=data.cache,
            rows=batch_rows(batch, trained.mesh),
            numbers=numbers,
        ) as host,
        tqdm(
            desc="extracting",
            total=len(source),
            initial=done,
            unit=" clips",
            disable=not cluster.primary(),
        ) as bar,
    ):
        for turn, (shard, batches) in enumerate(work.items()):
            parts = []
            for _ in batches:
                parts.append(compute(trained.params, iter([next(host)])))
                bar.update(int((parts[-1]["index"] >= 0).sum()))
            if turn % cluster.count() == jax.process_index():
                records = _records(parts, source, list(arrays))
                shards.write_shard(paths[shard], map(serialise, records))


def _missing(paths: list[Path]) -> list[int]:
    return [number for number, path in enumerate(paths) if not path.exists()]


def _begin(out: Path, about: Mapping[str, Any]) -> None:
    """Writes the manifest, or checks that it is the one that is there."""
    text = json.dumps(about, sort_keys=True)
    content = {"fingerprint": hashlib.sha256(text.encode()).hexdigest()[:32], **json.loads(text)}
    path = out / MANIFEST
    if cluster.primary() and not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(content, indent=1) + "\n")
    cluster.barrier("manifest of features", PATIENCE)
    kept = json.loads(path.read_bytes())
    if kept != content:
        other = [key for key in content if kept.get(key) != content[key] and key != "fingerprint"]
        raise UserError(
            f"{out} holds features of another {' and '.join(other) or 'making'}: give another --out"
        )


def _records(parts: list[Vectors], source: Source, names: list[str]) -> Iterator[dict[str, Any]]:
    """The records of a shard; a clip that could not be read has zeros and no mask set."""
    for part in parts:
        for row, index in enumerate(part["index"].tolist()):
            if index < 0:  # the padding of the last batch
                continue
            valid = bool(part["valid"][row])
            record: dict[str, Any] = {"valid": valid, **_texts(source, index)}
            for name in names:
                present = valid and bool(part[f"{name}_mask"][row])
                record[f"{name}_mask"] = present
                value = part[name][row]
                record[name] = value if present else np.zeros_like(value)
            yield record


def _texts(source: Source, index: int) -> dict[str, Any]:
    try:
        captions, subtitle = source.text(index)
        return {"id": source.id(index), "captions": list(captions), "subtitle": subtitle}
    except Exception:  # each storage has its own way to report a broken record
        return {"id": f"record {index}", "captions": [], "subtitle": ""}
