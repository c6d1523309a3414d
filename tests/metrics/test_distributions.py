"""KL, inception score, cosines and saliency divergence against reference values."""

import numpy as np
import pytest
from features_of_sines import sines

from weavejax.metrics.distributions import (
    KL_FORMULAS,
    cosines,
    inception_scores,
    kl_divergences,
    saliency_kl,
)

TRUTH, MADE = 3 * sines(10, 7, 0.31, 0.1), 3 * sines(10, 7, 0.29, 0.4)


@pytest.mark.parametrize(
    ("formula", "golden"),
    [
        ("logspace", 0.5437472599),
        ("reverse", 0.5525111692),
        ("softmax", 0.5437236123),
        ("sigmoid", 1.2510806173),
        ("bernoulli", 1.8387760446),
    ],
)
def test_divergences_have_their_reference_values(formula, golden):
    values = kl_divergences(TRUTH, MADE, formula)
    assert values.shape == (10,)
    assert values.mean() == pytest.approx(golden, abs=1e-10)
    assert kl_divergences(TRUTH, TRUTH, formula) == pytest.approx(np.zeros(10), abs=1e-12)


def test_divergences_of_certain_classifiers_are_finite():
    certain = np.array([[500.0, -500.0]])
    for formula in KL_FORMULAS:
        assert np.isfinite(kl_divergences(certain, -certain, formula)).all()
    assert kl_divergences(certain, -certain, "logspace")[0] == pytest.approx(1000)
    with pytest.raises(ValueError, match="choose one of"):
        kl_divergences(TRUTH, MADE, "plain")
    with pytest.raises(ValueError, match="classes"):
        kl_divergences(TRUTH, MADE[:5], "softmax")


def test_the_inception_score_has_its_reference_values_and_bounds():
    logits = 3 * sines(40, 7, 0.31, 0.1)
    whole = inception_scores(logits, 1)
    assert whole[0] == pytest.approx(2.0237772817, abs=1e-9)
    ordered = inception_scores(logits, 4, None)
    assert ordered.mean() == pytest.approx(1.9496486471, abs=1e-9)
    assert ordered.std() == pytest.approx(0.1862967790, abs=1e-9)
    assert not np.array_equal(inception_scores(logits, 4), ordered)
    # Every clip another class, with certainty: as many as clips in a split.
    assert inception_scores(1000 * np.eye(20), 4, None) == pytest.approx([5.0] * 4)
    assert inception_scores(np.zeros((20, 3)), 2) == pytest.approx([1.0] * 2)
    with pytest.raises(ValueError, match="3 splits"):
        inception_scores(logits[:2], 3)


def test_cosines_are_of_row_with_row():
    one = np.array([[1.0, 0.0], [3.0, 4.0]])
    assert cosines(one, np.array([[0.0, 2.0], [6.0, 8.0]])) == pytest.approx([0.0, 1.0])
    with pytest.raises(ValueError, match="zero"):
        cosines(one, 0 * one)
    with pytest.raises(ValueError, match="both"):
        cosines(one, one[:1])


def test_saliency_divergence_has_its_reference_values():
    made, truth = (np.abs(sines(24, 6, a, b)).reshape(4, 6, 6) for a, b in ((0.37, 0), (0.53, 0.2)))
    assert saliency_kl(made, truth, epsilon=0).mean() == pytest.approx(0.2902747698, abs=1e-9)
    assert saliency_kl(truth, made, epsilon=0).mean() == pytest.approx(0.2861292678, abs=1e-9)
    assert saliency_kl(5 * made, made) == pytest.approx(np.zeros(4), abs=1e-6)
    with pytest.raises(ValueError, match="maps"):
        saliency_kl(made, truth[:2])
