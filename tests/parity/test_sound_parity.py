"""The signal side of the when dial and its metrics against librosa and scikit-learn."""

import numpy as np
import pytest
from recorded import LIVE_SOUND, Recording, cases, live, recorded

from weavejax.dials.quantise import expand_fol_ai
from weavejax.metrics.onsets import average_precision
from weavejax.ops.onset_strength import detect_onsets, onset_strength
from weavejax.ops.rms import rms_frames


@pytest.fixture(params=["recorded", LIVE_SOUND])
def reference(request: pytest.FixtureRequest, name: str) -> Recording:
    return recorded(f"sound/{name}") if request.param == "recorded" else live(f"sound/{name}")


@pytest.mark.parametrize("name", ["onsets"])
def test_onsets(reference: Recording) -> None:
    for case in cases(reference).values():
        wave = case["wave"].astype(np.float32)
        # librosa works in float32.
        np.testing.assert_allclose(onset_strength(wave), case["strength"], atol=2e-4)
        for delta in (0.07, 0.3):
            found = detect_onsets(wave, delta=delta)
            np.testing.assert_array_equal(found, case[f"onsets {delta}"])


@pytest.mark.parametrize("name", ["levels"])
def test_levels(reference: Recording) -> None:
    wave = reference["wave"].astype(np.float32)
    np.testing.assert_allclose(rms_frames(wave), reference["16k"], atol=1e-7)
    np.testing.assert_allclose(rms_frames(wave, padding=256), reference["44k"], atol=1e-7)
    np.testing.assert_allclose(expand_fol_ai(np.arange(64)), reference["classes"], rtol=1e-6)


@pytest.mark.parametrize("name", ["precision"])
def test_average_precision(reference: Recording) -> None:
    rows = zip(reference["labels"], reference["scores"], reference["values"], strict=True)
    for labels, scores, value in rows:
        assert average_precision(labels, scores) == pytest.approx(value, abs=1e-12)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["onsets", "levels", "precision"])
def test_recordings_are_what_the_references_say_now(name: str) -> None:
    pytest.importorskip("librosa")
    now, then = live(f"sound/{name}"), recorded(f"sound/{name}")
    assert now.keys() == then.keys()
    for key, array in now.items():
        np.testing.assert_allclose(array, then[key], rtol=1e-4, atol=1e-4)
