"""Where the numbers of a run go: `metrics.jsonl`, TensorBoard, and the terminal."""

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from weavejax.runtime.board import Board
from weavejax.storage import Storage, is_remote, write_text

METRICS = "metrics.jsonl"
REMOTE_SECONDS = 30.0  # between two writes of a file on an object store


class Lines:
    """JSON lines, appended; storage that fails for a while loses none of them and stops nothing.

    Args:
      path: of the file. An object store cannot append: there the whole file is written again, now
        and then.
      kept: rows to begin with, in place of what the file holds; None appends.
    """

    def __init__(self, path: Storage, kept: Sequence[Mapping[str, Any]] | None = None) -> None:
        self._path, self._waiting = path, b""
        self._file: Any = None
        self._failing = False
        self._written = float("-inf")
        if kept is None and is_remote(path):
            kept = read_rows(path)
        self._all = b"".join(map(_line, kept or ()))
        if kept is not None and not is_remote(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, self._all.decode())

    def add(self, row: Mapping[str, Any]) -> None:
        """Appends a row; numbers that are not finite become null."""
        self._waiting += _line(row)
        if not is_remote(self._path) or time.monotonic() - self._written > REMOTE_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes what is waiting."""
        try:
            self._write()
        except Exception as error:  # a disk that is full, a store that errors: try again next time
            if not self._failing:
                print(f"{self._path} cannot be written for now: {error}", file=sys.stderr)
            self._failing = True
        else:
            self._failing = False

    def _write(self) -> None:
        self._written = time.monotonic()
        if is_remote(self._path):
            self._path.write_bytes(self._all + self._waiting)
            self._all += self._waiting
            self._waiting = b""
            return
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115 - lives with the run
        end = self._file.tell()
        written = 0
        try:
            while written < len(self._waiting):
                written += self._file.write(self._waiting[written:])
        except OSError:
            self._file.truncate(end)  # no half lines
            self._file.seek(end)
            raise
        self._waiting = b""

    def close(self) -> None:
        """Flushes."""
        self.flush()
        if self._file is not None:
            self._file.close()


def _line(row: Mapping[str, Any]) -> bytes:
    plain = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }
    return json.dumps(plain, allow_nan=False).encode() + b"\n"


class MetricWriter:
    """Scalars by step, to JSON lines and TensorBoard.

    A row is {"step", "kind", …scalars}; kinds are "train", "eval" and "time". Rows of the first two
    are a pure function of config and data, so a resumed run writes the same ones; "time" holds what
    depends on the machine.

    Args:
      directory: the working directory; on an object store there is no TensorBoard.
      start: step the run goes on from; later rows, left by a run that was killed after its last
        checkpoint, are dropped, since they will be written again.
    """

    def __init__(self, directory: Storage, *, start: int) -> None:
        path = directory / METRICS
        kept = [row for row in read_rows(path) if row["step"] <= start]
        self._evaluated = {row["step"] for row in kept if row["kind"] == "eval"}
        self._lines = Lines(path, kept)
        remote = is_remote(directory)
        self._board = None if remote else Board(directory / "tensorboard", start=start)

    def write(self, step: int, kind: str, scalars: Mapping[str, float]) -> None:
        """Appends one row."""
        self._lines.add({"step": step, "kind": kind, **scalars})
        if self._board is not None:
            named = {f"{kind}/{name}": value for name, value in scalars.items()}
            self._board.add(step, named, time.time())

    def evaluated(self, step: int) -> bool:
        """Whether the file held an evaluation of `step` when it was opened."""
        return step in self._evaluated

    def close(self) -> None:
        """Flushes both."""
        self._lines.close()
        if self._board is not None:
            self._board.close()


def read_rows(path: Storage) -> list[dict[str, Any]]:
    """Rows of a metrics file; a last line cut off by a kill is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


class Terminal:
    """Progress of a run: a bar with the time left on a terminal, a line now and then elsewhere.

    Args:
      total: steps of the run.
      start: step it goes on from.
      quiet: says nothing (all processes of a job but one).
    """

    def __init__(self, total: int, start: int, *, quiet: bool = False) -> None:
        self._console = Console(file=sys.stderr, quiet=quiet)
        self._total, self._start = total, start
        self._began = time.monotonic()
        self._bar: Progress | None = None
        if self._console.is_terminal and not quiet:
            self._bar = Progress(
                TextColumn("train {task.completed}/{task.total}"),
                BarColumn(bar_width=16),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=self._console,
            )
            self._task = self._bar.add_task("train", total=total, completed=start, note="")
            self._bar.start()

    def advance(self, step: int) -> None:
        """The run has reached `step`."""
        if self._bar:
            self._bar.update(self._task, completed=step)

    def note(self, step: int, text: str) -> None:
        """A line of figures at `step`."""
        if self._bar:
            self._bar.update(self._task, completed=step, note=text)
            return
        done = max(step - self._start, 1)
        left = (time.monotonic() - self._began) / done * (self._total - step)
        self.say(f"step {step}/{self._total}  {text}  {duration(left)} left")

    def say(self, text: str) -> None:
        """Prints a line without disturbing the bar."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Takes the bar down."""
        if self._bar:
            self._bar.stop()


def duration(seconds: float) -> str:
    """95.2 → "1 min 35 s"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
