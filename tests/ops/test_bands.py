"""Sums over mel bands: the matrix product, but with the same bits on any number of threads."""

import os
import subprocess
import sys

import numpy as np
import pytest

from weavejax.ops.bands import sum_bands
from weavejax.ops.fbank import mel_filters


@pytest.mark.parametrize(("frames", "mels"), [(0, 64), (1, 64), (173, 64), (50, 128), (9, 200)])
def test_it_is_the_matrix_product(frames, mels):
    power = np.random.default_rng(frames).random((frames, 256)).astype(np.float32)
    filters = mel_filters(16000, 512, mels)
    found = sum_bands(power, filters)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, power @ filters, rtol=1e-5, atol=1e-6)


def test_bands_without_weight_are_zero():
    filters = np.zeros((4, 3))
    filters[1:3, 1] = (2.0, 3.0)
    np.testing.assert_array_equal(sum_bands(np.ones((2, 4)), filters), [[0, 5, 0]] * 2)


FEATURES = """
import hashlib
import numpy as np
from weavejax.ops.fbank import kaldi_fbank
from weavejax.ops.log_mel import log_mel
from weavejax.ops.onset_strength import onset_strength
wave = np.random.default_rng(0).normal(size=96_000).astype(np.float32) / 8
for feature in (kaldi_fbank, log_mel, onset_strength):
    print(hashlib.sha256(feature(wave).tobytes()).hexdigest())
"""


def test_features_are_the_same_on_one_thread_and_on_many():
    printed = [
        subprocess.run(
            [sys.executable, "-c", FEATURES],
            env={**os.environ, "OPENBLAS_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "4")
    ]
    assert printed[0] == printed[1]
    assert len(printed[0].split()) == 3
