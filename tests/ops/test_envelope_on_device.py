"""The envelope on the device is the one on the host."""

import jax
import numpy as np
import pytest

from weavejax.dials import envelope as host
from weavejax.ops.envelope import conditioning_envelope, window_mean


def sounds():
    """Loud, then soft by 80 dB, then nothing; and clicks. float32 [2, 4001, 2]."""
    rng = np.random.default_rng(0)
    wave = rng.normal(size=(2, 4001, 2))
    wave[0, 1500:] *= 1e-4
    wave[0, 3000:] = 0.0
    wave[1] *= rng.random((4001, 1)) > 0.995
    return wave.astype(np.float32)


@pytest.mark.parametrize("profile", host.WINDOWS)
@pytest.mark.parametrize("windows", [(400, 80), (5000, 90)])
def test_device_and_host_agree(profile, windows):
    wave = sounds()
    found = jax.jit(conditioning_envelope, static_argnums=(1, 2, 3))(wave, profile, *windows)
    for row, sound in zip(np.asarray(found), wave, strict=True):
        wanted = host.conditioning_envelope(
            sound, profile, rms_window=windows[0], mean_window=windows[1]
        )
        np.testing.assert_allclose(row, wanted, atol=1e-6 * wanted.max(), rtol=1e-5)


def test_soft_sound_after_loud_is_measured_and_silence_is_silent():
    wave = sounds()
    level = np.asarray(conditioning_envelope(wave, "better", 400, 80))[0]
    wanted = host.conditioning_envelope(wave[0], "better", rms_window=400, mean_window=80)
    np.testing.assert_allclose(level[2000:2700], wanted[2000:2700], rtol=1e-5)
    assert not level[3300:].any()


def test_means_at_the_ends_are_over_what_there_is():
    values = np.arange(1.0, 6.0, dtype=np.float32).reshape(1, 5, 1)
    inside = window_mean(values, 1, 2, inside=True)[0, :, 0]
    np.testing.assert_allclose(inside, [1.5, 2.0, 3.0, 4.0, 4.5], rtol=1e-6)
    zeros = window_mean(values, 1, 2, inside=False)[0, :, 0]
    np.testing.assert_allclose(zeros, [1.0, 2.0, 3.0, 4.0, 3.0], rtol=1e-6)
    with pytest.raises(ValueError, match="parity or better"):
        conditioning_envelope(values, "best", 4, 2)
