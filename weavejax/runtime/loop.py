"""The training loop: one page, in the order that matters."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import numpy as np

from weavejax.runtime.metrics import merge, values
from weavejax.runtime.step import State, Told

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


class Hooks(Protocol):
    """What happens around the steps; `weavejax.runs.session.Session` is the real one."""

    def before(self, step: int, batch: Batch) -> tuple[Any, Any]:
        """Step `step` is about to run on this host batch → (batch, wishes) on the devices."""
        ...

    def after(self, step: int, told: Told) -> None:
        """What step `step` told, one step late."""
        ...

    def first(self) -> None:
        """The first step is made: compiled, and run by all processes."""
        ...

    def log(self, step: int, metrics: dict[str, float], timing: Timing) -> None:
        """The metrics of the steps since the last call, and the timing of the run so far."""
        ...

    def evaluated(self, step: int) -> bool:
        """Whether `step` was evaluated before this start."""
        ...

    def evaluate(self, state: State) -> bool:
        """Evaluates; False when it was broken off because the job is to stop."""
        ...

    def save(self, state: State, window: Mapping[str, Any], timing: Timing) -> None:
        """Saves the state, and the metrics of steps that are not logged yet."""
        ...


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
class Window:
    """Metrics since the last row. Those of step n are fetched while step n + 1 runs.

    Attributes:
      merged: (sum, weight) pairs of the steps fetched so far.
      stop: whether any process was asked to stop, as the steps told.
      save: whether any process wants a save out of turn and none is still saving.
    """

    merged: dict[str, Any] = field(default_factory=dict)
    stop: bool = False
    save: bool = False
    _pending: tuple[int, Any, Told] | None = None

    def push(self, step: int, metrics: Any, told: Told, hooks: Hooks) -> None:
        """Takes the step that was just started, and fetches the one before."""
        self.fetch(hooks)
        self._pending = (step, metrics, told)

    def fetch(self, hooks: Hooks) -> None:
        """Waits for the last step."""
        if self._pending is None:
            return
        step, metrics, told = self._pending
        self._pending = None
        metrics, told = jax.device_get((metrics, told))
        hooks.after(step, told)
        self.merged = merge(self.merged or None, metrics)
        stop, save, saving = (bool(count) for count in told.wishes)
        self.stop |= stop
        self.save = save and not saving

    def close(self, hooks: Hooks) -> dict[str, float]:
        """The row; the next one is empty."""
        self.fetch(hooks)
        out, self.merged = values(self.merged), {}
        return out

    def to_json(self) -> dict[str, list[float]]:
        """The open row, exact: a float32 survives its decimal form."""
        return {name: [float(s), float(w)] for name, (s, w) in self.merged.items()}

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> "Window":
        """Inverse of `to_json`."""
        return Window({n: (np.float32(s), np.float32(w)) for n, (s, w) in stored.items()})


def train_loop(
    state: State,
    train_step: Callable[[State, Any, Any], tuple[State, Any, Told]],
    batches: Iterator[Batch],
    every: Every,
    hooks: Hooks,
    window: Window,
) -> tuple[State, Timing, bool]:
    """Trains from `state.step` to `every.steps`, or until any process is asked to stop.

    Returns:
      The state, saved; the timing; whether the job is to stop.
    """
    timing, start = Timing(), int(state.step)
    # Stopped before its evaluation, a step is evaluated when the run goes on.
    owed = start > 0 and every.due(every.evaluate, start) and not hooks.evaluated(start)
    if owed and not hooks.evaluate(state):
        return state, timing, True
    for step in range(start + 1, every.steps + 1):
        began = time.monotonic()
        batch = next(batches)
        waited = time.monotonic() - began if state.step.is_ready() else 0.0
        placed, wishes = hooks.before(step, batch)
        state, metrics, told = train_step(state, placed, wishes)
        # Only now, with this step on its way, ask for the last one's numbers.
        window.push(step, metrics, told, hooks)

        log, evaluate, save = (every.due(i, step) for i in (every.log, every.evaluate, every.save))
        if timing.compile == 0.0:
            jax.block_until_ready(state.step)
            timing.compile = time.monotonic() - began
            hooks.first()
        else:
            if log or evaluate or save:
                jax.block_until_ready(state.step)
            timing.steps += 1
            timing.loop += time.monotonic() - began
            timing.wait += waited
        if log or evaluate or save:
            # Whatever is due, the row is closed: a run resumed from here opens the same next row.
            hooks.log(step, window.close(hooks), timing)
        stop = window.stop
        if evaluate and not stop:
            stop = not hooks.evaluate(state)
        if save or stop or window.save:
            # After the rows of this step are on disk: a checkpoint never knows less than the log.
            window.fetch(hooks)
            hooks.save(state, window.to_json(), timing)
            window.save = False
        if stop:
            return state, timing, True
    return state, timing, False
