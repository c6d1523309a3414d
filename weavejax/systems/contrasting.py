"""The contrastive part of a loss: anchors, views, missing modalities, blended scores."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from weavejax.errors import UserError
from weavejax.losses import SCORES
from weavejax.losses.missing import MISSING
from weavejax.losses.singular import pmrl_loss
from weavejax.losses.streamed import Contrast, Plan, contrast
from weavejax.systems.base import Metrics, Params
from weavejax.systems.towers import Towers, subsets

RIVALS = 1e-4  # added to the softmax when hard negatives are drawn, as published
CHOICES = {
    "gradient": ("full", "half"),
    "objective": ("softmax", "sigmoid", "pmrl"),
    "anchor": ("text", "each"),
    "views": ("whole", "subsets", "random"),
    "exchange": ("auto", "gather", "ring"),
    "missing": tuple(MISSING),
}


class View(NamedTuple):
    """One way to contrast a batch: an anchor, and what is seen of the clips.

    Attributes:
      name: for the metrics.
      anchor: unit vectors [B, D].
      clip: unit vectors [B, M, D].
      present: bool [B, M].
      paired: bool [B].
    """

    name: str
    anchor: Array
    clip: Array
    present: Array
    paired: Array


def check(config: Any) -> None:
    """Raises UserError unless `config.loss` is one that exists."""
    scores = tuple(sorted(SCORES))
    for key, known in {**CHOICES, "score": scores, "warmup_score": scores}.items():
        if config[key] not in known:
            raise UserError(f"loss.{key} {config[key]!r} is none of {', '.join(known)}")
    fused = [key for key in ("score", "warmup_score") if SCORES[config[key]].sees != "modalities"]
    if fused and (config.anchor != "text" or config.missing in ("mean", "ppca")):
        raise UserError(
            f"loss.{fused[0]} {config[fused[0]]!r} sees a vector fused of all of a clip: it goes with "
            "loss.anchor=text and loss.missing=phantom or drop"
        )
    if config.objective == "pmrl" and config.matching:
        raise UserError("loss.objective=pmrl draws no hard negatives: loss.matching must be 0")


def contrastive_loss(
    config: Any,
    towers: Towers,
    params: Params,
    vectors: dict[str, Array],
    key: Array,
    step: Array,
) -> tuple[Array, Array, Metrics, Contrast | None]:
    """Sum of the pairs' losses, number of pairs, metrics, and the contrast of text with whole clips.

    Args:
      config: `config.loss`.
      towers: whose clip modalities and learned scalars are meant.
      params: of the system.
      vectors: unit vectors [B, D] by modality with masks [B].
      key: for random views and hard negatives.
      step: for the blend.
    """
    if config.objective == "pmrl":
        return _pmrl(config.temperature, towers, vectors)
    share = blend(config, step)
    views = list(_views(config, towers, vectors, jax.random.fold_in(key, 1)))
    total = count = jnp.zeros(())
    metrics: Metrics = {"loss/blend": (share, jnp.ones(()))}
    first: Contrast | None = None
    for number, view in enumerate(views):
        run = _Run(config, towers, params, vectors, view, jax.random.fold_in(key, 2 + number))
        found = run(config.score, draw=bool(config.matching) and number == 0)
        first = found if first is None else first
        losses = found.total
        metrics[f"loss/{config.score}{view.name}"] = (losses, found.pairs)
        if config.warmup_steps or config.mix:
            other = run(config.warmup_score, draw=False)
            metrics[f"loss/{config.warmup_score}{view.name} (blended in)"] = (
                other.total,
                found.pairs,
            )
            losses = (1.0 - share) * losses + share * other.total
        # A mean over the views, each over its own pairs, on the scale of the first one's sum.
        total = total + losses / jnp.maximum(found.pairs, 1.0) / len(views)
        count = count + found.pairs / len(views)
    assert first is not None
    scale, bias = (
        params.get(name, jnp.zeros(())).astype(jnp.float32) for name in ("temperature", "bias")
    )
    metrics |= {
        "temperature": (scale, jnp.ones(())),
        "batch R@1": (100.0 * first.hit.sum().astype(jnp.float32), first.pairs),
        "score of matched": ((first.own.sum() - bias * first.pairs) * scale, first.pairs),
    }
    return total * count, count, metrics, first


class _Run:
    """Contrasts one view by one score."""

    def __init__(
        self,
        config: Any,
        towers: Towers,
        params: Params,
        vectors: dict[str, Array],
        view: View,
        key: Array,
    ) -> None:
        self.config, self.view, self.key = config, view, key
        self.vectors, self.modalities = vectors, towers.clip_modalities
        scalars = {"temperature": params["temperature"], **params.get("score", {})}
        if "bias" in params:
            scalars["bias"] = params["bias"]
        # Frozen parameters are kept in bfloat16; logits are float32.
        self.scalars = {name: x.astype(jnp.float32) for name, x in scalars.items()}
        if not config.learn_temperature:
            self.scalars["temperature"] = jax.lax.stop_gradient(self.scalars["temperature"])

    def __call__(self, name: str, *, draw: bool) -> Contrast:
        config, view, score = self.config, self.view, SCORES[name]
        clip, present = view.clip, view.present
        if score.sees != "modalities":
            joint = fused(self.vectors, self.modalities, present)
            clip, present = score.seen(joint, clip, present)
        plan = Plan(
            objective=config.objective,
            gradient=config.gradient,
            smoothing=config.smoothing,
            block=config.block,
            exchange=config.exchange,
            rivals=RIVALS if draw else 0.0,
        )
        return contrast(
            plan, score, view.anchor, clip, present, view.paired, self.scalars, self.key
        )


def _views(config: Any, towers: Towers, vectors: dict[str, Array], key: Array) -> Iterator[View]:
    """The views of `config.anchor` and `config.views`, text with whole clips first."""
    names = ("text", *towers.clip_modalities)
    filled = _imputed(config, vectors, towers.clip_modalities)
    for anchor in names if config.anchor == "each" else names[:1]:
        others = tuple(name for name in names if name != anchor)
        label = "" if anchor == "text" else f" from {anchor}"
        clip = jnp.stack([filled[name] for name in others], axis=1)
        present = jnp.stack([filled[f"{name}_mask"] for name in others], axis=1)
        shown = [others]
        if config.views == "random":
            present = _random_subset(present, key)
        elif config.views == "subsets":
            shown = subsets(others)
        for subset in shown:
            keep = jnp.array([name in subset for name in others])
            seen = present & keep[None]
            paired = filled[f"{anchor}_mask"] & seen.any(1)
            more = "" if subset == others else f" to {'+'.join(subset)}"
            yield View(label + more, filled[anchor], clip, seen, paired)


def _imputed(config: Any, vectors: dict[str, Array], names: tuple[str, ...]) -> dict[str, Array]:
    """The vectors with what `config.missing` puts in the place of absent modalities."""
    clip = jnp.stack([vectors[name] for name in names], axis=1)
    present = jnp.stack([vectors[f"{name}_mask"] for name in names], axis=1)
    clip, present = MISSING[config.missing](clip, present)
    made = dict(vectors)
    for number, name in enumerate(names):
        made[name], made[f"{name}_mask"] = clip[:, number], present[:, number]
    return made


def _random_subset(present_bm: Array, key: Array) -> Array:
    """A random non-empty subset of each clip's present modalities, all sizes alike."""
    first, second = jax.random.split(key)
    order_bm = jnp.where(present_bm, jax.random.uniform(first, present_bm.shape), jnp.inf)
    rank_bm = jnp.argsort(jnp.argsort(order_bm, axis=1), axis=1)
    count_b = jnp.maximum(present_bm.sum(1), 1)
    keep_b = jax.random.randint(second, count_b.shape, 1, count_b + 1)
    return present_bm & (rank_bm < keep_b[:, None])


def fused(vectors: dict[str, Array], names: tuple[str, ...], present_bm: Array) -> Array:
    """Each clip's fused vector [B, D] of the modalities that it has among those shown."""
    out = jnp.zeros_like(vectors["text"])
    for subset in subsets(names):
        wanted = jnp.array([name in subset for name in names])
        vector = vectors[f"fused:{'+'.join(subset)}"]
        out = jnp.where((present_bm == wanted[None]).all(1)[:, None], vector, out)
    return out


def _pmrl(
    temperature: float, towers: Towers, vectors: dict[str, Array]
) -> tuple[Array, Array, Metrics, None]:
    """At the config's temperature, as published: one that learns goes to 0, and the loss with it."""
    names = ("text", *towers.clip_modalities)
    stacked = jnp.stack([vectors[name] for name in names], axis=1)
    present = jnp.stack([vectors[f"{name}_mask"] for name in names], axis=1)
    total, count = pmrl_loss(stacked, present, alignment=temperature)
    return total, count, {"loss/pmrl": (total, count)}, None


def blend(config: Any, step: Array) -> Array:
    """Share of the warm-up score in the loss: 1 falling to `mix` over `warmup_steps`, then `mix`."""
    fall = jnp.clip(1.0 - step.astype(jnp.float32) / max(config.warmup_steps, 1), 0.0, 1.0)
    return jnp.maximum(fall if config.warmup_steps else jnp.zeros(()), config.mix)
