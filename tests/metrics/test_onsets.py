"""Onset metrics on cases with known answers, in all modes."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weavejax.metrics.onsets import (
    TOLERANCES,
    average_precision,
    balanced_average_precision,
    match,
    measure_onsets,
    paper_scores,
    sound_scores,
    suppress,
)

RATE = 22_050
TIMES = np.array([0.5, 1.5, 2.5, 3.5])


def clicks(times, seconds=4.5):
    wave = np.zeros(round(seconds * RATE), np.float32)
    burst = np.exp(-np.arange(900) / 150) * np.sin(np.arange(900) * 0.9)
    for time in times:
        wave[round(time * RATE) :][:900] += burst.astype(np.float32)
    return wave


def by_variant(results):
    return {result.variant: result.value for result in results}


@pytest.mark.parametrize("shift_ms", [0, 40, 80, 120, 280, 320])
def test_a_click_train_shifted_by_less_than_the_tolerance_is_found(shift_ms):
    shift = shift_ms / 1000
    places = (TIMES * RATE).astype(np.int64)
    moved = ((TIMES + shift) * RATE).astype(np.int64)
    for tolerance in TOLERANCES:
        within = 1.0 if shift < tolerance else 0.0
        sound = sound_scores(TIMES, TIMES + shift, np.ones(4), tolerance)
        assert sound == (within, within, within)
        paper = paper_scores(places, moved, clicks(TIMES + shift), tolerance)
        assert (paper.accuracy, paper.f1) == (within, within)
        assert paper.average_precision == pytest.approx(1.0 if within else 0.5)


@pytest.mark.parametrize("shift_ms", [40, 80, 120, 280, 320])
def test_the_same_from_sound_to_score(shift_ms):
    # Detection counts in frames of 23 ms, which both sides are rounded to.
    truth, made = clicks(TIMES), clicks(TIMES + shift_ms / 1000)
    values = by_variant(measure_onsets([truth], [made], RATE, "m"))
    for mode, name in itertools.product(("paper", "syncfusion", "sound"), ("acc", "f1")):
        for tolerance in (50, 100, 300):
            expected = 1.0 if shift_ms < tolerance else 0.0
            assert values[f"onset_{name}_{mode}_{tolerance}ms"] == expected
    assert values["onset_count_acc_sound"] == 1.0
    annotated = by_variant(
        measure_onsets([truth], [made], RATE, "m", annotated=[TIMES], modes=["sound"])
    )
    assert annotated["onset_f1_sound_300ms_annotated"] == (1.0 if shift_ms < 300 else 0.0)


def test_silence_is_perfect_on_paper_and_nothing_in_sound_mode():
    values = by_variant(measure_onsets([clicks(TIMES)], [np.zeros(4 * RATE)], RATE, "m"))
    # As published: every reference onset a positive of score 0, and nothing else.
    assert values["onset_ap_paper_100ms"] == 1.0
    assert values["onset_acc_paper_100ms"] == 0.0
    assert values["onset_ap_syncfusion_100ms"] == 0.0
    for name, tolerance in itertools.product(("acc", "ap", "f1"), (50, 100, 300)):
        assert values[f"onset_{name}_sound_{tolerance}ms"] == 0.0
    assert values["onset_count_acc_sound"] == 0.0


def test_silence_for_silence_has_no_value_but_in_syncfusions_script():
    silence = [np.zeros(RATE)]
    results = {r.variant: r for r in measure_onsets(silence, silence, RATE, "m")}
    for mode in ("paper", "sound"):
        result = results[f"onset_f1_{mode}_100ms"]
        assert math.isnan(result.value)
        assert result.skipped == {"no onsets on either side": 1}
        assert results[f"onset_count_acc_{mode}"].value == 1.0
    assert results["onset_f1_syncfusion_100ms"].value == 0.0
    assert results["onset_count_acc_syncfusion"].value == 0.0


def test_misses_after_the_last_generated_onset_count_in_sound_mode_alone():
    one = np.array([int(0.5 * RATE)])
    paper = paper_scores((TIMES * RATE).astype(int), one, clicks([0.5]), 0.1)
    assert paper.average_precision == 1.0
    assert paper.accuracy == 0.25
    sound = sound_scores(TIMES, np.array([0.5]), np.ones(1), 0.1)
    assert sound == (0.25, 0.25, pytest.approx(2 / 5))


def test_the_paper_takes_the_loudest_and_sound_mode_the_nearest():
    wave = np.zeros(2 * RATE)
    quiet, loud = round(1.0 * RATE), round(1.09 * RATE)
    wave[quiet], wave[loud] = 0.5, 1.0
    truth = np.array([round(1.0 * RATE), round(1.12 * RATE)])
    # The loud one is taken by the first reference; the quiet one is too far from the second.
    assert paper_scores(truth, np.array([quiet, loud]), wave, 0.1).accuracy == 0.5
    pairs = match(truth / RATE, np.array([quiet, loud]) / RATE, 0.1)
    assert [p.tolist() for p in pairs] == [[0, 1], [0, 1]]


def test_an_onset_in_the_first_50_ms_has_a_confidence():
    wave = clicks([0.02, 1.0])
    places = np.array([512, RATE])
    assert paper_scores(places, places, wave, 0.05).average_precision == 1.0


def test_of_near_onsets_the_most_certain_stays_and_the_published_slip_with_it():
    places = np.array([10_000, 11_000, 12_000])
    assert suppress(places, np.array([0.2, 0.9, 0.1])).tolist() == [11_000, 12_000]
    assert suppress(places[:2], np.array([0.9, 0.2])).tolist() == [10_000]
    assert suppress(places[[0, 2]], np.array([0.9, 0.2])).tolist() == [10_000, 12_000]


def naive_average_precision(labels, scores, positives):
    total, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        found = [label for label, score in zip(labels, scores, strict=True) if score >= threshold]
        recall = sum(found) / positives
        total += (recall - before) * sum(found) / len(found)
        before = recall
    return total


cases = st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(cases, st.integers(0, 3))
def test_average_precision_is_its_definition(case, misses):
    labels, scores = (np.array(column) for column in zip(*case, strict=True))
    positives = int(labels.sum()) + misses
    found = average_precision(labels, scores, positives)
    expected = naive_average_precision(labels, scores, positives) if positives else 0.0
    assert found == pytest.approx(expected)
    assert 0 <= found <= 1


def test_balanced_average_precision_takes_as_many_negatives_as_positives():
    labels = np.array([[0, 1, 0], [0, 1, 0]])
    scores = np.array([[0.1, 0.9, 0.2], [1.0, 0.8, 1.0]])
    assert balanced_average_precision(labels, scores) == 1.0
    assert average_precision(labels.ravel(), scores.ravel()) == pytest.approx((1 / 3 + 2 / 4) / 2)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 40), max_size=5),
    st.lists(st.integers(0, 40), max_size=5),
    st.sampled_from([1, 3, 8]),
)
def test_as_many_pairs_as_can_be(truth, found, tolerance):
    rows, columns = match(np.array(truth, float), np.array(found, float), tolerance)
    assert len(set(rows)) == len(set(columns)) == len(rows)
    assert all(abs(truth[r] - found[c]) <= tolerance for r, c in zip(rows, columns, strict=True))
    # The most there are, by trying everything.
    small, large = sorted((truth, found), key=len)
    most = max(
        sum(abs(a - b) <= tolerance for a, b in zip(small, some, strict=True))
        for some in itertools.permutations(large, len(small))
    )
    assert len(rows) == most


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="choose one of paper"):
        measure_onsets([clicks([0.5])], [clicks([0.5])], RATE, "m", modes=["strict"])
