"""Where the time went, also over restarts."""

import json

import pytest

from weavejax.runtime.events import EventLog, describe, where_time_went
from weavejax.runtime.records import read_rows


def row(wall, event, seconds, attempt="a", **facts):
    return {"wall": wall, "attempt": attempt, "event": event, "seconds": seconds, **facts}


def test_time_is_counted_by_kind():
    spent = where_time_went(
        [
            row(4.0, "start", 4.0),
            row(10.0, "compile", 6.0, first=1, last=1),
            row(20.0, "step", 10.0, first=2, last=11, wait=3.0),
            row(22.0, "evaluate", 2.0, step=11),
            row(23.0, "save", 1.0, step=11),
        ]
    )
    assert spent == pytest.approx(
        {
            "start": 4.0,
            "restore": 0.0,
            "compile": 6.0,
            "wait": 3.0,
            "step": 7.0,
            "evaluate": 2.0,
            "save": 1.0,
            "lost": 0.0,
            "down": 0.0,
        }
    )


def test_steps_made_again_are_lost_work_and_the_gap_is_down_time():
    first = [row(10.0, "start", 1.0), row(20.0, "step", 10.0, first=1, last=10, wait=2.0)]
    # Killed at step 10, gone on from step 6: steps 7 to 10 were made twice.
    second = [
        row(26.0, "start", 1.0, "b"),
        row(30.0, "step", 4.0, "b", first=7, last=10, wait=0.0),
    ]
    spent = where_time_went([*first, *second])
    assert spent["lost"] == pytest.approx(4.0)
    assert spent["wait"] == pytest.approx(2.0 * 0.6)
    assert spent["step"] == pytest.approx(10.0 - 4.0 - 1.2 + 4.0)
    assert spent["down"] == pytest.approx(5.0)
    assert sum(spent.values()) == pytest.approx(21.0)


def test_the_log_is_lines_of_json_and_the_table_names_what_took_time(tmp_path):
    log = EventLog(tmp_path, 0)
    log.add("start", 3.0)
    with log.timed("save", step=4):
        pass
    log.close()
    again = EventLog(tmp_path, 0)
    again.add("restore", 1.0)
    again.close()
    rows = read_rows(tmp_path / "events" / "process-0.jsonl")
    assert [r["event"] for r in rows] == ["start", "save", "restore"]
    assert len({r["attempt"] for r in rows}) == 2
    assert rows[1]["step"] == 4
    assert json.dumps(rows[0])
    text = describe(tmp_path)
    assert "over 2 start(s)" in text
    assert "parameters made or restored" in text
    assert "waiting for data" not in text
    assert describe(tmp_path / "absent") == ""
