"""Search, ranks and recalls on scores whose answer is known."""

import jax.numpy as jnp
import numpy as np
import pytest

from weavejax.losses import SCORES
from weavejax.metrics.retrieval import Found, bootstrap, recalls, rerank, search


def looked_up(matrix, top=0, block=2048):
    """Search with a given matrix of scores: anchors and clips are their numbers."""
    table = jnp.asarray(matrix)
    numbers = np.arange(len(matrix))
    return search(
        lambda a, c, _: table[a[:, None], c[None, :]], numbers, numbers, top=top, block=block
    )


def test_ranks_of_a_hand_made_matrix():
    scores = np.array([[0.9, 0.1, 0.2], [0.8, 0.5, 0.1], [0.3, 0.6, 0.1]], np.float32)
    there, back = looked_up(scores, top=2)
    np.testing.assert_array_equal(there.rank, [1, 2, 3])
    np.testing.assert_array_equal(back.rank, [1, 2, 3])  # with a tie
    np.testing.assert_array_equal(there.best, [[0, 2], [0, 1], [1, 0]])
    np.testing.assert_array_equal(back.best, [[0, 1], [2, 1], [0, 1]])
    np.testing.assert_allclose(there.scores, [[0.9, 0.2], [0.8, 0.5], [0.6, 0.3]])


def test_ties_count_against_the_query():
    for found in looked_up(np.zeros((4, 4), np.float32)):
        np.testing.assert_array_equal(found.rank, [4, 4, 4, 4])


@pytest.mark.parametrize(
    ("size", "block", "top"), [(1, 3, 1), (7, 7, 0), (9, 3, 4), (13, 5, 6), (11, 4, 40)]
)
def test_blocks_change_nothing(size, block, top):
    """With many ties."""
    scores = np.random.default_rng(size).integers(0, 6, (size, size)).astype(np.float32)
    for one, other, matrix in zip(
        looked_up(scores, top, block), looked_up(scores, top), (scores, scores.T), strict=True
    ):
        for got, want in zip(one, other, strict=True):
            np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(one.rank, (matrix >= np.diagonal(matrix)[:, None]).sum(1))
        ordered = -np.sort(-matrix, axis=1)[:, : min(top, size)]
        np.testing.assert_array_equal(one.scores, ordered)


def test_a_score_is_searched_as_its_matrix_says():
    rng = np.random.default_rng(0)
    anchor, clip = rng.normal(size=(50, 16)), rng.normal(size=(50, 2, 16))
    anchor = np.float32(anchor / np.linalg.norm(anchor, axis=-1, keepdims=True))
    clip = np.float32(clip / np.linalg.norm(clip, axis=-1, keepdims=True))
    present = np.ones((50, 2), bool)
    score = SCORES["volume"]
    found, _ = search(lambda a, c, _: score(a, *c), anchor, (clip, present), top=5, block=16)
    matrix = np.asarray(score(jnp.asarray(anchor), jnp.asarray(clip), jnp.asarray(present)))
    np.testing.assert_array_equal(found.best[:, 0], matrix.argmax(1))
    np.testing.assert_array_equal(found.rank, (matrix >= np.diagonal(matrix)[:, None]).sum(1))


def test_the_second_stage_orders_the_candidates_and_nothing_else():
    found = Found(
        rank=np.array([2, 9, 1]),
        best=np.array([[3, 0], [4, 5], [2, 1]]),
        scores=np.zeros((3, 2), np.float32),
    )
    probability = np.array([[0.2, 0.9], [0.9, 0.8], [0.3, 0.3]])
    np.testing.assert_array_equal(rerank(found, np.arange(3), probability), [1, 9, 2])


def test_recalls_and_median():
    result = recalls(np.array([1, 2, 6, 11]))
    assert result == {"R@1": 25.0, "R@5": 50.0, "R@10": 75.0, "MdR": 4.0}


def test_the_interval_holds_the_recall_and_narrows_with_the_queries():
    few, many = (np.tile([1, 5], count) for count in (20, 2000))
    for rank, width in ((few, 30.0), (many, 4.0)):
        low, high = bootstrap(rank)
        assert low < 50.0 < high
        assert width / 2 < high - low < 1.2 * width
    assert bootstrap(np.ones(10)) == (100.0, 100.0)


def test_nan_scores_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        looked_up(np.full((2, 2), np.nan, np.float32))
