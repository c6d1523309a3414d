"""What happens around the steps of a training run: the hooks of `runtime.loop`."""

import json
import statistics
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from weavejax.data.broken import BrokenLog
from weavejax.data.clip import record_name
from weavejax.data.order import record_order
from weavejax.errors import UserError
from weavejax.runs import results
from weavejax.runs.assemble import Data
from weavejax.runs.evaluation import Evaluation, Reports
from weavejax.runtime import cluster
from weavejax.runtime.checkpoint import Checkpoints
from weavejax.runtime.events import EventLog
from weavejax.runtime.loop import Batch, Timing
from weavejax.runtime.mesh import batch_sharding, put_batch
from weavejax.runtime.records import MetricWriter, Terminal
from weavejax.runtime.signals import Stopped, StopRequest
from weavejax.runtime.step import State, Told, evaluated_params, wishes_sharding
from weavejax.runtime.watchdog import Watchdog
from weavejax.storage import Storage, write_text
from weavejax.systems.base import System

MEDIAN_OF = 50  # steps, for the watchdog's idea of an ordinary one
NAMED = 8  # records of a refused batch in the error


class Session:
    """The hooks of one start of a run.

    Args:
      config: of the run.
      system: that is trained.
      mesh: of the devices.
      data: that it learns from.
      workdir: of the run.
      checkpoints: where states go.
      evaluation: of parameters.
      stop: whether somebody wants the job to stop.
      events: where the time goes.
      watchdog: that ends a stuck process.
      start: step the run goes on from.
    """

    def __init__(
        self,
        config: Any,
        system: System,
        mesh: Mesh,
        data: Data,
        workdir: Storage,
        *,
        checkpoints: Checkpoints,
        evaluation: Evaluation,
        stop: StopRequest,
        events: EventLog,
        watchdog: Watchdog,
        start: int,
    ) -> None:
        self._config, self._system, self._mesh, self._data = config, system, mesh, data
        self._workdir, self._checkpoints, self._evaluation = workdir, checkpoints, evaluation
        self._stop, self._events, self._watchdog = stop, events, watchdog
        self._primary = cluster.primary()
        self._writer = MetricWriter(workdir, start=start) if self._primary else None
        self._terminal = Terminal(config.steps, start, quiet=not self._primary)
        suffix = "" if self._primary else f"-{jax.process_index()}"
        self._broken = BrokenLog(workdir / f"broken{suffix}.jsonl", config.data.broken)
        self._batch_place, self._wish_place = batch_sharding(mesh), wishes_sharding(mesh)
        self._start, self._stepped = start, time.monotonic()
        self._durations: deque[float] = deque(maxlen=MEDIAN_OF)
        self._counted = (start, 0.0, 0.0)  # step, seconds of the loop and of waiting, in the events
        self._reports: tuple[int, Reports] | None = None  # of the newest evaluation, and its step

    def before(self, step: int, batch: Batch) -> tuple[Any, Any]:
        """Counts broken clips, puts the batch and this process's wishes on the devices."""
        if step == self._start + 1:
            self._watchdog.phase()
        else:
            now = time.monotonic()
            self._durations.append(now - self._stepped)
            self._stepped = now
            self._watchdog.step(statistics.median(self._durations))
        self._terminal.advance(step - 1)
        for name in self._broken.update(batch["wanted"], batch["index"], self._data.train):
            self._terminal.say(f"unreadable clip {name}: another takes its place; see broken.jsonl")
        wishes = (self._stop.asked, self._checkpoints.wanted(), self._checkpoints.saving())
        rows = np.tile(np.asarray(wishes, np.int32), (len(self._mesh.local_devices), 1))
        placed = put_batch({n: batch[n] for n in self._system.train_spec}, self._batch_place)
        return placed, jax.make_array_from_process_local_data(self._wish_place, rows)

    def after(self, step: int, told: Told) -> None:
        """Says what the guard refused; ends the run when it refuses too many in a row."""
        if told.accepted:
            return
        names = self._names_of(step)
        what = f"step {step} refused: loss {told.loss:.4g}, gradient norm {told.norm:.4g}"
        self._terminal.say(f"{what}; nothing but the step count changed; clips {_brief(names)}")
        limit = self._config.guard.limit
        if told.in_a_row < limit:
            return
        if self._primary:
            rows = json.dumps({"step": step, "clips": names}, indent=1, ensure_ascii=False)
            write_text(self._workdir / "refused.json", rows + "\n")
        raise UserError(
            f"{limit} steps in a row were refused, the last is {what}; its clips: {_brief(names)} "
            f"(all of them in {self._workdir}/refused.json). The newest checkpoint is from before: "
            "start again with another --config.data.seed, a lower optim.lr or a wider guard"
        )

    def _names_of(self, step: int) -> list[str]:
        """Clips of the global batch of a step, as the order asks for them."""
        config, source = self._config, self._data.train
        order = record_order(len(source), config.seed)
        indices = range((step - 1) * config.batch, step * config.batch)
        return [record_name(source, int(order[index])) for index in indices]

    def first(self) -> None:
        """From now on there is something to save."""
        self._stop.running()
        step = self._counted[0] + 1
        self._events.add("compile", time.monotonic() - self._stepped, first=step, last=step)
        self._counted = (step, 0.0, 0.0)
        self._stepped = time.monotonic()

    def log(self, step: int, metrics: dict[str, float], timing: Timing) -> None:
        """A row, a line, and an event."""
        self._count(step, timing)
        if self._writer is None:
            return
        self._writer.write(step, "train", metrics)
        rate = self._config.batch * timing.steps / timing.loop if timing.loop else 0.0
        percent = timing.wait_percent()
        self._writer.write(step, "time", {"clips per second": rate, "data wait %": percent})
        loss = metrics["loss"]
        self._terminal.note(step, f"loss {loss:.3f}  {rate:.0f} clips/s  data wait {percent:.1f} %")

    def _count(self, step: int, timing: Timing) -> None:
        """Notes where the time of the steps went since the last note."""
        before, loop, wait = self._counted
        if step > before:
            seconds, waited = timing.loop - loop, round(timing.wait - wait, 6)
            self._events.add("step", seconds, first=before + 1, last=step, wait=waited)
            self._counted = (step, timing.loop, timing.wait)

    def evaluated(self, step: int) -> bool:
        """Whether the log holds an evaluation of `step` from before this start."""
        answer = self._writer is not None and self._writer.evaluated(step)
        return cluster.any_process(answer)

    def evaluate(self, state: State) -> bool:
        """Evaluates, unless the job is to stop meanwhile."""
        self._watchdog.phase()
        with self._events.timed("evaluate", step=int(state.step)):
            try:
                reports, _ = self._evaluation(evaluated_params(state), self.stopping)
            except Stopped:
                return False
        self._stepped = time.monotonic()
        scalars = results.scalars(reports)
        step, value = int(state.step), scalars[self._system.headline]
        self._reports = (step, reports)
        if self._writer is not None:
            self._writer.write(step, "eval", scalars)
        self._terminal.say(f"step {step}  {self._system.headline} {value:.4g}")
        self._checkpoints.score(step, value)
        return True

    def reports(self, state: State) -> Reports | None:
        """Of the state: from its evaluation, else made now; None if the job is to stop meanwhile."""
        if self._reports and self._reports[0] == int(state.step):
            return self._reports[1]
        try:
            return self._evaluation(evaluated_params(state), self.stopping)[0]
        except Stopped:
            return None

    def stopping(self) -> bool:
        """Whether any process of the job was asked to stop; all must ask."""
        self._watchdog.phase()
        return cluster.any_process(self._stop.asked)

    def save(self, state: State, window: Mapping[str, Any], timing: Timing) -> None:
        """Starts saving."""
        self._watchdog.phase()
        self._count(int(state.step), timing)
        with self._events.timed("save", step=int(state.step)):
            self._checkpoints.save(state, window=window)
        self._stepped = time.monotonic()

    def close(self) -> None:
        """Closes the log and the bar."""
        self._terminal.close()
        if self._writer is not None:
            self._writer.close()


def _brief(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
