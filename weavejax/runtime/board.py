"""Scalars for TensorBoard, written in the calling thread.

tensorboardX's own writer hands them to a thread through a short queue; a full disk ends the thread,
and the next scalars wait for it for ever.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar


class Board:
    """One event file; storage that fails ends the file, not the run.

    Args:
      directory: of the event files.
      start: step the run goes on from: TensorBoard hides later ones of earlier starts.
    """

    def __init__(self, directory: Path, *, start: int) -> None:
        self._writer: EventsWriter | None = None
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._writer = EventsWriter(str(directory / "events"))
        except OSError as error:
            self._give_up(error)
        self._write(Event(step=start + 1, session_log=SessionLog(status=SessionLog.START)))

    def add(self, step: int, scalars: Mapping[str, float], wall: float) -> None:
        """Writes scalars of a step, at a Unix time."""
        for name, value in scalars.items():
            self._write(Event(wall_time=wall, step=step, summary=scalar(name, value)))
        self._flush()

    def _write(self, event: Event) -> None:
        if self._writer is not None:
            try:
                self._writer.write_event(event)
            except OSError as error:
                self._give_up(error)

    def _flush(self) -> None:
        if self._writer is not None:
            try:
                self._writer.flush()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        print(f"no more TensorBoard events from this start: {error}", file=sys.stderr, flush=True)
        self._writer = None

    def close(self) -> None:
        """Flushes and closes the file."""
        self._flush()
        if self._writer is not None:
            self._writer.close()
