"""How well a joint space aligns text with clips: retrieval by every subset of modalities, volumes,
pairwise cosines."""

import itertools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from weavejax.metrics.report import Histogram, Report, Table
from weavejax.metrics.retrieval import CUTOFFS, ranks, recalls

Arrays = Mapping[str, np.ndarray]
Scores = Mapping[str, Callable[..., jax.Array]]
ANCHOR = "text"
BLOCK = 1024  # anchors scored at a time


def alignment_report(scores: Scores, headline: str, vectors: Arrays) -> Report:
    """Retrieval both ways, volume statistics and cosines over one split.

    Args:
      scores: the dictionary of scores; `headline` and "cosine" are reported for every subset.
      headline: name of the score the model was trained with.
      vectors: unit vectors `<modality>` [N, D] with `<modality>_mask` [N], and `valid` [N]; row i of
        the text belongs to row i of the clip.
    """
    clip_modalities = [n for n in ("video", "audio", "subtitle") if n in vectors]
    scalars: dict[str, float] = {}
    rows = []
    for name in dict.fromkeys((headline, "cosine")):
        for subset in _subsets(clip_modalities):
            sim, count = score_matrix(scores[name], vectors, subset)
            if count < 2:
                continue
            ways = (recalls(ranks(sim)), recalls(ranks(sim.T)))
            label = "+".join(subset)
            for way, result in zip((f"text→{label}", f"{label}→text"), ways, strict=True):
                scalars |= {f"{name}/{way}/{key}": value for key, value in result.items()}
            rows.append([name, label, count, *ways[0].values(), *ways[1].values()])
    heads = [f"R@{k}" for k in CUTOFFS] + ["MdR"]
    columns = ["score", "clip seen as", "gallery"]
    columns += [f"text→clip {h}" for h in heads] + [f"clip→text {h}" for h in heads]
    tables = [Table("Retrieval (recall in %, median rank)", columns, rows)]

    volumes, volume_table = _volume_statistics(scores, vectors, clip_modalities)
    cosine_table = _cosine_table(vectors, [ANCHOR, *clip_modalities])
    for row in (*volume_table.rows, *cosine_table.rows):
        scalars |= {
            f"{row[0]} {column}": value
            for column, value in zip(volume_table.columns[1:], row[1:], strict=True)
        }
    histogram = Histogram("Volumes of matched and mismatched clips", "volume", volumes)
    return Report(scalars, (*tables, volume_table, cosine_table), {"volumes": histogram})


def _subsets(names: list[str]) -> list[tuple[str, ...]]:
    """All non-empty subsets, the whole set first."""
    sizes = range(len(names), 0, -1)
    return [subset for size in sizes for subset in itertools.combinations(names, size)]


def score_matrix(
    score: Callable[..., jax.Array], vectors: Arrays, subset: tuple[str, ...]
) -> tuple[np.ndarray, int]:
    """Scores of every text with every clip seen through `subset`: [N, N] and N.

    Only rows with a text and at least one of the subset's modalities take part, as query and as
    candidate.
    """
    clip = np.stack([vectors[name] for name in subset], axis=1)
    present = np.stack([vectors[f"{name}_mask"] for name in subset], axis=1)
    keep = vectors["valid"] & vectors[f"{ANCHOR}_mask"] & present.any(1)
    anchor, clip, present = vectors[ANCHOR][keep], clip[keep], present[keep]
    run = jax.jit(score)
    blocks = [
        np.asarray(run(jnp.asarray(anchor[start : start + BLOCK]), clip, present))
        for start in range(0, len(anchor), BLOCK)
    ]
    return np.concatenate(blocks) if blocks else np.zeros((0, 0)), len(anchor)


def _volume_statistics(
    scores: Scores, vectors: Arrays, subset: list[str]
) -> tuple[dict[str, np.ndarray], Table]:
    sim, count = score_matrix(scores["volume"], vectors, tuple(subset))
    own = np.eye(count, dtype=bool)
    groups = {"matched": -sim[own], "mismatched": -sim[~own]}
    title = f"Volumes of text with {'+'.join(subset)}"
    return groups, _statistics(title, {f"volume, {n}": v for n, v in groups.items()})


def _cosine_table(vectors: Arrays, names: list[str]) -> Table:
    samples = {}
    for one, other in itertools.combinations(names, 2):
        keep = vectors["valid"] & vectors[f"{one}_mask"] & vectors[f"{other}_mask"]
        cosine = vectors[one][keep] @ vectors[other][keep].T
        own = np.eye(len(cosine), dtype=bool)
        samples[f"cos({one}, {other}), matched"] = cosine[own]
        samples[f"cos({one}, {other}), mismatched"] = cosine[~own]
    return _statistics("Pairwise cosines", samples)


def _statistics(title: str, samples: Mapping[str, np.ndarray]) -> Table:
    rows = [
        [name, float(x.mean()), float(x.std()), *np.percentile(x, (5, 50, 95)).tolist()]
        for name, x in samples.items()
        if len(x)
    ]
    return Table(title, ("of", "mean", "std", "5 %", "median", "95 %"), rows)
