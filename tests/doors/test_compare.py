"""`--compare` of the evaluate door: groups, intervals, refusals, and what it writes."""

import json
import shutil

import pytest
from door import ROOT, run

from weavejax.errors import UserError
from weavejax.runs import compare
from weavejax.runs.grouping import group_runs, make_column, read_runs
from weavejax.runtime import cli
from weavejax.runtime.workdir import open_workdir

HEADLINE = "retrieval/{}/text→video+audio/R@1"
REVERSE = "retrieval/{}/video+audio→text/R@1"


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Writes a made-up finished run: (name, R@1, step, flags…) → its directory."""
    monkeypatch.chdir(ROOT)

    def build(name, recall, *flags, step=12, data="24 clips"):
        argv = ["--config", "configs/gram.py:smoke", *(f"--config.{flag}" for flag in flags)]
        config = cli.parse(argv, "", {}, takes_config=True).config
        place = open_workdir(tmp_path / "runs" / name, config)
        score = config.loss.score
        found = {HEADLINE.format(score): recall, REVERSE.format(score): recall + 1}
        found |= {"retrieval/cosine/text→video/R@1": 5.0, "retrieval/cosine/text→video/MdR": recall}
        content = {"step": step, "seed": config.seed, "data": data, "results": found}
        (place / "results.json").write_text(json.dumps(content))
        return place

    return build


def three_seeds(make, score, recalls, *flags):
    for seed, recall in enumerate(recalls):
        make(f"{score}-{seed}", recall, f"loss.score={score}", f"seed={seed}", *flags)


def test_scores_are_grouped_over_seeds_and_the_best_stands_out(make, tmp_path, capsys):
    three_seeds(make, "volume", (90.0, 91.0, 92.0))
    three_seeds(make, "cosine", (70.0, 71.0, 72.0), "runtime.workers=3", "data.cache=elsewhere")
    compare.run(["--compare", str(tmp_path / "runs")])
    printed = capsys.readouterr().out
    table = [line for line in printed.splitlines() if line.startswith("|")]
    assert table[0] == (
        "| loss.score | seeds | text→video+audio/R@1 (each by its own score) "
        "| video+audio→text/R@1 (each by its own score) |"
    )
    assert table[2] == "| cosine | 3 | 71.0 ± 2.5 | 72.0 ± 2.5 |"
    assert table[3] == "| volume | 3 | **91.0 ± 2.5** | **92.0 ± 2.5** |"
    assert "Student's t" in printed
    out = tmp_path / "runs"
    assert "**91.0 ± 2.5**" in (out / "compare.md").read_text()
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")
    volume = json.loads((out / "compare.json").read_text())["groups"][1]
    metric = volume["metrics"]["text→video+audio/R@1 (each by its own score)"]
    assert metric["by seed"] == {"0": 90.0, "1": 91.0, "2": 92.0}
    assert metric["half width"] == pytest.approx(4.302653 / 3**0.5)
    assert metric["stands out"] is True


def test_overlapping_intervals_are_not_bold_and_it_says_so(make, tmp_path, capsys):
    three_seeds(make, "volume", (90.0, 91.0, 92.0))
    three_seeds(make, "cosine", (89.0, 90.0, 91.0))
    compare.run([f"--compare={tmp_path}/runs", "--out", f"{tmp_path}/out"])
    printed = capsys.readouterr().out
    assert "**" not in printed
    assert "here no best stands out" in printed
    assert (tmp_path / "out/compare.md").exists()


def test_one_seed_has_no_interval_and_metrics_are_chosen_by_pattern(make, tmp_path, capsys):
    make("a", 50.0, "optim.lr=0.001")
    make("b", 60.0, "optim.lr=0.01")
    names = "retrieval/cosine/*,headline"
    compare.run(["--compare", f"{tmp_path}/runs/a", f"{tmp_path}/runs/?", "--metrics", names])
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert table[0].split(" | ")[2:4] == [
        "retrieval/cosine/text→video/R@1",
        "retrieval/cosine/text→video/MdR",
    ]
    assert table[3] == "| 0.01 | 1 | 5.0 | 60.0 | 60.0 |"  # nothing is bold on one seed each
    assert len(table) == 4  # run a was named twice and counts once


def test_the_second_stage_and_worn_clips_stand_beside_the_headline(make, tmp_path, capsys):
    """A run without them has a dash; many differing keys give way to the sweep's own names."""
    worn = "retrieval/{}/text→video+audio (50% of clips lack a stream)/R@1"
    second = "retrieval/{}, then match/text→video+audio/R@1"
    changes = ("loss.warmup_steps=0", "loss.temperature=0.1")
    for score, flags, more in (("volume", (), 4.0), ("cosine", changes, None)):
        three_seeds(make, score, (50.0, 51.0, 52.0), *flags)
        for seed in range(3):
            file = tmp_path / f"runs/{score}-{seed}/results.json"
            content = json.loads(file.read_text())
            content["results"][worn.format(score)] = 30.0 + seed
            if more:
                content["results"][second.format(score)] = 60.0
            file.write_text(json.dumps(content))
    wanted = "headline,headline+match,headline-50%"
    compare.run(["--compare", f"{tmp_path}/runs", "--metrics", wanted])
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert table[0].startswith("| run | seeds | text→video+audio/R@1 (each by its own score) | ")
    assert "volume, then match/text→video+audio/R@1 |" in table[0]
    assert "(50% of clips lack a stream)/R@1 (each by its own score) |" in table[0]
    assert table[2] == "| cosine | 3 | 51.0 ± 2.5 | – | 31.0 ± 2.5 |"
    assert table[3] == "| volume | 3 | 51.0 ± 2.5 | 60.0 ± 0.0 | 31.0 ± 2.5 |"
    with pytest.raises(UserError, match=r"no metric 'headline-10%'"):
        compare.run(["--compare", f"{tmp_path}/runs", "--metrics", "headline-10%"])


def test_lower_is_better_for_ranks(make, tmp_path):
    three_seeds(make, "volume", (1.0, 1.1, 1.2))
    three_seeds(make, "cosine", (8.0, 8.1, 8.2))
    runs, _ = read_runs(sorted((tmp_path / "runs").iterdir()))
    groups = group_runs(runs)
    ranks = make_column("retrieval/cosine/text→video/MdR", groups)
    assert groups[ranks.best].changes == {"loss.score": "volume"}
    assert make_column("headline", groups).best == 0  # cosine, whose recall is higher


def test_unfinished_runs_are_left_out_by_name(make, tmp_path, capsys):
    make("done", 50.0)
    make("half", 60.0, "seed=1", step=6)
    (make("none", 60.0, "seed=2") / "results.json").unlink()
    compare.run(["--compare", str(tmp_path / "runs")])
    printed, warned = capsys.readouterr()
    assert "| all runs | 1 |" in printed
    assert "half is left out: its results are of step 6 of 12" in warned
    assert "none is not finished (no results.json)" in warned
    assert "none is not finished" in (tmp_path / "runs/compare.md").read_text()


def test_other_data_is_refused_unless_it_is_the_point(make, tmp_path, capsys):
    make("a", 50.0)
    make("b", 60.0, "data.options.test=17")
    with pytest.raises(UserError, match=r"data\.options\.test: 16, 17.*--across data.options.test"):
        compare.run(["--compare", f"{tmp_path}/runs"])
    compare.run(["--compare", f"{tmp_path}/runs", "--across", "data.options.test"])
    assert "| 17 | 1 | 60.0 | 61.0 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("second", "flags", "words"),
    [
        (("b", 60.0), [], "are of the same config and seed"),
        (("b", 60.0, "seed=1"), ["--metrics", "accuracy"], "no metric 'accuracy' in all runs"),
        (("b", 60.0, "seed=1"), ["--compare", "/no/such"], "no run at or below /no/such"),
        (("b", 60.0, "seed=1"), ["--metric", "x"], "unrecognized arguments: --metric x"),
    ],
)
def test_mistakes_are_one_line(second, flags, words, make, tmp_path):
    make("a", 50.0)
    make(*second)
    with pytest.raises(UserError, match=r".") as caught:
        compare.run(["--compare", f"{tmp_path}/runs", *flags])
    assert words in str(caught.value)


def test_clips_that_changed_under_the_same_config_are_refused(make, tmp_path):
    make("a", 50.0)
    make("b", 50.0, "seed=1", data="25 clips")
    with pytest.raises(UserError, match="'24 clips' and '25 clips'"):
        compare.run(["--compare", f"{tmp_path}/runs"])


def test_the_door_compares_real_runs(trained, tmp_path):
    for seed in (0, 1):
        place = tmp_path / f"gram-{seed}"
        place.mkdir()
        shutil.copy(trained[0] / "results.json", place)
        config = json.loads((trained[0] / "config.json").read_text()) | {"seed": seed}
        (place / "config.json").write_text(json.dumps(config))
    printed = run("evaluate", "--compare", tmp_path).stdout
    assert "| all runs | 2 |" in printed
    assert "retrieval/volume/text→video+audio/R@1" in printed
    assert f"written to {tmp_path}/compare.md" in printed
    result = run("evaluate", "--compare", tmp_path / "absent", check=False)
    assert result.returncode == 2
    assert "no run at or below" in result.stderr.splitlines()[-1]
