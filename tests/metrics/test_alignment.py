"""The alignment report on spaces made by hand."""

import numpy as np
import pytest

from weavejax.losses import SCORES
from weavejax.metrics.alignment import alignment_report, candidate_pairs, find, galleries, lacking


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


@pytest.mark.parametrize("name", ["fused_cosine", "hybrid"])
def test_what_is_fused_of_a_clip_is_that_of_the_modalities_it_has(name):
    vectors, noise = space(noise=0.05), space(noise=3.0, seed=1)
    vectors["audio_mask"][:6] = False
    good = np.arange(12)[:, None] < 6  # of half the clips the picture alone is worth something
    joint = np.where(good, noise["video"], vectors["text"])
    vectors |= {"fused:video+audio": joint, "fused:video": vectors["video"], "fused:audio": joint}
    whole = next(iter(galleries(vectors)))
    for found in find(SCORES[name], vectors, whole):
        assert (found.rank == 1).all()


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
    sizes = {(g.name, g.subset): len(g.rows) for g in galleries(vectors)}
    assert sizes["all clips", ("video", "audio")] == 9
    assert sizes["all clips", ("video",)] == 8
    assert sizes["all clips", ("audio",)] == 9
    assert ("clips with audio", ("audio",)) not in sizes
    assert (
        alignment_report(SCORES, "volume", vectors).scalars["volume/text→video+audio/R@1"] == 100.0
    )


def test_tables_and_histogram_hold_what_was_measured():
    report = alignment_report(SCORES, "volume", space(noise=0.05))
    retrieval = report.tables[0]
    assert len(retrieval.rows) == 12  # two scores: three subsets, and three shares without a stream
    assert retrieval.markdown().count("\n|") == 14
    groups = report.histograms["volumes"].groups
    assert len(groups["matched"]) == 12
    assert len(groups["mismatched"]) == 132


@pytest.mark.filterwarnings("error")
def test_a_gallery_of_one_clip_is_found_and_has_no_mismatched_pair():
    vectors = space(n=1)
    report = alignment_report(
        SCORES, "volume", vectors | {"pairs": np.array([[0, 0]]), "match": np.ones(1)}, top=5
    )
    assert report.scalars["volume/text→video+audio/R@1"] == 100.0
    assert report.scalars["volume, then match/text→video+audio/R@1"] == 100.0
    assert candidate_pairs(SCORES["volume"], vectors, 5).tolist() == [[0, 0]]
    assert not any("mismatched" in name for name in report.scalars)


def test_both_gallery_rules_are_reported_where_they_differ():
    vectors = space(noise=0.05)
    vectors["audio_mask"][:3] = False
    report = alignment_report(SCORES, "volume", vectors)
    rows = {tuple(row[:4]) for row in report.tables[0].rows}
    assert ("volume", "video+audio", "all clips", 12) in rows
    assert ("volume", "video+audio", "clips with audio", 9) in rows
    assert report.scalars["volume/text→video+audio (clips with audio)/R@1"] == 100.0


def test_the_second_stage_is_printed_beside_the_first():
    """A match head that is right where the first stage is wrong, and the other way round."""
    vectors = space(noise=0.35, seed=1)
    vectors["audio_mask"][:3] = False
    first = alignment_report(SCORES, "volume", vectors).scalars
    pairs = candidate_pairs(SCORES["volume"], vectors, 4)
    for matched, name in ((1.0, "right"), (0.0, "wrong")):
        match = np.where(pairs[:, 0] == pairs[:, 1], matched, 0.5)
        both = alignment_report(
            SCORES, "volume", {**vectors, "pairs": pairs, "match": match}, top=4
        )
        scalars = both.scalars
        assert {k: v for k, v in scalars.items() if ", then match" not in k} == first
        for gallery in ("", " (clips with audio)"):
            for way in ("text→video+audio", "video+audio→text"):
                recall = scalars[f"volume, then match/{way}{gallery}/R@1"]
                within = first[f"volume/{way}{gallery}/R@5"]
                assert (recall >= first[f"volume/{way}{gallery}/R@1"]) == (name == "right")
                assert recall <= within
    assert any(row[0] == "volume, then match" for row in both.tables[0].rows)


def test_what_a_score_learned_is_used():
    vectors = space(noise=0.3)
    gallery = next(galleries(vectors))
    plain = find(SCORES["volume"], vectors, gallery, 3)[0]
    learned = {**vectors, "score/alpha": np.float32(1.0)}  # α = 1 is the plain volume
    np.testing.assert_array_equal(
        find(SCORES["blended_volume"], learned, gallery, 3)[0].best, plain.best
    )


def test_lost_streams_are_few_and_cost_recall():
    rng = np.random.default_rng(0)
    vectors = space(n=30, noise=0.25)
    vectors["audio_mask"] = rng.random(30) < 0.8
    worn = lacking(vectors, 0.5)
    before, after = (np.stack([v["video_mask"], v["audio_mask"]], 1) for v in (vectors, worn))
    assert not (after & ~before).any()
    assert after.any(1).all()
    assert 0.2 < (before.sum(1) - after.sum(1)).sum() / before.all(1).sum() < 0.8
    scalars = alignment_report(SCORES, "volume", vectors).scalars
    whole = scalars["cosine/text→video+audio/R@5"]
    assert scalars["cosine/text→video+audio (75% of clips lack a stream)/R@5"] < whole
