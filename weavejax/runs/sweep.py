"""Sweeps: one training run for each entry of a file of overrides.

A sweep file has `get_sweep()`, which yields (name, {dotted config key: value}). Runs lie side by
side, in BASE/<name>; `python -m weavejax.evaluate --compare BASE` puts them into one table.
"""

import argparse
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn

from weavejax.errors import UserError
from weavejax.runtime import cli
from weavejax.runtime.records import duration
from weavejax.runtime.workdir import check_workdir, read_json
from weavejax.storage import Storage, is_remote, storage

FLAGS = {
    "sweep": "a file of runs (configs/sweeps/…): trains each, in WORKDIR/<name>; finished ones are"
    " skipped",
    "index": "of --sweep, one run by number or name; default SLURM_ARRAY_TASK_ID when that is set",
    "list": "of --sweep, prints what it holds (takes no value)",
}
FORWARDED = (signal.SIGTERM, signal.SIGINT)
PREEMPTED, MEND = 75, 2


class Entry(NamedTuple):
    """One run of a sweep.

    Attributes:
      name: its directory.
      overrides: dotted config key → value.
      workdir: where it lies.
      argv: the command line of `weavejax.train` that is this run.
      steps: that it has when it is finished.
    """

    name: str
    overrides: Mapping[str, Any]
    workdir: str
    argv: tuple[str, ...]
    steps: int


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")


def run(argv: Sequence[str]) -> int | None:
    """Does what `--sweep` asks for.

    With `--index` (or in a SLURM job array) this process becomes that run, and this function does
    not return. Otherwise every run is a process of its own, one after another.

    Args:
      argv: the command line of `weavejax.train`.

    Returns:
      The exit status of the sweep, or None when the command line has no `--sweep`: 0 all done, 2 or
      1 some failed (2: all of those by a mistake to mend), 75 or 130 stopped.

    Raises:
      UserError: a bad file, name, key, value, index or working directory; nothing has run then.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    for name in ("sweep", "index", "workdir"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--list", action="store_true")
    known, rest = parser.parse_known_args(list(argv))
    if not known.sweep:
        if known.index or known.list:
            raise UserError("--index and --list belong to --sweep FILE; see --help")
        return None
    if {"--help", "-h", "--helpfull"} & set(argv):
        return None
    path = Path(known.sweep)
    entries = _entries(path, known.workdir or f"runs/{path.stem}", rest)
    if known.list:
        for number, entry in enumerate(entries):
            changes = "  ".join(f"{key}={value!r}" for key, value in entry.overrides.items())
            print(f"{number:4d}  {entry.name}  {changes}")
        return 0
    index = known.index or os.environ.get("SLURM_ARRAY_TASK_ID", "")
    if index:
        _become(_choose(entries, index))
    if _processes() > 1:
        raise UserError(
            "a job of several processes trains one run of a sweep: give --index, or submit a job array"
        )
    return _run_all(entries, path.stem)


def _entries(path: Path, base: str, rest: Sequence[str]) -> list[Entry]:
    """The checked entries of a file, as runs below `base` with the other flags `rest`."""
    entries: list[Entry] = []
    for name, overrides in _read(path):
        where = f"{path}, entry {name!r}"
        if not re.fullmatch(r"[\w][\w.+-]*", str(name)) or name in {e.name for e in entries}:
            raise UserError(f"{where}: names are unique and of letters, digits and . _ + -")
        changes = [f"--config.{key}={_text(value)}" for key, value in overrides.items()]
        for key in overrides:
            if any(re.match(rf"--?(no)?config\.{re.escape(key)}(=|$)", flag) for flag in rest):
                raise UserError(f"--config.{key} is what the sweep changes: leave it out")
        workdir = f"{base.rstrip('/')}/{name}"
        argv = (*rest, *changes, "--workdir", workdir)
        try:
            config = cli.parse(
                argv, "", {"workdir": "", "cluster": "", **FLAGS}, takes_config=True
            ).config
            for key, value in overrides.items():
                if not isinstance(value, (str, int, float, tuple, list, type(None))):
                    raise UserError(f"{key} is {value!r}: give a number, a text or a tuple")
            check_workdir(workdir, config)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        entries.append(Entry(name, dict(overrides), workdir, argv, int(config.steps)))
    if not entries:
        raise UserError(f"{path} yields no runs")
    return entries


def _read(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    if not path.is_file():
        near = ", ".join(sorted(map(str, path.parent.glob("*.py")))) or "none there"
        raise UserError(f"no sweep file {path}; there are: {near}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return [(name, dict(overrides)) for name, overrides in module.get_sweep()]
    except Exception as error:  # the user's own code: anything may be raised
        last = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise UserError(
            f"{path}: {last}; a sweep has get_sweep(), which yields (name, {{key: value}})"
        ) from error


def _text(value: Any) -> str:
    return value if isinstance(value, str) else repr(tuple(value) if type(value) is list else value)


def _choose(entries: Sequence[Entry], index: str) -> Entry:
    names = [entry.name for entry in entries]
    if index in names:
        return entries[names.index(index)]
    if index.isdigit() and int(index) < len(entries):
        return entries[int(index)]
    raise UserError(
        f"--index {index}: the sweep has 0 to {len(entries) - 1}, or one of {', '.join(names)}"
    )


def _command(entry: Entry) -> list[str]:
    return [sys.executable, "-m", "weavejax.train", *entry.argv]


def _become(entry: Entry) -> NoReturn:
    """This very process, so that signals and the place in a job stay what they are."""
    print(f"sweep entry {entry.name}: {entry.workdir}", flush=True)
    os.execv(sys.executable, _command(entry))


def _processes() -> int:
    """Processes of the job this one belongs to, without joining it."""
    if "SLURM_STEP_NODELIST" in os.environ:
        return int(os.environ.get("SLURM_NTASKS", 1))
    return int(os.environ.get("WEAVEJAX_PROCESSES") or 1)


def _finished(entry: Entry) -> bool:
    results = storage(entry.workdir) / "results.json"
    return bool(results.exists() and read_json(results).get("step", 0) >= entry.steps)


def _run_all(entries: Sequence[Entry], title: str) -> int:
    """One after another; a failure does not keep the others from running.

    Runs that differ in nothing but numbers are one program, which the first of them compiles for all.
    """
    environment = _shared_programs(storage(entries[0].workdir).parent)
    failed: dict[str, int] = {}
    took: list[float] = []
    waiting = [entry for entry in entries if not _finished(entry)]
    skipped = len(entries) - len(waiting)
    with _Children() as children:
        for number, entry in enumerate(waiting):
            left = "" if not took else _left(took, len(waiting) - number)
            done = f"{number} of {len(waiting)} done" + (f", {skipped} before" if skipped else "")
            print(f"sweep {title}: {entry.name} ({done}{left})", flush=True)
            began = time.monotonic()
            status = children.call(_command(entry), environment)
            took.append(time.monotonic() - began)
            if children.signalled or status in (PREEMPTED, 130, 143):
                print(
                    f"sweep {title}: stopped in {entry.name}; the same command goes on", flush=True
                )
                return status or PREEMPTED
            if status:
                failed[entry.name] = status
                print(f"sweep {title}: {entry.name} failed with status {status}", flush=True)
    print(
        f"sweep {title}: {len(waiting) - len(failed)} done, {skipped} finished before, "
        f"{len(failed)} failed" + "".join(f"; {n} (status {s})" for n, s in failed.items()),
        flush=True,
    )
    if not failed:
        return 0
    return MEND if set(failed.values()) == {MEND} else 1


def _shared_programs(base: Storage) -> dict[str, str]:
    """The environment of the runs, with one directory of compiled programs below `base`."""
    environment = dict(os.environ)
    if not is_remote(base) and "JAX_COMPILATION_CACHE_DIR" not in environment:
        # Its owner's alone, as in `workdir.keep_compiled`.
        (base / "compiled").mkdir(parents=True, exist_ok=True, mode=0o700)
        environment["JAX_COMPILATION_CACHE_DIR"] = str(base / "compiled")
    return environment


def _left(took: Sequence[float], runs: int) -> str:
    return f", about {duration(sum(took) / len(took) * runs)} left"


class _Children:
    """Runs one process at a time and passes on the signals that would end this one.

    A child leads a process group of its own: Ctrl-C then reaches it once, from here.
    """

    def __init__(self) -> None:
        self.signalled = False
        self._child: subprocess.Popen[bytes] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Children":
        self._before = {number: signal.signal(number, self._forward) for number in FORWARDED}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def call(self, command: Sequence[str], environment: Mapping[str, str]) -> int:
        """The exit status of a command, 128 + n when signal n ended it."""
        if self.signalled:
            return PREEMPTED
        self._child = subprocess.Popen(command, env=environment, process_group=0)
        if self.signalled:  # between the two lines above
            self._child.send_signal(signal.SIGTERM)
        status = self._child.wait()
        self._child = None
        return status if status >= 0 else 128 - status

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self.signalled = True
        if self._child is not None:
            self._child.send_signal(number)
