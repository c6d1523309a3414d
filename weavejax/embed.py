"""Embed a folder of clips with a trained model, or with converted weights, and search it.

  python -m weavejax.embed --workdir runs/gram --clips DIR --out clips.npz
  python -m weavejax.embed --workdir runs/gram --clips DIR --query "a red ball is struck twice"
  python -m weavejax.embed --config configs/gram.py:published --weights params.safetensors --clips DIR

Any media files will do; captions come from --captions, from captions.{csv,tsv,jsonl} in the folder,
or else from the file names. The .npz holds `id` [N], unit vectors `text`, `video`, `audio` [N, D]
with masks `<modality>_mask` [N] and `valid` [N], and `volume` [N, N]: of text i with clip j. With
--query also `query_score` [N].
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from weavejax.data.example import empty_example
from weavejax.data.folder import open_folder
from weavejax.data.pipeline import eval_batches
from weavejax.data.text import encode
from weavejax.errors import UserError
from weavejax.losses import SCORES
from weavejax.losses.missing import standing_in
from weavejax.runs import assemble, evaluation, restore
from weavejax.runs.restore import Trained
from weavejax.runtime import cli
from weavejax.storage import storage

FLAGS = {
    **restore.FLAGS,
    "clips": "folder of media files",
    "captions": "caption file; default captions.{csv,tsv,jsonl} in the folder",
    "out": "where to write the .npz; default CLIPS' name + .npz",
    "query": "print the ten clips nearest to this text",
}
NEAREST = 10


def main(argv: Sequence[str]) -> None:
    """Opens the folder and the model, embeds, writes, answers the query."""
    arguments = restore.parse(argv, __doc__ or "", FLAGS)
    values = arguments.values
    if not values["clips"]:
        raise UserError("--clips is missing; see --help")
    source = open_folder(values["clips"], values["captions"], split="all")
    assemble.say_streams(source)
    trained = restore.open_model(arguments)
    workdir = storage(values["workdir"]) if values["workdir"] else None
    tokenizer = assemble.find_tokenizer(trained.config, workdir)
    spec = assemble.example_spec(trained.config)
    batch = trained.config.runtime.evaluate_batch
    embed = evaluation.make_embedding(trained.system, trained.placed, trained.mesh, batch)
    batches = eval_batches(source, spec, tokenizer, batch=batch, workers=0, cache_dir="")
    vectors = embed(trained.params, batches)
    vectors = {name: array[: len(source)] for name, array in vectors.items()}  # less the padding

    ids = np.asarray([source.id(int(i)) for i in vectors.pop("index")])
    for number in np.flatnonzero(~vectors["valid"]):
        print(f"unreadable, left out of the search: {ids[number]}")
    clip, present = _clip(vectors)
    volume = -np.asarray(SCORES["volume"](jnp.asarray(vectors["text"]), clip, present))
    out = {"id": ids, "volume": volume, **vectors}
    if values["query"]:
        tokens = encode(tokenizer, values["query"], spec.text_length)
        out["query_score"] = _search(trained, spec, tokens, clip, present)
        _print_nearest(values["query"], ids, out["query_score"], vectors, trained)
    path = Path(values["out"] or f"{Path(values['clips']).resolve().name}.npz")
    np.savez_compressed(path, allow_pickle=False, **out)
    print(f"{len(ids)} clips embedded; written to {path}: {', '.join(sorted(out))}")


def _clip(vectors: dict[str, np.ndarray]) -> tuple[jax.Array, jax.Array]:
    """The clips' vectors [N, M, D] and their presence [N, M]."""
    names = [n for n in ("video", "audio", "subtitle") if n in vectors]
    present = np.stack([vectors[f"{n}_mask"] & vectors["valid"] for n in names], axis=1)
    return jnp.stack([jnp.asarray(vectors[n]) for n in names], axis=1), jnp.asarray(present)


def _search(
    trained: Trained,
    spec: assemble.ExampleSpec,
    tokens: np.ndarray,
    clip: jax.Array,
    present: jax.Array,
) -> np.ndarray:
    """Score of the query with every clip [N]; −inf for a clip with nothing to see or hear."""
    example = {**empty_example(spec), "text": tokens, "text_mask": np.bool_(True)}
    batch = {n: jnp.asarray(example[n])[None] for n in trained.system.batch_spec}
    query = jax.jit(trained.system.embed)(trained.params, batch)["text"]
    loss = trained.config.loss
    scores = standing_in(SCORES, loss.missing)[loss.score](query, clip, present)[0]
    return np.where(np.asarray(present).any(1), np.asarray(scores), -np.inf)


def _print_nearest(
    query: str,
    ids: np.ndarray,
    scores: np.ndarray,
    vectors: dict[str, np.ndarray],
    trained: Trained,
) -> None:
    order = np.argsort(-scores)[:NEAREST]
    print(f"nearest to {query!r} by {trained.config.loss.score} (higher is nearer):")
    for rank, number in enumerate(order, 1):
        seen = "+".join(n for n in ("video", "audio", "subtitle") if _has(vectors, n, number))
        print(f"{rank:3d}  {scores[number]:8.4f}  {ids[number]}  ({seen or 'nothing readable'})")


def _has(vectors: dict[str, np.ndarray], name: str, number: int) -> bool:
    return name in vectors and bool(vectors[f"{name}_mask"][number])


if __name__ == "__main__":
    cli.launch(main)
