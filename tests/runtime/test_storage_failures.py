"""Storage that fails for a while: saves are tried again, lines are kept, nothing good is lost."""

import errno
import json
import time

import jax
import jax.numpy as jnp
import pytest

from weavejax.errors import UserError
from weavejax.runtime import manifest
from weavejax.runtime.checkpoint import Checkpoints
from weavejax.runtime.guard import fresh
from weavejax.runtime.records import Lines, MetricWriter, read_rows
from weavejax.runtime.step import State


def state(step):
    return State(
        jnp.int32(step), {"a": jax.random.normal(jax.random.key(step), (8,))}, {}, {}, fresh(2)
    )


class Outage:
    """`manifest.write` that fails a number of times."""

    def __init__(self, monkeypatch, times):
        self.left, self._write = times, manifest.write
        monkeypatch.setattr(manifest, "write", self)

    def __call__(self, directory, facts):
        if self.left:
            self.left -= 1
            raise OSError(errno.EIO, "Input/output error")
        self._write(directory, facts)


def wait(checkpoints):
    while checkpoints.saving():
        time.sleep(0.01)


def test_a_failed_save_is_wanted_again_later_and_ever_later(tmp_path, monkeypatch, capsys):
    checkpoints = Checkpoints(tmp_path, keep=2, retry=0.2, alarm=3)
    checkpoints.save(state(1))
    wait(checkpoints)
    assert not checkpoints.wanted()
    Outage(monkeypatch, 2)
    for step, pause in ((2, 0.2), (3, 0.4)):
        began = time.monotonic()
        checkpoints.save(state(step))
        wait(checkpoints)
        assert checkpoints.steps() == [1]
        while not checkpoints.wanted():
            time.sleep(0.01)
        assert time.monotonic() - began > pause
    checkpoints.save(state(4))
    wait(checkpoints)
    assert not checkpoints.wanted()
    assert checkpoints.failures == 0
    assert checkpoints.steps() == [1, 4]
    said = capsys.readouterr().err
    assert (
        said.count("a checkpoint could not be saved (OSError: [Errno 5] Input/output error)") == 2
    )
    assert "ALARM" not in said
    checkpoints.close()


def test_the_alarm_comes_after_as_many_failures_as_asked(tmp_path, monkeypatch, capsys):
    checkpoints = Checkpoints(tmp_path, keep=2, retry=0.01, alarm=3)
    Outage(monkeypatch, 3)
    for step in (1, 2, 3):
        checkpoints.save(state(step))
        wait(checkpoints)
        assert ("ALARM: 3 saves in a row" in capsys.readouterr().err) == (step == 3)
    checkpoints.close()


def test_the_last_save_is_tried_until_it_holds(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, keep=2, retry=0.01, alarm=5)
    Outage(monkeypatch, 3)
    checkpoints.save(state(7))
    checkpoints.finish(state(7))
    assert checkpoints.steps() == [7]
    assert checkpoints.verify() == {7: []}
    Outage(monkeypatch, 99)
    checkpoints.save(state(8))
    with pytest.raises(UserError, match=r"could not be saved in 5 attempt.* is that of step 7"):
        checkpoints.finish(state(8))
    checkpoints.close()


def test_lines_that_cannot_be_written_wait(tmp_path, monkeypatch, capsys):
    lines = Lines(tmp_path / "log.jsonl")
    lines.add({"n": 0})
    real = lines._file

    class Full:
        """Takes half a line, then the disk is full."""

        def tell(self):
            return real.tell()

        def write(self, data):
            if len(data) > 3:
                return real.write(data[:3])
            raise OSError(errno.ENOSPC, "No space left on device")

        def truncate(self, size):
            real.truncate(size)

        def seek(self, position):
            real.seek(position)

    lines._file = Full()
    lines.add({"n": 1})
    lines.add({"n": 2})
    assert (tmp_path / "log.jsonl").read_text() == '{"n": 0}\n'
    lines._file = real
    lines.add({"n": 3})
    lines.close()
    assert [row["n"] for row in read_rows(tmp_path / "log.jsonl")] == [0, 1, 2, 3]
    assert capsys.readouterr().err.count("cannot be written for now") == 1


def test_numbers_that_are_not_finite_become_null(tmp_path):
    writer = MetricWriter(tmp_path, start=0)
    writer.write(1, "train", {"loss": float("nan"), "norm": float("inf"), "rate": 1.0})
    writer.close()
    row = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail)
    assert row == {"step": 1, "kind": "train", "loss": None, "norm": None, "rate": 1.0}
