"""What a run learns from: clips, or the features of them that `weavejax.extract` has kept.

Features stand for clips only where they were made of these clips by these networks from the same
inputs; otherwise a run would learn from one thing and be evaluated on another.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from weavejax.data.features import FeatureClips, FeatureSpec, open_features
from weavejax.errors import UserError
from weavejax.runs.assemble import Data, fetched, open_data
from weavejax.runtime.digest import digests
from weavejax.systems.base import System

EXTRACT = "run weavejax.extract with the very config, to another --out"


def features_facts(system: System, data: Data, params: Any) -> dict[str, Any]:
    """What features of a system depend on beside the clips, for their manifest.

    All processes of a job must call.
    """
    latents = system.latents
    return {
        "networks": digests(params, latents.parts if latents else ()),
        "vocabulary": _digest(data.vocabulary),
        "key": dict(latents.key) if latents else {},
    }


def open_learning(system: System, config: Any, workdir: Path) -> Data:
    """`assemble.open_data`, with features in the place of training clips where the config says so.

    Raises:
      UserError: as `open_data`; the features are not there, not of these clips, or made with another
        tokenizer, other inputs or other networks.
    """
    data = open_data(config, workdir)
    latents = system.latents
    if latents is None or not latents.chosen:
        return data
    root = config.inputs.root
    if not root:
        raise UserError(
            "inputs.root is empty: give the directory of weavejax.extract, --config.inputs.root=DIR"
        )
    source = open_features(fetched(root, config.data.local))
    manifest = source.manifest
    told = {
        "clips": (manifest.get("source"), data.train.fingerprint),
        "tokenizer": (manifest.get("vocabulary"), _digest(data.vocabulary)),
        **_beside(manifest.get("key", {}), latents.key),
        "arrays": (manifest["arrays"], _arrays(latents.spec)),
    }
    other = [name for name, (kept, wanted) in told.items() if kept != wanted]
    if other:
        raise UserError(f"{root} holds features of another {' and '.join(other)}: {EXTRACT}")
    arrays = tuple((name, tuple(shape)) for name, shape in manifest["arrays"].items())
    clips = FeatureClips(source)
    return replace(data, train=clips, learnt=FeatureSpec(arrays))


def check_networks(data: Data, params: Any) -> None:
    """Whether the features that a run learns from are of the networks that it holds.

    All processes of a job must call; clips that are no features fit any networks.

    Raises:
      UserError: they are not.
    """
    if not isinstance(data.train, FeatureClips):
        return
    made = data.train.networks
    other = [part for part, found in digests(params, tuple(made)).items() if found != made[part]]
    if other:
        raise UserError(
            f"the features were made by another {' and '.join(other)} than this run starts from: "
            f"{EXTRACT}, config.init included"
        )


def _beside(kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {name: (kept.get(name), wanted.get(name)) for name in {**wanted, **kept}}


def _arrays(spec: Mapping[str, Any]) -> dict[str, list[int]]:
    return {n: list(leaf.shape[1:]) for n, leaf in spec.items() if not n.endswith("_mask")}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
