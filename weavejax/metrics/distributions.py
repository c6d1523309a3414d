"""What a classifier and a joint embedding say of generated clips: KL, ISc, CLAP score, saliency KL.

On logits and embeddings given: which network they are of is part of the variant id.
"""

import itertools

import numpy as np
import scipy.special

KL_FORMULAS = ("softmax", "sigmoid", "logspace", "bernoulli", "reverse")
LOG_EPSILON = 1e-6  # in the logarithms of audioldm_eval and SpecVQGAN
SHUFFLE_SEED = 2020  # of the published inception scores


def kl_divergences(truth: np.ndarray, generated: np.ndarray, formula: str) -> np.ndarray:
    """Divergence of the class probabilities of each clip from those of the true one, nats, [n].

    Formulae, of truth p and generated q:
      softmax: Σ p (ln(p + ε) - ln(q + ε)), ε = 1e-6 (audioldm_eval, SpecVQGAN).
      logspace: Σ p (ln p - ln q), exact (av-benchmark).
      reverse: the same with p and q exchanged (audiocraft's order of arguments).
      sigmoid: Σ σ(p) (ln σ(p) - ln σ(q)) (audioldm_eval). It lacks the half of the absent class, so
        that it is no divergence and may be negative.
      bernoulli: both halves, exact.

    Args:
      truth: logits [n, classes].
      generated: logits [n, classes]; row i belongs to row i of the truth.
      formula: one of the above.

    Raises:
      ValueError: shapes differ, or the formula is unknown.
    """
    p, q = np.asarray(truth, np.float64), np.asarray(generated, np.float64)
    if p.shape != q.shape or p.ndim != 2:
        raise ValueError(f"logits are {p.shape} and {q.shape}, not [n, classes] both")
    if formula == "reverse":
        p, q, formula = q, p, "logspace"
    if formula == "logspace":
        one, other = (scipy.special.log_softmax(x, axis=1) for x in (p, q))
        terms = np.exp(one) * (one - other)
    elif formula == "softmax":
        one, other = (scipy.special.softmax(x, axis=1) for x in (p, q))
        terms = one * (np.log(one + LOG_EPSILON) - np.log(other + LOG_EPSILON))
    elif formula in ("sigmoid", "bernoulli"):
        terms = _present(p, q)
        if formula == "bernoulli":
            terms = terms + _present(-p, -q)
    else:
        raise ValueError(f"unknown KL formula {formula!r}; choose one of {', '.join(KL_FORMULAS)}")
    return np.asarray(terms.sum(1))


def inception_scores(
    logits: np.ndarray, splits: int = 10, seed: int | None = SHUFFLE_SEED
) -> np.ndarray:
    """ISc of each split, exp of the mean KL(p(y|x) ‖ p(y)): [splits]; their mean is the score.

    It depends on the size of a split and cannot exceed n / splits.

    Args:
      logits: [n, classes].
      splits: parts of (almost) equal size, each with its own p(y).
      seed: of the published shuffle; None keeps the order.

    Raises:
      ValueError: fewer rows than splits.
    """
    if len(logits) < splits:
        raise ValueError(f"{len(logits)} clips cannot be cut into {splits} splits")
    logits = np.asarray(logits, np.float64)
    if seed is not None:
        # The legacy generator, as published.
        order = np.random.RandomState(seed).permutation(len(logits))
        logits = logits[order]
    ends = np.arange(splits + 1) * len(logits) // splits
    return np.array([_inception(logits[a:b]) for a, b in itertools.pairwise(ends)])


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Cosine of row i with row i, [n]: the CLAP score of each clip.

    Of the generated sound with the true sound (Video-Foley, Fol·AI) or with its text; which of the two
    is part of the variant id.

    Args:
      one: [n, d].
      other: [n, d].

    Raises:
      ValueError: shapes differ, or a row is zero.
    """
    a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"embeddings are {a.shape} and {b.shape}, not [n, d] both")
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    if not (norms > 0).all():
        raise ValueError("an embedding is zero")
    return np.asarray((a * b).sum(1) / norms)


def saliency_kl(generated: np.ndarray, truth: np.ndarray, *, epsilon: float = 1e-7) -> np.ndarray:
    """KL(generated ‖ truth) of each saliency map as a distribution over its pixels, nats, [T].

    For the reverse, exchange the arguments.

    Args:
      generated: [T, H, W], not negative.
      truth: [T, H, W], not negative.
      epsilon: added to every pixel before a map is scaled to the sum 1.

    Raises:
      ValueError: shapes differ.
    """
    if generated.shape != truth.shape:
        raise ValueError(f"maps are {generated.shape} and {truth.shape}")
    maps = [np.asarray(x, np.float64).reshape(len(x), -1) + epsilon for x in (generated, truth)]
    p, q = (x / x.sum(axis=1, keepdims=True) for x in maps)
    return np.asarray(scipy.special.rel_entr(p, q).sum(1))


def _inception(logits: np.ndarray) -> float:
    log = scipy.special.log_softmax(logits, axis=1)
    mean = np.exp(log).mean(axis=0)
    # A class that no clip has contributes nothing.
    return float(np.exp((np.exp(log) * (log - np.log(np.maximum(mean, 1e-300)))).sum(1).mean()))


def _present(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """σ(p) (ln σ(p) - ln σ(q)) of logits."""
    difference = scipy.special.log_expit(p) - scipy.special.log_expit(q)
    return np.asarray(scipy.special.expit(p) * difference)
