"""The μ-law quantisers against values of the published code, and their targets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weavejax.dials.quantise import (
    dequantise,
    expand_fol_ai,
    mu_law_edges,
    quantise,
    smoothed_targets,
)


def test_edges_are_the_published_ones():
    edges = mu_law_edges()
    assert edges.shape == (64,)
    golden = [0.0100, 0.01155, 0.01320, 0.01494, 0.01679, 0.01875]
    np.testing.assert_allclose(edges[:6], golden, atol=6e-6)
    np.testing.assert_allclose(edges[[31, 61, 62, 63]], [0.14160, 0.88827, 0.94251, 1], atol=6e-6)
    with pytest.raises(ValueError, match="read-only"):
        edges[0] = 0


def test_silence_is_class_0_and_an_edge_belongs_to_the_class_above_it():
    edges = mu_law_edges()
    levels = np.array([-0.1, 0.0, 0.00999, 0.01, edges[1], np.nextafter(edges[1], 0), 0.99, 1, 7])
    assert quantise(levels).tolist() == [0, 0, 0, 1, 2, 1, 63, 63, 63]
    assert quantise(levels).dtype == np.int32


def test_a_class_decodes_to_its_upper_edge_and_silence_to_0():
    decoded = dequantise(np.arange(64))
    assert decoded[0] == 0
    np.testing.assert_array_equal(decoded[1:], mu_law_edges().astype(np.float32)[1:])


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 1))
def test_a_level_decodes_to_within_a_class(level):
    decoded = float(dequantise(quantise(np.array(level))))
    # The edges but for 1/μ are a geometric row: a class is as wide as its lower edge says.
    lowest = np.log(1 + 63 * 0.01) / np.log(64)
    width = np.expm1(np.log(64) * (1 - lowest) / 63) * (level + 1 / 63)
    assert abs(decoded - level) <= (0.01 if level < 0.01 else width + 1e-7)


def test_fol_ai_decodes_the_same_integers_otherwise():
    decoded = expand_fol_ai(np.array([0, 1, 2, 31, 63]))
    np.testing.assert_allclose(decoded, [0, 0.00062, 0.00129, 0.0747, 0.926], atol=5e-4)
    np.testing.assert_allclose(decoded[1:3], [0.00062, 0.00129], atol=5e-6)
    assert decoded.dtype == np.float32


@pytest.mark.parametrize("wrong", [np.array([64]), np.array([-1]), np.array([0.5])])
def test_what_is_no_class_is_refused(wrong):
    for function in (dequantise, expand_fol_ai, smoothed_targets):
        with pytest.raises(ValueError, match=r"integers in \[0, 64\)"):
            function(wrong)


def published_weights(code):
    """The published loop, one class: writing from afar to near, clamped to the classes 1 to 63."""
    weights = np.zeros(64)
    if code:
        for distance in (2, 1, 0):
            for side in (1, -1):
                weights[np.clip(code + side * distance, 1, 63)] = np.exp(-(2**distance) / 4)
    weights[code] = 1
    return weights


def test_targets_are_the_published_weights():
    targets = smoothed_targets(np.arange(64).reshape(8, 8)).reshape(64, 64)
    np.testing.assert_allclose(targets[30, 27:34], [0, 0.368, 0.607, 1, 0.607, 0.368, 0], atol=5e-4)
    assert targets[0].tolist() == [1.0] + [0.0] * 63
    assert not targets[1:, 0].any()
    np.testing.assert_allclose(targets, [published_weights(c) for c in range(64)], rtol=1e-6)
