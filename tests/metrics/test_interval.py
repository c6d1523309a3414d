"""Intervals over seeds."""

import math

import numpy as np
import pytest

from weavejax.metrics.interval import student_interval


def test_interval_of_three_values_is_the_textbook_one():
    found = student_interval([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.half == pytest.approx(4.302653 * 1.0 / math.sqrt(3), rel=1e-6)  # t(0.975, 2)
    assert student_interval([1.0, 2.0, 3.0], 0.5).half < found.half


def test_a_single_value_has_no_interval_and_overlaps_everything():
    one = student_interval([5.0])
    assert math.isnan(one.half)
    assert one.overlaps(student_interval([90.0, 91.0]))
    assert not student_interval([1.0, 1.1]).overlaps(student_interval([9.0, 9.1]))
    assert student_interval([1.0, 2.0]).overlaps(student_interval([1.5, 2.5]))


def test_intervals_hold_the_true_mean_as_often_as_they_say():
    rng = np.random.default_rng(0)
    held = [
        abs((i := student_interval(rng.normal(7, 2, 4))).mean - 7) < i.half for _ in range(2000)
    ]
    assert 0.94 < np.mean(held) < 0.96
