"""The training loop: one page, in the order that matters."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from weavejax.errors import UserError
from weavejax.runtime.metrics import merge, values
from weavejax.runtime.step import State

Batch = Mapping[str, np.ndarray]


@dataclass
class Timing:
    """Seconds spent, since the last log line and in all; compilation is its own entry.

    Attributes:
      compile: the first step, which waits for the compiler and the first batch.
      steps: steps after the first.
      loop: their time, waiting included; evaluation and saving excluded.
      wait: how much of `loop` no step was running because the next batch was not there yet; an
        upper bound: the whole wait for a batch counts when the last step ended before it came.
    """

    compile: float = 0.0
    steps: int = 0
    loop: float = 0.0
    wait: float = 0.0

    def wait_percent(self) -> float:
        """Share of the loop's time that the step waited for data."""
        return 100.0 * self.wait / self.loop if self.loop else 0.0


@dataclass(frozen=True)
class Hooks:
    """What happens between steps. All are called with the state after `step` updates.

    Attributes:
      place: host batch → device arrays.
      inspect: sees the step about to run and its host batch.
      log: (step, metrics of the steps since the last call, timing of the run so far).
      evaluate: → the headline number.
      save: (state, headline or None).
    """

    place: Callable[[Batch], dict[str, jax.Array]]
    inspect: Callable[[int, Batch], None]
    log: Callable[[int, dict[str, float], Timing], None]
    evaluate: Callable[[State], float]
    save: Callable[[State, float | None], None]


@dataclass(frozen=True)
class Every:
    """Intervals in steps; 0 = only at the end."""

    log: int
    evaluate: int
    save: int
    steps: int

    def due(self, interval: int, step: int) -> bool:
        """Whether something with this interval happens after `step`."""
        return step == self.steps or (interval > 0 and step % interval == 0)


@dataclass
class _Window:
    """Metrics since the last row. Those of step n are fetched while step n + 1 runs."""

    merged: dict[str, Any] | None = None
    pending: tuple[int, Any] | None = field(default=None)

    def push(self, step: int, metrics: Any) -> None:
        self.fetch()
        self.pending = (step, metrics)

    def fetch(self) -> None:
        if self.pending is None:
            return
        step, metrics = self.pending
        fetched = jax.device_get(metrics)
        self.pending = None
        loss = fetched["optimised loss"][0]
        if not math.isfinite(loss):
            raise UserError(
                f"the loss of step {step} is {loss}: the run has diverged; nothing saved"
            )
        self.merged = merge(self.merged, fetched)

    def close(self) -> dict[str, float]:
        self.fetch()
        out, self.merged = values(self.merged or {}), None
        return out


def train_loop(
    state: State,
    train_step: Callable[[State, Any], tuple[State, Any]],
    batches: Iterator[Batch],
    every: Every,
    hooks: Hooks,
) -> tuple[State, Timing]:
    """Trains from `state.step` to `every.steps`."""
    timing, window = Timing(), _Window()
    for step in range(int(state.step) + 1, every.steps + 1):
        began = time.monotonic()
        batch = next(batches)
        waited = time.monotonic() - began if state.step.is_ready() else 0.0
        hooks.inspect(step, batch)
        state, metrics = train_step(state, hooks.place(batch))
        # Only now, with this step on its way, ask for the last one's numbers.
        window.push(step, metrics)

        log, evaluate, save = (every.due(i, step) for i in (every.log, every.evaluate, every.save))
        if timing.compile == 0.0:
            jax.block_until_ready(state.step)
            timing.compile = time.monotonic() - began
        else:
            if log or evaluate or save:
                jax.block_until_ready(state.step)
            timing.steps += 1
            timing.loop += time.monotonic() - began
            timing.wait += waited
        if log or evaluate or save:
            # Whatever is due, the row is closed: a run resumed from here opens the same next row.
            hooks.log(step, window.close(), timing)
        headline = hooks.evaluate(state) if evaluate else None
        if save:
            # After the rows of this step are on disk: a checkpoint never knows less than the log.
            hooks.save(state, headline)
    return state, timing
