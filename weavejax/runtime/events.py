"""Where the time of a run goes: an event log per process, and its reader.

A line of `events/process-0.jsonl` is {"wall": end, Unix seconds, "attempt": of the start it belongs
to, "event", "seconds", …facts}. Events: start (until parameters are made), restore (or made), compile
(the first step), step (with `first`, `last` and `wait`, the part spent waiting for data), evaluate,
save (the part that stops training), stop.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from weavejax.runtime.records import Lines, read_rows

FOLDER = "events"
SHOWN = ("start", "restore", "compile", "wait", "step", "evaluate", "save", "lost", "down")
MEANING = {
    "start": "start-up, data preparation",
    "restore": "parameters made or restored",
    "compile": "first step, with compilation",
    "wait": "waiting for data",
    "step": "training steps that count",
    "evaluate": "evaluation",
    "save": "saving (what stops training)",
    "lost": "steps made again after a restart",
    "down": "between two starts",
}


class EventLog:
    """Appends the events of one process.

    Args:
      directory: the working directory.
      process: number of this process.
    """

    def __init__(self, directory: Any, process: int) -> None:
        self._lines = Lines(directory / FOLDER / f"process-{process}.jsonl")
        self._attempt = f"{time.time_ns()}-{os.getpid()}"

    def add(self, event: str, seconds: float, **facts: Any) -> None:
        """Notes something that took `seconds` and ended now."""
        row = {"wall": round(time.time(), 3), "attempt": self._attempt, "event": event}
        self._lines.add({**row, "seconds": round(seconds, 6), **facts})

    @contextmanager
    def timed(self, event: str, **facts: Any) -> Iterator[None]:
        """Notes how long the block takes."""
        began = time.monotonic()
        yield
        self.add(event, time.monotonic() - began, **facts)

    def close(self) -> None:
        """Flushes."""
        self._lines.close()


def where_time_went(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds by `SHOWN`, over all starts of one process.

    A step made again after a restart counts once; its first time is lost, with the waits in it.
    """
    out = dict.fromkeys(SHOWN, 0.0)
    attempts: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        attempts.setdefault(row["attempt"], []).append(row)
    ordered = list(attempts.values())
    for number, attempt in enumerate(ordered):
        later = [row for following in ordered[number + 1 :] for row in following]
        again = min((row["first"] for row in later if row["event"] == "step"), default=None)
        for row in attempt:
            _count(out, row, again)
        if number:
            gap = _began(attempt) - ordered[number - 1][-1]["wall"]
            out["down"] += max(0.0, gap)
    return out


def _began(attempt: Sequence[Mapping[str, Any]]) -> float:
    return attempt[0]["wall"] - attempt[0]["seconds"]


def _count(out: dict[str, float], row: Mapping[str, Any], again: int | None) -> None:
    event, seconds = row["event"], row["seconds"]
    if event not in ("step", "compile"):
        if event in out:
            out[event] += seconds
        return
    first, last = row["first"], row["last"]
    repeated = 0 if again is None else max(0, last - max(first, again) + 1)
    lost = seconds * repeated / (last - first + 1)
    wait = row.get("wait", 0.0) * (1 - repeated / (last - first + 1))
    out["lost"] += lost if event == "step" else 0.0
    out["wait"] += wait
    out[event] += seconds - wait - (lost if event == "step" else 0.0)


def describe(workdir: Path) -> str:
    """A table of where the time of a run went, by its process 0; "" without a log."""
    rows = read_rows(workdir / FOLDER / "process-0.jsonl")
    if not rows:
        return ""
    spent = where_time_went(rows)
    total = sum(spent.values()) or 1.0
    starts = len({row["attempt"] for row in rows})
    lines = [f"where {total:.0f} s went, over {starts} start(s):"]
    lines += [
        f"  {MEANING[name]:34s} {seconds:10.1f} s  {100 * seconds / total:5.1f} %"
        for name, seconds in spent.items()
        if seconds
    ]
    return "\n".join(lines)
