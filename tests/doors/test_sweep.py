"""`--sweep` of the train door: what it accepts, and how it runs many processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from door import ROOT

from weavejax.errors import UserError
from weavejax.runs import sweep
from weavejax.runtime import cli
from weavejax.runtime.workdir import open_workdir

FILE = """
def get_sweep():
    for seed in (0, 1, 2):
        yield f"seed-{seed}", {"seed": seed, "loss.score": "cosine"}
"""
# Stands in for a run: says who it is, waits when asked, leaves results.
CHILD = """
import json, os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
if os.environ.get("WAIT"):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    (folder / "running").touch()
    time.sleep(60)
status = json.loads(os.environ.get("STATUS", "{}")).get(folder.name, 0)
if status == 0:
    (folder / "results.json").write_text('{"step": 12}')
print("ran", folder.name, *sys.argv[2:], flush=True)
print("compiled in", os.environ["JAX_COMPILATION_CACHE_DIR"])
sys.exit(status)
"""
DRIVER = """
import sys
from weavejax.runs import sweep
from weavejax.runtime import cli
child = sys.argv.pop(1)
sweep._command = lambda entry: [sys.executable, child, entry.workdir, *entry.argv]
def main(argv):
    sys.exit(sweep.run(argv))
cli.launch(main)
"""
CONFIG = ("--config", "configs/gram.py:smoke")


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A folder with a sweep file, the stand-in and its driver."""
    (tmp_path / "three.py").write_text(FILE)
    (tmp_path / "child.py").write_text(CHILD)
    (tmp_path / "driver.py").write_text(DRIVER)
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    return tmp_path


def start(room, *flags, **environment):
    command = [sys.executable, str(room / "driver.py"), str(room / "child.py"), *CONFIG]
    command += ["--sweep", str(room / "three.py"), "--workdir", str(room / "runs"), *flags]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_all_run_in_order_and_failures_are_reported(room):
    process = start(room, STATUS=json.dumps({"seed-1": 7}))
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    ran = [line.split() for line in printed.splitlines() if line.startswith("ran")]
    assert [line[1] for line in ran] == ["seed-0", "seed-1", "seed-2"]
    assert "--config.seed=1" in ran[1]
    assert "--config.loss.score=cosine" in ran[1]
    assert "left)" in printed
    assert "2 done, 0 finished before, 1 failed; seed-1 (status 7)" in printed


@pytest.mark.parametrize("given", ["", "elsewhere"])
def test_the_runs_share_their_compiled_programs(room, monkeypatch, given):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    process = start(room, **({"JAX_COMPILATION_CACHE_DIR": given} if given else {}))
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    place = given or str(room / "runs" / "compiled")
    assert [x for x in printed.splitlines() if x.startswith("compiled")] == [
        f"compiled in {place}"
    ] * 3
    assert given or (room / "runs" / "compiled").stat().st_mode & 0o777 == 0o700


def test_only_mistakes_make_it_a_mistake(room):
    process = start(room, STATUS=json.dumps({"seed-1": 2}))
    printed, _ = process.communicate(timeout=60)
    assert "2 done, 0 finished before, 1 failed" in printed
    assert process.returncode == 2


def test_finished_runs_are_skipped_and_others_go_on(room, monkeypatch):
    monkeypatch.chdir(ROOT)
    entries = sweep._entries(room / "three.py", str(room / "runs"), CONFIG)
    for entry, step in zip(entries, (12, 6, 12), strict=True):  # the second is half way
        config = cli.parse(entry.argv, "", {"workdir": ""}, takes_config=True).config
        open_workdir(entry.workdir, config)
        (Path(entry.workdir) / "results.json").write_text(json.dumps({"step": step}))
    process = start(room)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert [x.split()[1] for x in printed.splitlines() if x.startswith("ran")] == ["seed-1"]
    assert "1 done, 2 finished before, 0 failed" in printed


def test_a_signal_reaches_the_run_and_stops_the_sweep(room):
    process = start(room, WAIT="1")
    deadline = time.monotonic() + 40
    while not (room / "runs/seed-0/running").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=20)
    assert process.returncode == 75
    assert "stopped in seed-0" in printed
    assert not (room / "runs/seed-1").exists()


def test_an_index_becomes_that_run(room, monkeypatch):
    started = []
    monkeypatch.setattr(os, "execv", lambda program, command: started.append(command))
    monkeypatch.setattr(sweep, "_run_all", lambda entries, title: 0)
    monkeypatch.chdir(ROOT)
    argv = [*CONFIG, "--sweep", str(room / "three.py"), "--workdir", str(room / "runs")]
    for flags, task in ((["--index", "1"], ""), (["--index=seed-1"], ""), ([], "1")):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", task)
        sweep.run([*argv, *flags])
        command = started.pop()
        assert command[:3] == [sys.executable, "-m", "weavejax.train"]
        assert command[-2:] == ["--workdir", str(room / "runs/seed-1")]
        assert "--config.seed=1" in command
        assert not any(flag.startswith(("--sweep", "--index")) for flag in command)


def test_list_prints_index_name_and_overrides(room, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert sweep.run([*CONFIG, "--sweep", str(room / "three.py"), "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["2", "seed-2", "seed=2", "loss.score='cosine'"]


def test_no_sweep_is_no_affair_of_its():
    assert sweep.run([*CONFIG, "--workdir", "x"]) is None
    assert sweep.run(["--help", "--sweep", "x"]) is None


@pytest.mark.parametrize(
    ("text", "flags", "words"),
    [
        (FILE, ["--index", "3"], "--index 3: the sweep has 0 to 2, or one of seed-0, seed-1"),
        (FILE, ["--index", "seed"], "--index seed: the sweep has 0 to 2"),
        (FILE, ["--config.seed=4"], "--config.seed is what the sweep changes"),
        (FILE.replace("loss.score", "loss.skore"), [], "unknown config key 'loss.skore'; did you"),
        (FILE.replace("{seed}", ""), [], "names are unique"),
        (FILE.replace("seed-{seed}", "../{seed}"), [], "names are unique and of letters"),
        (FILE.replace('"cosine"', '{"a": 1}'), [], "loss.score"),
        (FILE.replace('"seed": seed', '"seed": "one"'), [], "seed"),
        ("def get_sweep(:", [], "a sweep has get_sweep()"),
        ("x = 1", [], "get_sweep"),
        ("def get_sweep():\n    return []", [], "yields no runs"),
        ("def get_sweep():\n    raise KeyError('boom')", [], "boom"),
    ],
)
def test_mistakes_are_found_before_anything_runs(text, flags, words, room, monkeypatch):
    (room / "three.py").write_text(text)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sweep, "_run_all", lambda *_: pytest.fail("it ran"))
    with pytest.raises(UserError, match=r".") as caught:
        sweep.run([*CONFIG, "--sweep", str(room / "three.py"), *flags])
    assert words in str(caught.value)


def test_a_missing_file_and_stray_flags_are_refused(room, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=r"no sweep file configs/sweeps/gram.py.*gram_scores"):
        sweep.run([*CONFIG, "--sweep", "configs/sweeps/gram.py"])
    with pytest.raises(UserError, match="belong to --sweep"):
        sweep.run([*CONFIG, "--index", "1"])
    monkeypatch.setenv("WEAVEJAX_PROCESSES", "2")
    with pytest.raises(UserError, match="trains one run of a sweep: give --index"):
        sweep.run([*CONFIG, "--sweep", str(room / "three.py")])


def test_a_run_of_another_config_in_the_way_is_refused(room, monkeypatch):
    monkeypatch.chdir(ROOT)
    (room / "runs/seed-1").mkdir(parents=True)
    (room / "runs/seed-1/config.json").write_text('{"seed": 99}')
    with pytest.raises(UserError, match=r"entry 'seed-1'.*another config"):
        sweep.run([*CONFIG, "--sweep", f"{room}/three.py", "--workdir", f"{room}/runs"])


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs/sweeps").glob("*.py")), ids=lambda p: p.stem
)
def test_sweeps_that_ship_fit_their_config_and_say_how_to_run_them(path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    text = path.read_text()
    for field in ("Command:", "Hardware:", "Time:", "Result:"):
        assert field in text
    command = text.split("Command:")[1].splitlines()[0].split()
    assert command[:3] == ["python", "-m", "weavejax.train"]
    assert sweep.run([*command[3:], "--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 3
