"""Ranks and recalls on matrices whose answer is known."""

import numpy as np
import pytest

from weavejax.metrics.retrieval import ranks, recalls


def test_ranks_of_a_hand_made_matrix():
    scores = np.array([[0.9, 0.1, 0.2], [0.8, 0.5, 0.1], [0.3, 0.6, 0.1]])
    np.testing.assert_array_equal(ranks(scores), [1, 2, 3])
    np.testing.assert_array_equal(ranks(scores.T), [1, 2, 3])  # with a tie
    np.testing.assert_array_equal(ranks(scores, np.array([1, 0, 1])), [3, 1, 1])


def test_ties_count_against_the_query():
    np.testing.assert_array_equal(ranks(np.zeros((4, 4))), [4, 4, 4, 4])


def test_recalls_and_median():
    result = recalls(np.array([1, 2, 6, 11]))
    assert result == {"R@1": 25.0, "R@5": 50.0, "R@10": 75.0, "MdR": 4.0}


def test_nan_scores_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        ranks(np.full((2, 2), np.nan))
