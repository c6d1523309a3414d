"""SyncFusion's rules between annotations, frames and samples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weavejax.dials.onsets import (
    above_export_threshold,
    above_metric_threshold,
    first_of_runs,
    frame_labels,
    impulse_track,
    onset_times,
    thin_runs_as_published,
)


def test_labels_are_at_the_frames_that_the_onsets_lie_in():
    labels = frame_labels([0.0, 0.066, 0.067, 1.0, 1.999, 2.0, 3.5], 30)
    assert np.flatnonzero(labels).tolist() == [0, 1, 15, 29]
    assert labels.dtype == np.float32
    second = frame_labels([0.0, 1.999, 2.0, 3.5], 30, start=2.0)
    assert np.flatnonzero(second).tolist() == [0, 22]
    assert not frame_labels([], 30).any()


def test_the_two_thresholds_differ():
    probability = np.array([0.5, 0.62, 0.63, 0.74, 0.76])
    logits = np.log(probability / (1 - probability))
    assert above_export_threshold(logits).tolist() == [False, False, True, True, True]
    assert above_metric_threshold(logits).tolist() == [False, False, False, False, True]


def published_thinning(row):
    row = row.astype(int)
    for n in range(len(row) - 1):
        if row[n] == 1 and row[n + 1] == 1:
            row[n + 1] = 0
    return row.astype(bool)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=20))
def test_runs_are_thinned_as_the_published_loop_thins_them(frames):
    active = np.array(frames)
    np.testing.assert_array_equal(thin_runs_as_published(active), published_thinning(active))
    batch = np.stack([active, active[::-1]])
    np.testing.assert_array_equal(first_of_runs(batch)[0], first_of_runs(active))
    starts = [n for n, on in enumerate(frames) if on and (n == 0 or not frames[n - 1])]
    assert np.flatnonzero(first_of_runs(active)).tolist() == starts


def test_a_run_of_three_is_one_onset_but_two_as_published():
    active = np.array([0, 1, 1, 1, 0], bool)
    assert onset_times(first_of_runs(active), start=2.0) == pytest.approx([2 + 1 / 15])
    assert thin_runs_as_published(active).sum() == 2


def test_the_impulse_track_holds_single_ones():
    track = impulse_track([0.0, 0.5, 0.50001, 5.46, 9.0], 262_144, 48_000)
    assert np.flatnonzero(track).tolist() == [0, 24_000, 262_080]
    assert track.sum() == 3
    assert track.dtype == np.float32
