"""Scores of a network that looks at frames, on cases with known answers."""

import numpy as np
import pytest

from weavejax.metrics.detection import balanced_entropy, candidates, measure_detection
from weavejax.metrics.measured import Taken

FPS = 15.0


def logits_of(times, frames=30, high=3.0):
    found = np.full(frames, -3.0)
    found[np.floor(np.asarray(times) * FPS).astype(int)] = high
    return found


def scores(logits, truth, threshold=0.5):
    labels = [(logits_of(times) > 0).astype(float) for times in truth]
    found = measure_detection(logits, labels, truth, FPS, threshold, Taken("abc"))
    return {each.variant: each.value for each in found}


def test_candidates_are_the_vertices_of_peaks():
    found = candidates(np.array([0.0, 2.0, 2.0, 1.0, 3.0]), 10.0)
    np.testing.assert_allclose(
        found.times, [0.2, 0.45]
    )  # between two equals; the middle of the last
    np.testing.assert_allclose(found.confidence, [2.0, 3.0])
    place = 0.1 * np.arange(5) + 0.05
    for onset in (0.21, 0.25, 0.29):
        parabola = 1.0 - 30 * np.square(place - onset)
        np.testing.assert_allclose(candidates(parabola, 10.0).times, [onset])
    assert len(candidates(np.zeros(5), 10.0).times) == 1  # a plateau is one


def test_a_perfect_detector_scores_one_whatever_the_phase_of_the_onsets():
    truth = [np.array([0.01, 0.7, 1.99]), np.array([0.5])]
    found = scores([logits_of(t) for t in truth], truth)
    # Logits of ±3: a loss of log(1 + e⁻³) wherever it stands, twice that for the weight of the hits.
    assert found.pop("detector_bce_balanced_frames") == pytest.approx(
        np.log1p(np.exp(-3.0)) * 2 * 56 / 60
    )
    for name, value in found.items():
        assert value == pytest.approx(1.0), name


def test_misses_and_false_alarms_lower_what_they_should():
    truth = [np.array([0.2, 1.0])]
    missed = scores([logits_of([0.2])], truth)
    assert missed["detector_ap_clips_50ms"] == pytest.approx(0.5)
    assert missed["detector_f1_clips_50ms"] == pytest.approx(2 / 3)
    assert missed["detector_count_acc_candidates"] == 0.0
    noisy = logits_of([0.2, 1.0])
    noisy[25] = 5.0  # more certain than both, which are equal
    late = scores([noisy], truth)
    assert late["detector_ap_clips_50ms"] == pytest.approx(2 / 3)


def test_the_cross_entropy_is_the_one_that_the_network_is_trained_by():
    rng = np.random.default_rng(0)
    labels, logits = (rng.random(40) < 0.2).astype(float), rng.normal(size=40)
    chance = 1 / (1 + np.exp(-logits))
    weight = (40 - labels.sum()) / labels.sum()
    naive = -(weight * labels * np.log(chance) + (1 - labels) * np.log(1 - chance)).mean()
    assert balanced_entropy(labels, logits) == pytest.approx(naive)
    assert balanced_entropy(np.zeros(3), np.full(3, 1e4)) == pytest.approx(1e4)


def test_tolerances_tell_how_late_a_detection_is():
    found = scores([logits_of([0.2 + 2 / FPS])], [np.array([0.2])])
    assert found["detector_ap_clips_50ms"] == found["detector_ap_clips_100ms"] == 0.0
    assert found["detector_ap_clips_300ms"] == 1.0


def test_a_clip_without_onsets_counts_only_where_something_is_found():
    quiet = [np.full(30, -3.0)]
    none = measure_detection(quiet, [np.zeros(30)], [np.zeros(0)], FPS, 0.5, Taken("abc"))
    by_name = {each.variant: each for each in none}
    f1 = by_name["detector_f1_clips_50ms"]
    assert (f1.count, dict(f1.skipped)) == (0, {"no onsets on either side": 1})
    assert scores([logits_of([1.0])], [np.zeros(0)])["detector_f1_clips_50ms"] == 0.0
