"""Checkpoints through Orbax: asynchronous, the newest n and the best one, restored strictly.

On disk a checkpoint is one plain nested dict (the state with its field names as keys), so that it
can be read without this code. The position in the data is the step itself.
"""

from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
from flax import serialization

from weavejax.errors import UserError
from weavejax.runtime import tree
from weavejax.runtime.step import State

_policies = ocp.checkpoint_managers


class Checkpoints:
    """The checkpoints of one working directory.

    Args:
      directory: created when absent.
      keep: how many of the newest to keep; the best by the headline is kept besides.
      read_only: never writes, nor tidies up what a run under way may be writing.
    """

    def __init__(self, directory: Path, *, keep: int, read_only: bool = False) -> None:
        self.directory = directory.absolute()
        best = _policies.BestN(get_metric_fn=_headline, n=1, keep_checkpoints_without_metrics=False)
        self._orbax = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                best_fn=_headline,  # Orbax writes metrics only for a best_fn; the policy decides
                preservation_policy=_policies.AnyPreservationPolicy(
                    [_policies.LatestN(n=keep), best]
                ),
                read_only=read_only,
            ),
            item_handlers=ocp.StandardCheckpointHandler(),
        )

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, ascending."""
        return sorted(self._orbax.all_steps())

    def save(self, state: State, *, headline: float | None = None) -> None:
        """Starts saving; returns when the state is copied off the devices.

        Args:
          state: at most once per step.
          headline: higher is better; None when this step was not evaluated.
        """
        metrics = None if headline is None else {"headline": headline}
        self._orbax.save(
            int(state.step),
            args=ocp.args.StandardSave(serialization.to_state_dict(state)),
            metrics=metrics,
        )

    def restore(self, abstract: State, step: int) -> State:
        """The state saved at `step`, laid out as `abstract` says: see `step.Layout.abstract`.

        Raises:
          UserError: there is no such step, or leaves are missing, left over or of another shape:
            all of them are named at once.
        """
        if step not in self.steps():
            raise UserError(
                f"{self.directory} has no checkpoint of step {step}; it has {self.steps()}"
            )
        wanted = serialization.to_state_dict(abstract)
        wrong = _mismatches(self._orbax.item_metadata(step), wanted)
        if wrong:
            raise UserError(f"checkpoint {self.directory}/{step} does not fit: {'; '.join(wrong)}")
        found = self._orbax.restore(step, args=ocp.args.StandardRestore(wanted))
        return serialization.from_state_dict(abstract, found)

    def restore_raw(self, step: int) -> Any:
        """The stored nested dict of `step` as it is, on this process' first device."""
        return self._orbax.restore(step)

    def best_step(self) -> int | None:
        """Step of the checkpoint with the highest headline, if any was evaluated."""
        scored = {}
        for step in self.steps():
            metrics = self._orbax.metrics(step)
            if metrics is not None:
                scored[step] = metrics["headline"]
        return max(scored, key=lambda step: (scored[step], step)) if scored else None

    def close(self) -> None:
        """Waits for saves under way."""
        self._orbax.wait_until_finished()
        self._orbax.close()


def _headline(metrics: Any) -> float:
    return metrics["headline"]


def _mismatches(metadata: Any, wanted: Any) -> list[str]:
    """Differences between the stored tree and the wanted one, by path."""
    stored = tree.flatten(getattr(metadata, "tree", metadata))
    leaves = tree.flatten(wanted)
    wrong = [f"{path} is missing" for path in leaves if path not in stored]
    wrong += [f"{path} is left over" for path in stored if path not in leaves]
    for path in leaves.keys() & stored.keys():
        have, need = tuple(stored[path].shape), tuple(leaves[path].shape)
        if have != need:
            wrong.append(f"{path} is {have}, needed {need}")
    return sorted(wrong)
