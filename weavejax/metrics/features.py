"""Results from features, logits and embeddings of clips that some network has given."""

from collections.abc import Callable, Mapping

import numpy as np

from weavejax.metrics.distributions import cosines, inception_scores, kl_divergences
from weavejax.metrics.frechet import (
    SMALLEST,
    frechet_distance,
    frechet_infinity,
    kernel_distance,
    median_distance,
)
from weavejax.metrics.measured import Measured, Taken, measure_mean, measure_set

RESAMPLES = 200  # of sets; of a fit to many sets a tenth
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
        Rows of one clip are drawn together for the intervals.
      generated_clips: int [m], in the same numbering.
      resamples: draws of clips for the intervals; 0 for none.
      seed: of FAD∞'s own draws.
    """
    one, other = _owners(truth, truth_clips), _owners(generated, generated_clips)
    clips = 1 + int(max(one.max(), other.max()))
    truth_rows, generated_rows = (_rows_by_clip(owners, clips) for owners in (one, other))
    width = median_distance(np.asarray(truth, np.float64))  # of the kernel, the same in all draws
    rows = {"rows": float(len(generated)), "true rows": float(len(truth))}

    def of(distance: Callable[[np.ndarray, np.ndarray], float]) -> Callable[[np.ndarray], float]:
        def statistic(numbers: np.ndarray) -> float:
            return distance(
                truth[np.concatenate([truth_rows[k] for k in numbers])],
                generated[np.concatenate([generated_rows[k] for k in numbers])],
            )

        return statistic

    def infinity(a: np.ndarray, b: np.ndarray) -> float:
        # Draws of clips of unequal length may fall short of the smallest set.
        return frechet_infinity(a, b, seed=seed, smallest=min(SMALLEST, len(b) - 1)).value

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return kernel_distance(a, b, width)

    results = [
        measure_set(
            f"frechet_{name}", of(frechet_distance), clips, taken, resamples=resamples, beside=rows
        )
    ]
    if len(generated) > SMALLEST:
        fit = frechet_infinity(truth, generated, seed=seed)
        beside = {**rows, "R²": fit.fit, "slope": fit.slope}
        results.append(
            measure_set(
                f"fad_inf_{name}",
                of(infinity),
                clips,
                taken,
                resamples=resamples // 10,
                beside=beside,
            )
        )
    results.append(
        measure_set(f"kad_{name}", of(kernel), clips, taken, resamples=resamples, beside=rows)
    )
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
    results.append(
        measure_set(variant, score, len(generated), taken, resamples=resamples, beside=beside)
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
