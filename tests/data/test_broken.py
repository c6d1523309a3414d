"""The log of broken records and its budget."""

import json
from pathlib import Path

import pytest
from making_media import ListSource, small_clips

from weavejax.data.broken import BrokenLog, why_broken
from weavejax.data.clip import Clip
from weavejax.errors import UserError


@pytest.fixture(scope="module")
def source() -> ListSource:
    clips = small_clips(2) + [Clip(f"bad{i}", b"rubbish") for i in range(40)]
    return ListSource(clips, frozenset({41}))


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_broken_record_is_written_once(tmp_path: Path, source: ListSource) -> None:
    log = BrokenLog(tmp_path / "run" / "broken.jsonl", 10)
    assert log.update([0, 2, 3], [0, 1, 1], source) == ["bad0", "bad1"]
    assert log.update([2, 1, 41], [1, 1, 0], source) == ["bad39"]
    rows = lines(tmp_path / "run" / "broken.jsonl")
    assert [(row["record"], row["id"]) for row in rows] == [(2, "bad0"), (3, "bad1"), (41, "bad39")]
    assert "DecodeError" in str(rows[0]["reason"])
    assert "checksum" in str(rows[2]["reason"])


def test_it_survives_restarts_and_torn_lines(tmp_path: Path, source: ListSource) -> None:
    path = tmp_path / "broken.jsonl"
    BrokenLog(path, 10).update([2, 3], [0, 0], source)
    path.write_bytes(path.read_bytes() + b'{"record": 9, "i')
    log = BrokenLog(path, 10)
    assert log.records == {2: "bad0", 3: "bad1"}
    assert log.update([3, 4], [0, 0], source) == ["bad2"]
    assert BrokenLog(path, 10).records == {2: "bad0", 3: "bad1", 4: "bad2"}


def test_over_budget_lists_them(tmp_path: Path, source: ListSource) -> None:
    log = BrokenLog(tmp_path / "broken.jsonl", 2)
    log.update([2, 3], [0, 0], source)
    with pytest.raises(UserError, match=r"3 of 42 clips are broken and the budget is 2: bad0, "):
        log.update([4], [0], source)
    many = BrokenLog(tmp_path / "many.jsonl", 0)
    with pytest.raises(UserError, match=r"30 of 42 .* bad19, … \(reasons in") as caught:
        many.update(range(2, 32), [0] * 30, source)
    assert "bad20" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_share_is_of_the_whole_source(tmp_path: Path, source: ListSource) -> None:
    log = BrokenLog(tmp_path / "broken.jsonl", 0.1)
    log.update([2, 3, 4, 5], [0] * 4, source)
    with pytest.raises(UserError, match="budget is 4"):
        log.update([6], [0], source)


def test_a_finished_run_over_budget_does_not_start_again(
    tmp_path: Path, source: ListSource
) -> None:
    path = tmp_path / "broken.jsonl"
    BrokenLog(path, 5).update([2, 3], [0, 0], source)
    with pytest.raises(UserError, match="budget is 1"):
        BrokenLog(path, 1).update([0], [0], source)


@pytest.mark.parametrize("budget", [-1, 1.5])
def test_impossible_budgets(tmp_path: Path, budget: float) -> None:
    with pytest.raises(UserError, match="budget of broken clips"):
        BrokenLog(tmp_path / "broken.jsonl", budget)


def test_reason_of_a_sound_record(source: ListSource) -> None:
    assert why_broken(source, 0) == "could be read when tried again"
