"""The published tables with rows of ours."""

from pathlib import Path

import pytest

from weavejax.errors import UserError
from weavejax.runs import tables
from weavejax.runs.grouping import Run


def made_up(system, seed, **scalars):
    named = {name.replace("__", "/"): value for name, value in scalars.items()}
    return Run(Path(f"{system}-{seed}"), {"system": system, "seed": seed}, named, "24 clips", "x")


def onset(seed, count, balanced, clips):
    return made_up(
        "onset",
        seed,
        onsets__detector_bce_balanced_frames=count / 2,
        onsets__detector_count_acc_candidates=count,
        onsets__detector_ap_balanced_frames=balanced,
        onsets__detector_ap_clips_50ms=clips,
    )


def rows(text, title):
    part = text.split(f"### {title}")[1].split("###")[0]
    return [line for line in part.splitlines() if line.startswith("|")]


def test_our_rows_stand_below_the_published_ones_as_what_they_are():
    runs = [onset(0, 0.5, 0.7, 0.9), onset(1, 0.6, 0.8, 0.92)]
    text = tables.markdown(runs)
    first = rows(text, "1. Onset network")
    assert first[2] == "| SyncFusion, no augmentation | 3.79 | 43.07 | 87.71 | – |"
    # Of two values half the interval is t(0.975, 1) = 12.706 times half their difference.
    assert first[-1] == (
        "| *onset network* (2 seeds) "
        "| 0.2750 ± 0.3177 | 55.00 ± 63.53 | 75.00 ± 63.53 | 91.00 ± 12.71 |"
    )
    assert text.count("*onset network*") == 1
    assert "of 24 clips: another data set than the published rows are of" in text
    assert (
        len(rows(text, "3. From video to sound")) == 5
    )  # no run of ours: the published rows alone


def test_a_run_without_a_row_s_figures_has_no_row():
    with pytest.raises(UserError, match="none of the runs is of folai, onset, syncfusion"):
        tables.markdown([made_up("onset", 0, onsets__detector_ap_clips_50ms=0.9)])


def test_a_level_has_four_digits_and_one_seed_no_interval():
    named = {
        "controlled__e_l1_44k_rms512_128": 0.0123,
        "controlled__e_l1_44k_rms512_128__silence": 0.02,
        "controlled__envelope_correlation_44k_rms512_128": 0.9,
    }
    last = rows(tables.markdown([made_up("folai", 0, **named)]), "4. Sound under an envelope")[-1]
    assert last == (
        "| *envelope of the truth, text* (1 seed) | – | – | – | 0.0123 | – | – | 0.0200 | 0.9000 |"
    )
