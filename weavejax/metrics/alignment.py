"""How well a joint space aligns text with clips: retrieval by every subset of modalities, volumes,
pairwise cosines."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from weavejax.metrics.report import Histogram, Report, Table
from weavejax.metrics.retrieval import CUTOFFS, Found, bootstrap, recalls, rerank, search

Arrays = Mapping[str, np.ndarray]
ANCHOR = "text"
MODALITIES = ("video", "audio", "subtitle", "depth")
LACKING = (0.25, 0.5, 0.75)  # shares of clips that lose a stream, to see what that costs
SHOWN = 2048  # clips whose volumes and cosines are described; a matrix of them fits anywhere


class Score(Protocol):
    """What is needed of a score (`weavejax.losses.score.Score`)."""

    @property
    def prepare(self) -> Any: ...
    @property
    def compare(self) -> Any: ...
    @property
    def learned(self) -> Mapping[str, float]: ...
    @property
    def sees(self) -> str: ...
    def seen(self, fused: Any, clip: Any, present: Any) -> tuple[Any, Any]: ...


class Gallery(NamedTuple):
    """Who takes part in a retrieval.

    Attributes:
      name: for tables.
      subset: what is seen of a clip.
      rows: numbers of the pairs that are queries and candidates, int [N].
    """

    name: str
    subset: tuple[str, ...]
    rows: np.ndarray


def clip_modalities(vectors: Arrays) -> list[str]:
    """The modalities of the clip side, in their order."""
    return [name for name in MODALITIES if name in vectors]


def galleries(vectors: Arrays) -> Iterator[Gallery]:
    """Every subset of modalities, the whole set first; all clips, and only those with audio.

    Published recalls drop clips without audio, silently; both rules are reported where they differ. A
    pair takes part when it has a text and at least one modality of the subset.
    """
    names = clip_modalities(vectors)
    text = vectors["valid"] & vectors[f"{ANCHOR}_mask"]
    for size in range(len(names), 0, -1):
        for subset in itertools.combinations(names, size):
            seen = text & np.stack([vectors[f"{name}_mask"] for name in subset], 1).any(1)
            heard = seen & vectors.get("audio_mask", seen)
            yield Gallery("all clips", subset, np.flatnonzero(seen))
            if not np.array_equal(heard, seen):
                yield Gallery("clips with audio", subset, np.flatnonzero(heard))


def lacking(vectors: Arrays, share: float) -> Arrays:
    """The same vectors, but a share of the clips has lost one of its modalities, at random (seed 0).

    A clip keeps at least one.
    """
    names = clip_modalities(vectors)
    rng = np.random.default_rng(0)
    present = np.stack([vectors[f"{name}_mask"] for name in names], 1)
    hit = (rng.random(len(present)) < share) & (present.sum(1) > 1)
    lost = np.where(present, rng.random(present.shape), -1.0).argmax(1)
    kept = present & ~(hit[:, None] & (np.arange(len(names)) == lost[:, None]))
    return {**vectors, **{f"{name}_mask": kept[:, n] for n, name in enumerate(names)}}


def find(score: Score, vectors: Arrays, gallery: Gallery, top: int = 0) -> tuple[Found, Found]:
    """Text → clip and clip → text by one score; items are numbers within `gallery.rows`."""
    clips = _clips(score, vectors, gallery)
    # Per clip once and for all, so that the blocks only compare.
    prepared = jax.tree.map(np.asarray, jax.jit(score.prepare)(*clips))
    learned = {
        name: jnp.float32(np.ravel(vectors.get(f"score/{name}", value))[0])
        for name, value in score.learned.items()
    }
    anchors = vectors[ANCHOR][gallery.rows]
    return search(score.compare, anchors, prepared, learned, top=top)


def _clips(score: Score, vectors: Arrays, gallery: Gallery) -> tuple[jax.Array, jax.Array]:
    clip = np.stack([vectors[name][gallery.rows] for name in gallery.subset], axis=1)
    present = np.stack([vectors[f"{name}_mask"][gallery.rows] for name in gallery.subset], axis=1)
    if score.sees == "modalities":
        return jnp.asarray(clip), jnp.asarray(present)
    return score.seen(*map(jnp.asarray, (_fused(vectors, gallery), clip, present)))


def _fused(vectors: Arrays, gallery: Gallery) -> np.ndarray:
    """Of each clip, the fused vector of what it has of the subset [N, D]."""
    out = np.zeros_like(vectors[ANCHOR][gallery.rows])
    present = {name: vectors[f"{name}_mask"][gallery.rows] for name in gallery.subset}
    for size in range(1, len(gallery.subset) + 1):
        for subset in itertools.combinations(gallery.subset, size):
            exact = np.all([mask == (name in subset) for name, mask in present.items()], axis=0)
            vector = vectors[f"fused:{'+'.join(subset)}"][gallery.rows]
            out = np.where(exact[:, None], vector, out)
    return out


def alignment_report(
    scores: Mapping[str, Score], headline: str, vectors: Arrays, *, top: int = 0
) -> Report:
    """Retrieval both ways, volume statistics and cosines over one split.

    Args:
      scores: the dictionary of scores; `headline` and "cosine" are reported for every subset.
      headline: name of the score the model was trained with.
      vectors: unit vectors `<modality>` [N, D] with `<modality>_mask` [N], and `valid` [N]; row i of
        the text belongs to row i of the clip. With a second stage also `pairs` [P, 2] (text, clip) and
        their `match` probabilities [P].
      top: candidates of the second stage.
    """
    scalars: dict[str, float] = {}
    rows = []
    compared = dict.fromkeys((headline, "cosine"))
    for name, (seen, gallery) in itertools.product(compared, list(_galleries(vectors))):
        if not len(gallery.rows):
            continue
        second = (
            seen is vectors
            and name == headline
            and "match" in vectors
            and gallery.subset == _whole(vectors)
        )
        found = find(scores[name], seen, gallery, top if second else 0)
        stages = {name: (found[0].rank, found[1].rank)}
        if second:
            stages[f"{name}, then match"] = _second_stage(vectors, gallery, found)
        for stage, ranks in stages.items():
            scalars |= _scalars(stage, gallery, ranks)
            rows.append([stage, "+".join(gallery.subset), *_cells(gallery, ranks)])
    heads = ["R@1", "95 %", *(f"R@{k}" for k in CUTOFFS[1:]), "MdR"]
    columns = ["score", "clip seen as", "gallery", "of"]
    columns += [f"text→clip {h}" for h in heads] + [f"clip→text {h}" for h in heads]
    tables = [Table("Retrieval (recall in %, median rank)", columns, rows)]

    volumes, volume_table = _volume_statistics(scores["volume"], vectors)
    cosine_table = _cosine_table(vectors, [ANCHOR, *clip_modalities(vectors)])
    for row in (*volume_table.rows, *cosine_table.rows):
        scalars |= {
            f"{row[0]} {column}": value
            for column, value in zip(volume_table.columns[1:], row[1:], strict=True)
        }
    histogram = Histogram("Volumes of matched and mismatched clips", "volume", volumes)
    return Report(scalars, (*tables, volume_table, cosine_table), {"volumes": histogram})


def _galleries(vectors: Arrays) -> Iterator[tuple[Arrays, Gallery]]:
    """All galleries, and the whole clips again with streams lost; with the vectors they are of."""
    for gallery in galleries(vectors):
        yield vectors, gallery
    if len(clip_modalities(vectors)) > 1:
        for share in LACKING:
            worn = lacking(vectors, share)
            whole = next(galleries(worn))
            yield worn, whole._replace(name=f"{share:.0%} of clips lack a stream")


def _whole(vectors: Arrays) -> tuple[str, ...]:
    return tuple(clip_modalities(vectors))


def _scalars(stage: str, gallery: Gallery, ranks: tuple[np.ndarray, ...]) -> dict[str, float]:
    label = "+".join(gallery.subset)
    suffix = "" if gallery.name == "all clips" else f" ({gallery.name})"
    return {
        f"{stage}/{way}{suffix}/{key}": value
        for way, rank in zip((f"text→{label}", f"{label}→text"), ranks, strict=True)
        for key, value in recalls(rank).items()
    }


def _cells(gallery: Gallery, ranks: tuple[np.ndarray, ...]) -> list[str | int | float]:
    cells: list[str | int | float] = [gallery.name, len(gallery.rows)]
    for rank in ranks:
        first, *rest = recalls(rank).values()
        low, high = bootstrap(rank)
        cells += [first, f"{low:.1f}–{high:.1f}", *rest]
    return cells


def candidate_pairs(score: Score, vectors: Arrays, top: int) -> np.ndarray:
    """(text, clip) of everything a second stage has to look at, both ways, both galleries: [P, 2]."""
    found = []
    for gallery in galleries(vectors):
        if gallery.subset != _whole(vectors) or not len(gallery.rows):
            continue
        there, back = find(score, vectors, gallery, top)
        query = np.repeat(gallery.rows, there.best.shape[1])
        found.append(np.stack([query, gallery.rows[there.best.reshape(-1)]], 1))
        found.append(np.stack([gallery.rows[back.best.reshape(-1)], query], 1))
    return np.unique(np.concatenate(found), axis=0) if found else np.zeros((0, 2), np.int64)


def _second_stage(
    vectors: Arrays, gallery: Gallery, found: tuple[Found, Found]
) -> tuple[np.ndarray, np.ndarray]:
    """Ranks both ways by match probability among the candidates."""
    size = len(vectors["valid"])
    keys = vectors["pairs"][:, 0] * size + vectors["pairs"][:, 1]  # ascending, see candidate_pairs
    ranks = []
    for direction, side in enumerate(found):
        query = np.broadcast_to(gallery.rows[:, None], side.best.shape)
        item = gallery.rows[side.best]
        text, clip = (query, item) if direction == 0 else (item, query)
        probability = vectors["match"][np.searchsorted(keys, text * size + clip)]
        ranks.append(rerank(side, np.arange(len(gallery.rows)), probability))
    return ranks[0], ranks[1]


def _described(vectors: Arrays, gallery: Gallery) -> Gallery:
    """The gallery, thinned out evenly where it is large."""
    return gallery._replace(rows=gallery.rows[:: -(-len(gallery.rows) // SHOWN) or 1])


def _volume_statistics(score: Score, vectors: Arrays) -> tuple[dict[str, np.ndarray], Table]:
    gallery = _described(vectors, next(galleries(vectors)))
    clip, present = _clips(score, vectors, gallery)
    prepared = score.prepare(jnp.asarray(clip), jnp.asarray(present))
    sim = np.asarray(score.compare(jnp.asarray(vectors[ANCHOR][gallery.rows]), prepared, {}))
    own = np.eye(len(gallery.rows), dtype=bool)
    groups = {"matched": -sim[own]}
    if len(own) > 1:
        groups["mismatched"] = -sim[~own]
    title = f"Volumes of text with {'+'.join(gallery.subset)}"
    return groups, _statistics(title, {f"volume, {n}": v for n, v in groups.items()})


def _cosine_table(vectors: Arrays, names: list[str]) -> Table:
    samples = {}
    for one, other in itertools.combinations(names, 2):
        keep = vectors["valid"] & vectors[f"{one}_mask"] & vectors[f"{other}_mask"]
        rows = _described(vectors, Gallery("", (), np.flatnonzero(keep))).rows
        cosine = vectors[one][rows] @ vectors[other][rows].T
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
