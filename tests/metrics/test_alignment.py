"""The alignment report on spaces made by hand."""

import numpy as np

from weavejax.losses import SCORES
from weavejax.metrics.alignment import alignment_report, score_matrix


def space(n=12, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    centre = np.eye(32)[:n]
    out = {}
    for name in ("text", "video", "audio"):
        vectors = centre + noise * rng.normal(size=centre.shape)
        out[name] = np.float32(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
        out[f"{name}_mask"] = np.ones(n, bool)
    return out | {"valid": np.ones(n, bool)}


def test_an_aligned_space_is_found_in_both_directions_by_every_subset():
    scalars = alignment_report(SCORES, "volume", space(noise=0.05)).scalars
    for label in ("video+audio", "video", "audio"):
        for way in (f"text→{label}", f"{label}→text"):
            assert scalars[f"volume/{way}/R@1"] == 100.0
            assert scalars[f"cosine/{way}/MdR"] == 1.0
    assert scalars["volume, matched mean"] < 0.3 < scalars["volume, mismatched mean"]
    assert scalars["cos(text, video), matched mean"] > 0.9


def test_a_random_space_is_at_chance():
    vectors = space()
    rng = np.random.default_rng(1)
    for name in ("text", "video", "audio"):
        random = rng.normal(size=vectors[name].shape)
        vectors[name] = np.float32(random / np.linalg.norm(random, axis=1, keepdims=True))
    scalars = alignment_report(SCORES, "volume", vectors).scalars
    assert scalars["volume/text→video+audio/R@1"] < 50.0


def test_rows_without_text_or_clip_leave_the_gallery_and_a_missing_stream_only_its_subset():
    vectors = space(noise=0.05)
    vectors["video_mask"][:2] = False
    vectors["audio_mask"][0] = False
    vectors["text_mask"][3] = False
    vectors["valid"][4] = False
    sizes = {
        s: score_matrix(SCORES["volume"], vectors, s)[1] for s in (("video", "audio"), ("video",))
    }
    assert sizes == {("video", "audio"): 9, ("video",): 8}
    assert (
        alignment_report(SCORES, "volume", vectors).scalars["volume/text→video+audio/R@1"] == 100.0
    )


def test_tables_and_histogram_hold_what_was_measured():
    report = alignment_report(SCORES, "volume", space(noise=0.05))
    retrieval = report.tables[0]
    assert len(retrieval.rows) == 6
    assert retrieval.markdown().count("\n|") == 8
    groups = report.histograms["volumes"].groups
    assert len(groups["matched"]) == 12
    assert len(groups["mismatched"]) == 132
