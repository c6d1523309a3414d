"""Variant ids, provenance, intervals, and how results reach a report."""

import json
import math

import numpy as np
import pytest

from weavejax.metrics.features import measure_clap, measure_distances, measure_logits
from weavejax.metrics.interval import bootstrap_mean, bootstrap_spread
from weavejax.metrics.measured import (
    Measured,
    Taken,
    check_variant,
    manifest_hash,
    measure_mean,
)
from weavejax.metrics.report import measured_report
from weavejax.runs.results import provenance, scalars

TAKEN = Taken(manifest_hash(["a", "b"]), 48_000, "soxr_hq")


@pytest.mark.parametrize(
    "name",
    [
        "e_l1_16k_rms512_128",
        "envelope_correlation_44k_rms512_128",
        "onset_ap_paper_100ms",
        "onset_f1_sound_50ms_annotated",
        "onset_count_acc_syncfusion",
        "frechet_vggish_raw",
        "fad_inf_msclap2023",
        "kad_laion_630k",
        "kl_softmax_panns16k",
        "isc_10_passt",
        "clap_score_audio_laion",
        "saliency_kl_generated_first_unisal",
    ],
)
def test_full_names_are_known(name):
    assert check_variant(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "fad",
        "frechet",
        "kl_panns",
        "isc_passt",
        "clap_score_laion",
        "onset_ap_100ms",
        "onset_f1_sound",
        "e_l1",
        "kad_",
        "e_l1_22k_rms512_128",
        "frechet_VGGish",
        "accuracy",
    ],
)
def test_names_that_leave_something_open_are_refused(name):
    with pytest.raises(ValueError, match=r"does not say which|no known metric"):
        check_variant(name)
    with pytest.raises(ValueError, match=r"does not say which|no known metric"):
        Measured(name, 1.0, 1, None, TAKEN)


def test_the_manifest_tells_sets_apart_whatever_their_order():
    assert manifest_hash(["b", "a"]) == manifest_hash(["a", "b"])
    assert len({manifest_hash(x) for x in (["a"], ["a", "b"], ["ab"], ["a", "a"], [])}) == 5
    with pytest.raises(ValueError, match="hash of its clips"):
        Measured("isc_10_passt", 1.0, 1, None, Taken(""))


def test_clips_without_a_value_are_counted_not_averaged():
    result = measure_mean("kad_x", [1.0, math.nan, 3.0], TAKEN, undefined="silent")
    assert (result.value, result.count, result.skipped) == (2.0, 2, {"silent": 1})
    empty = measure_mean("kad_x", [math.nan], TAKEN)
    assert math.isnan(empty.value)
    assert empty.interval is None


def test_the_interval_of_a_mean_is_that_of_normal_theory():
    values = np.random.default_rng(1).normal(5, 2, 400)
    low, high = bootstrap_mean(values)
    assert (low, high) == bootstrap_mean(values)
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.03)
    assert high == pytest.approx(values.mean() + half, abs=0.03)


def test_the_interval_of_a_set_lies_around_its_value():
    values = np.random.default_rng(1).normal(5, 2, 100)
    # The number of different members falls when they are drawn again: a bias, taken out.
    low, high = bootstrap_spread(lambda k: len(set(k)) + values[k].mean(), 100, 105.0, 200)
    assert 98 < low < 105 < high < 112


def test_distances_say_rows_and_clips_and_draw_clips_whole():
    rng = np.random.default_rng(0)
    owners = np.repeat(np.arange(30), 20)
    truth, made = rng.normal(size=(600, 4)), rng.normal(size=(600, 4))
    results = measure_distances(
        "toy", truth, made, TAKEN, truth_clips=owners, generated_clips=owners, resamples=20
    )
    found = {result.variant: result for result in results}
    assert list(found) == ["frechet_toy", "fad_inf_toy", "kad_toy"]
    for result in results:
        assert result.count == 30
        assert result.beside["rows"] == 600
        assert result.interval[0] < result.value < result.interval[1]
    assert set(found["fad_inf_toy"].beside) == {"rows", "true rows", "R²", "slope"}
    again = measure_distances("toy", truth[:40], made[:40], TAKEN, resamples=0)
    assert [result.variant for result in again] == ["frechet_toy", "kad_toy"]
    assert again[0].interval is None
    apart = measure_distances("toy", truth[:50], made[:30], TAKEN, resamples=5)
    assert [result.count for result in apart] == [30, 30]
    with pytest.raises(ValueError, match="rows of"):
        measure_distances("toy", truth, made, TAKEN, truth_clips=owners[:5])


def test_logits_and_embeddings_give_named_results():
    rng = np.random.default_rng(0)
    truth, made = rng.normal(size=(12, 5)), rng.normal(size=(12, 5))
    results = [
        *measure_logits("toy", truth, made, TAKEN, splits=3, resamples=20),
        *measure_clap("toy", made, {"audio": truth, "text": made}, TAKEN),
    ]
    assert [result.variant for result in results] == [
        "kl_softmax_toy",
        "kl_logspace_toy",
        "isc_3_toy",
        "clap_score_audio_toy",
        "clap_score_text_toy",
    ]
    assert results[-1].value == pytest.approx(1.0)
    assert results[2].beside["of the truth"] > 1


def test_a_report_holds_values_a_table_and_where_they_come_from():
    results = [
        measure_mean("e_l1_16k_rms512_128", [0.1, 0.3], TAKEN, beside={"silence": 0.5}),
        Measured("kad_toy", math.nan, 0, None, TAKEN, {"too few": 2}),
    ]
    report = measured_report("Sound", results)
    assert report.scalars["e_l1_16k_rms512_128"] == pytest.approx(0.2)
    assert report.scalars["e_l1_16k_rms512_128/silence"] == 0.5
    text = report.tables[0].markdown()
    assert "| e_l1_16k_rms512_128 | 0.2 | 0.1–0.3 |" in text
    assert TAKEN.manifest in text
    assert set(scalars({"sound": report})) >= {"sound/e_l1_16k_rms512_128", "sound/kad_toy"}
    plain = json.loads(json.dumps(provenance({"sound": report}), allow_nan=False))
    assert plain["sound/kad_toy"]["value"] is None
    assert plain["sound/kad_toy"]["skipped"] == {"too few": 2}
    first = plain["sound/e_l1_16k_rms512_128"]
    assert (first["n"], first["rate"], first["resampler"]) == (2, 48_000, "soxr_hq")
    assert first["interval"] == pytest.approx([0.1, 0.3])
    with pytest.raises(ValueError, match="measured twice"):
        measured_report("Sound", [results[0], results[0]])
