"""A working directory belongs to one config."""

import json
import os
from pathlib import Path

import jax
import pytest
from ml_collections import ConfigDict

from weavejax.errors import UserError
from weavejax.runtime.records import MetricWriter, read_rows
from weavejax.runtime.workdir import keep_compiled, open_workdir, read_config
from weavejax.storage import storage


def config(**changes):
    base = {"steps": 10, "loss": {"score": "volume"}, "runtime": {"workers": 1}, "pair": (1, 2)}
    return ConfigDict(base | changes)


def test_the_same_config_reopens_and_reads_back(tmp_path):
    open_workdir(tmp_path / "run", config())
    open_workdir(tmp_path / "run", config())
    found = read_config(tmp_path / "run")
    assert found.loss.score == "volume"
    assert list(found.pair) == [1, 2]


def test_another_config_is_refused_key_by_key(tmp_path):
    open_workdir(tmp_path / "run", config())
    with pytest.raises(UserError, match=r"loss.score volume there, cosine here.*another --workdir"):
        open_workdir(tmp_path / "run", config(loss={"score": "cosine"}))
    with pytest.raises(UserError, match="extra absent there, 1 here"):
        open_workdir(tmp_path / "run", config(extra=1))


def test_how_a_run_is_carried_out_may_change(tmp_path):
    open_workdir(tmp_path / "run", config())
    open_workdir(tmp_path / "run", config(runtime={"workers": 4}))
    assert read_config(tmp_path / "run").runtime.workers == 4


def test_a_directory_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="not empty"):
        open_workdir(tmp_path, config())
    with pytest.raises(UserError, match="not a working directory"):
        read_config(tmp_path)


def test_a_damaged_config_is_said(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        open_workdir(tmp_path, config())


def test_metric_rows_after_the_checkpoint_are_written_again_not_twice(tmp_path):
    writer = MetricWriter(tmp_path, start=0)
    for step in (1, 2, 3):
        writer.write(step, "train", {"loss": 1.0 / step})
    writer.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "kind": "tr')  # killed in mid-line
    writer = MetricWriter(tmp_path, start=2)
    writer.write(3, "train", {"loss": 0.5})
    writer.close()
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 1.0), (2, 0.5), (3, 0.5)]
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 3
    assert list((tmp_path / "tensorboard").iterdir())


def test_programs_are_kept_where_nobody_else_writes(tmp_path, monkeypatch):
    told = {}
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(jax.config, "update", told.__setitem__)

    def place(directory):
        keep_compiled(directory)
        return Path(told["jax_compilation_cache_dir"])

    run, home = tmp_path / "run", tmp_path / "home/.cache/weavejax/compiled"
    assert place(run) == run / "compiled"
    assert (run / "compiled").stat().st_mode & 0o777 == 0o700
    assert place(None) == place(storage("s3://bucket/run")) == home
    with monkeypatch.context() as patch:  # as on a read-only disk
        patch.setattr(os, "access", lambda path, mode: False)
        assert place(run) == home
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert place(run) == home
