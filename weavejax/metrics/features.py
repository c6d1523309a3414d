"""Results from features, logits and embeddings of clips that some network has given."""

from collections.abc import Callable, Mapping

import numpy as np

from weavejax.metrics.distributions import cosines, inception_scores, kl_divergences
from weavejax.metrics.frechet import (
    SMALLEST,
    KernelDraws,
    frechet_distance,
    frechet_infinity,
    kernel_distance,
)
from weavejax.metrics.measured import Measured, Taken, measure_mean, measure_set

Statistic = Callable[[np.ndarray], float]
Beside = Mapping[str, float]

RESAMPLES = 200  # of sets; of a fit to many sets a tenth
KERNEL_ROWS = 16_384  # of both sets: 1 GiB for the interval of KAD; beyond it there is none
SPLITS = 10


def measure_distances(
    name: str,
    truth: np.ndarray,
    generated: np.ndarray,
    taken: Taken,
    *,
    truth_clips: np.ndarray | None = None,
    generated_clips: np.ndarray | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Measured]:
    """Fréchet distance, FAD∞ where there are rows enough, and KAD.

    Args:
      name: of the features, for the variant ids: network, layer, front end.
      truth: [n, d].
      generated: [m, d].
      taken: how the sound came to them.
      truth_clips: number of the clip that each row is of, int [n]; None when every clip has one row.
        Rows of one clip, true and generated, are drawn together for the intervals.
      generated_clips: int [m], in the same numbering; without either, row i of both sets is of clip i
        when they are equally long, and else all rows are of different clips.
      resamples: draws of clips for the intervals; 0 for none.
      seed: of FAD∞'s own draws.
    """
    if truth_clips is None and generated_clips is None and len(truth) != len(generated):
        generated_clips = len(truth) + np.arange(len(generated))  # no pairs: two sets of clips
    one, other = _owners(truth, truth_clips), _owners(generated, generated_clips)
    clips = 1 + int(max(one.max(), other.max()))
    truth_rows, generated_rows = (_rows_by_clip(owners, clips) for owners in (one, other))
    beside = {"rows": float(len(generated)), "true rows": float(len(truth))}

    def drawn(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (
            truth[np.concatenate([truth_rows[k] for k in numbers])],
            generated[np.concatenate([generated_rows[k] for k in numbers])],
        )

    def limit(numbers: np.ndarray) -> float:
        rows, some = drawn(numbers)
        # Draws of clips of unequal length may fall short of the smallest set.
        smallest = min(SMALLEST, len(some) - 1)
        return frechet_infinity(rows, some, seed=seed, smallest=smallest).value

    def add(metric: str, value: float, statistic: Statistic, draws: int, more: Beside) -> None:
        results.append(
            measure_set(
                f"{metric}_{name}",
                value,
                statistic,
                len(np.unique(other)),
                taken,
                resamples=draws,
                members=clips,
                beside={**beside, **more},
            )
        )

    results: list[Measured] = []
    distance = frechet_distance(truth, generated)
    add("frechet", distance, lambda k: frechet_distance(*drawn(k)), resamples, {})
    if len(generated) > SMALLEST:
        fit = frechet_infinity(truth, generated, seed=seed)
        add("fad_inf", fit.value, limit, resamples // 10, {"R²": fit.fit, "slope": fit.slope})
    few = resamples > 0 and len(truth) + len(generated) <= KERNEL_ROWS
    counted = KernelDraws(truth, generated) if few else None

    def kernel(numbers: np.ndarray) -> float:
        assert counted is not None
        return counted.distance(_times(numbers, one), _times(numbers, other))

    draws = resamples if few else 0
    add("kad", kernel_distance(truth, generated), kernel, draws, {})
    return results


def measure_logits(
    name: str,
    truth: np.ndarray,
    generated: np.ndarray,
    taken: Taken,
    *,
    formulas: tuple[str, ...] = ("softmax", "logspace"),
    splits: int = SPLITS,
    resamples: int = RESAMPLES,
) -> list[Measured]:
    """KL of each clip to its truth, and the ISc of the generated clips.

    Args:
      name: of the classifier, for the variant ids.
      truth: logits [n, classes].
      generated: logits [n, classes], row for row.
      taken: how the sound came to it.
      formulas: of `distributions.kl_divergences`.
      splits: of the ISc; fewer when there are fewer clips (the variant id says how many).
      resamples: draws for the interval of the ISc; 0 for none.
    """
    splits = min(splits, len(generated))
    results = [
        measure_mean(f"kl_{formula}_{name}", kl_divergences(truth, generated, formula), taken)
        for formula in formulas
    ]

    def score(numbers: np.ndarray) -> float:
        return float(inception_scores(generated[numbers], splits).mean())

    beside = {"of the truth": float(inception_scores(truth, splits).mean())}
    variant = f"isc_{splits}_{name}"
    value = score(np.arange(len(generated)))
    results.append(
        measure_set(
            variant, value, score, len(generated), taken, resamples=resamples, beside=beside
        )
    )
    return results


def measure_clap(
    name: str,
    generated: np.ndarray,
    references: Mapping[str, np.ndarray],
    taken: Taken,
) -> list[Measured]:
    """CLAP score against each kind of reference.

    Args:
      name: of the network and its front end, for the variant ids.
      generated: embeddings of the generated sounds [n, d].
      references: `audio` (the true sounds) and/or `text` → embeddings [n, d], row for row.
      taken: how the sound came to it.
    """
    return [
        measure_mean(f"clap_score_{kind}_{name}", cosines(generated, vectors), taken)
        for kind, vectors in references.items()
    ]


def _owners(rows: np.ndarray, clips: np.ndarray | None) -> np.ndarray:
    owners = np.arange(len(rows)) if clips is None else np.asarray(clips)
    if owners.shape != (len(rows),):
        raise ValueError(f"{len(rows)} rows of {owners.shape} clips")
    return owners


def _rows_by_clip(owners: np.ndarray, clips: int) -> list[np.ndarray]:
    order = np.argsort(owners, kind="stable")
    return np.split(order, np.searchsorted(owners[order], np.arange(1, clips)))


def _times(numbers: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """How often each row is drawn with the clips of these numbers: [n]."""
    return np.bincount(numbers, minlength=int(owners.max()) + 1)[owners]
