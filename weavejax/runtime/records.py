"""Where the numbers of a run go: `metrics.jsonl`, TensorBoard, and the terminal."""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

from weavejax.runtime.workdir import write_text


class MetricWriter:
    """Scalars by step, to JSON lines and TensorBoard.

    A row is {"step", "kind", …scalars}; kinds are "train", "eval" and "time". Rows of the first two
    are a pure function of config and data, so a resumed run writes the same ones; "time" holds what
    depends on the machine.

    Args:
      directory: the working directory.
      start: step the run goes on from; later rows, left by a run that was killed after its last
        checkpoint, are dropped, since they will be written again.
    """

    def __init__(self, directory: Path, *, start: int) -> None:
        self._path = directory / "metrics.jsonl"
        kept = [row for row in read_rows(self._path) if row["step"] <= start]
        write_text(self._path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = open(self._path, "a", buffering=1)  # noqa: SIM115 - lives as long as the run
        self._board = SummaryWriter(str(directory / "tensorboard"), purge_step=start + 1)

    def write(self, step: int, kind: str, scalars: Mapping[str, float]) -> None:
        """Appends one row."""
        self._file.write(json.dumps({"step": step, "kind": kind, **scalars}) + "\n")
        for name, value in scalars.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Flushes both."""
        self._file.close()
        self._board.close()


def read_rows(path: Path) -> list[dict[str, Any]]:
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
    """Progress of a run: a bar with the time left on a terminal, a line now and then elsewhere."""

    def __init__(self, total: int, start: int) -> None:
        self._console = Console(file=sys.stderr)
        self._total, self._start = total, start
        self._began = time.monotonic()
        self._bar: Progress | None = None
        if self._console.is_terminal:
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
