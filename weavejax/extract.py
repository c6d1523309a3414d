"""Run the frozen networks of a model once over its clips, and keep what they give.

  python -m weavejax.extract --workdir runs/gram --out features/gram
  python -m weavejax.extract --workdir runs/gram --split test --out features/gram-test
  python -m weavejax.extract --config configs/gram.py:published --weights params.safetensors --out DIR
  python -m weavejax.extract --config configs/folai.py --out features/folai

The last takes the networks that training with this config would start from (config.init), for training
to learn from what is kept, `--config.inputs.kind=latents --config.inputs.root=DIR`.

Writes ArrayRecord shards with, per clip, what the frozen networks give (GRAM: the pooled output of each
encoder before the heads; Fol·AI: latents of sound and envelope, embeddings of caption and frames; the
envelope network: what its tower sees in every frame, and levels), of the first caption and the middle
of the picture, presence masks and texts; and manifest.json: config,
weights, networks, clips. Started again, it goes on with the shards that are not there. In a job of
several processes each decodes its part of every batch, and they write in turn.
`weavejax.data.features.open_features` reads it back.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from weavejax import systems
from weavejax.data.features import open_features
from weavejax.errors import UserError
from weavejax.runs import assemble, extraction, initial, learning
from weavejax.runs.restore import Trained, restore
from weavejax.runtime import cli, cluster, tree
from weavejax.runtime.checkpoint import Checkpoints
from weavejax.runtime.mesh import make_mesh
from weavejax.runtime.step import lay_out
from weavejax.storage import is_remote, storage
from weavejax.weights.safe import SafeFile, open_safetensors

FLAGS = {
    "workdir": "directory of a training run",
    "step": "which checkpoint: latest (default), best, or a step",
    "weights": "with --config: parameters as .safetensors; default: what config.init names",
    "split": "train (default) or test",
    "out": "directory of the features",
    "shard": "clips in a shard, of which a process holds one in memory; default 4096",
    "cluster": f"how processes find each other: {', '.join(cluster.KINDS)}; default auto",
}
CHUNK = 2**22


def main(argv: Sequence[str]) -> None:
    """Opens the model and its data, computes, writes."""
    takes_config = any(argument.lstrip("-").startswith("config") for argument in argv)
    arguments = cli.parse(argv, __doc__ or "", FLAGS, takes_config=takes_config)
    values = arguments.values
    _check(values, takes_config)
    cluster.start(values["cluster"] or "auto")
    out, shard = Path(values["out"]), int(values["shard"] or 4096)
    if takes_config:
        workdir = out
        trained, weights = _from_config(arguments.config, values["weights"])
    else:
        workdir = storage(values["workdir"])
        trained, weights = _from_run(workdir, values["step"])
    split = values["split"] or "train"
    data = cluster.primary_first("data", lambda: assemble.open_data(trained.config, workdir))
    source = data.train if split == "train" else data.test
    facts = {
        "config": json.loads(trained.config.to_json_best_effort()),
        "weights": weights,
        "split": split,
        **learning.features_facts(trained.system, data, trained.params),
    }
    for part in ("runtime", "optim", "guard"):  # how a run is carried out changes no feature
        facts["config"].pop(part, None)
    extraction.extract(trained, data, source, out, facts, shard)
    if cluster.primary():
        made = open_features(out)
        arrays = ", ".join(f"{name} {shape}" for name, shape in made.manifest["arrays"].items())
        print(f"{len(made):,} clips of {split}: {arrays}; written to {out}")
    cluster.shutdown()


def _check(values: Any, takes_config: bool) -> None:
    if not values["out"]:
        raise UserError("--out is missing: the directory of the features")
    if is_remote(storage(values["out"])):
        raise UserError("--out must be a directory that is mounted; copy it from there")
    if takes_config == bool(values["workdir"]) or (values["weights"] and not takes_config):
        raise UserError("give --workdir, or --config with --weights or config.init; see --help")
    if values["split"] not in ("", "train", "test"):
        raise UserError(f"--split {values['split']!r} is neither train nor test")
    if values["shard"] and (not values["shard"].isdigit() or int(values["shard"]) < 1):
        raise UserError(f"--shard {values['shard']!r} is not a number of clips")


def _from_run(workdir: Any, which: str) -> tuple[Trained, dict[str, Any]]:
    """The model of a run, and what identifies its parameters."""
    trained = restore(workdir, which)
    checkpoints = Checkpoints(workdir / "checkpoints", keep=1, read_only=True)
    files = json.dumps(checkpoints.facts(trained.step)["files"], sort_keys=True)
    checkpoints.close()
    return trained, {"step": trained.step, "sha256": hashlib.sha256(files.encode()).hexdigest()}


def _from_config(config: Any, weights: str) -> tuple[Trained, dict[str, Any]]:
    """The model of a config with the parameters of a file, else those that training starts from.

    Raises:
      UserError: neither is given, or they do not fit.
    """
    if weights:
        return _from_weights(config, Path(weights))
    if not initial.given(config.init):
        raise UserError("config.init names no weights to start from: give it some, or --weights")
    system, mesh = systems.build(config), make_mesh(config.runtime.mesh)
    layout = lay_out(system, config, mesh)
    fit = initial.check(system, layout, config.init)
    if cluster.primary():
        print(initial.describe(fit), flush=True)
    params = initial.params(system, layout, config.init, jax.random.key(config.seed))
    trained = Trained(config, system, params, layout.placed.params, mesh, 0)
    return trained, {"init": config.init.to_dict()}


def _from_weights(config: Any, path: Path) -> tuple[Trained, dict[str, Any]]:
    """The model of a config with the parameters of a file, and what identifies them.

    Raises:
      UserError: naming every parameter that is missing, unknown or of another shape.
    """
    if config.inputs.tokenizer == assemble.TRAINED_ON_CAPTIONS:
        raise UserError(
            "the vocabulary of the weights is that of a run's captions: give its file, "
            "--config.inputs.tokenizer=RUN/tokenizer.json"
        )
    system, mesh = systems.build(config), make_mesh(config.runtime.mesh)
    layout = lay_out(system, config, mesh)
    file = open_safetensors(path)
    shapes, placed = (tree.flatten(part.params) for part in (layout.shapes, layout.placed))
    _check_fit(file, shapes)
    leaves = {name: _put(file[name], leaf, placed[name]) for name, leaf in shapes.items()}
    digest = hashlib.sha256()
    with path.open("rb") as content:
        while chunk := content.read(CHUNK):
            digest.update(chunk)
    trained = Trained(config, system, tree.unflatten(leaves), layout.placed.params, mesh, 0)
    return trained, {"file": path.name, "sha256": digest.hexdigest()}


def _put(value: np.ndarray, leaf: Any, sharding: Any) -> jax.Array:
    """Each device gets its part alone."""
    return jax.make_array_from_callback(
        leaf.shape, sharding, lambda index: np.asarray(value[index]).astype(leaf.dtype)
    )


def _check_fit(file: SafeFile, shapes: dict[str, Any]) -> None:
    wrong = [f"{name} is missing" for name in shapes if name not in file.tensors]
    wrong += [f"{name} is not in the model" for name in file.tensors if name not in shapes]
    wrong += [
        f"{name} is {file.tensors[name].shape} instead of {shapes[name].shape}"
        for name in shapes
        if name in file.tensors and file.tensors[name].shape != shapes[name].shape
    ]
    if wrong:
        raise UserError(f"{file.path} does not fit the config: {'; '.join(wrong)}")


if __name__ == "__main__":
    cli.launch(main)
