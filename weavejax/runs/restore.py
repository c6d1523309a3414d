"""A trained model from its working directory."""

from typing import Any, NamedTuple

from jax.sharding import Mesh

from weavejax import systems
from weavejax.errors import UserError
from weavejax.runtime.checkpoint import Checkpoints
from weavejax.runtime.mesh import make_mesh
from weavejax.runtime.step import evaluated_params, lay_out
from weavejax.runtime.workdir import read_config
from weavejax.storage import Storage
from weavejax.systems.base import System


class Trained(NamedTuple):
    """A system with its parameters on the devices.

    Attributes:
      config: as run.
      system: built from it.
      params: the averaged ones where an average was kept.
      placed: their shardings.
      mesh: of this process' devices.
      step: of the checkpoint.
    """

    config: Any
    system: System
    params: Any
    placed: Any
    mesh: Mesh
    step: int


def restore(workdir: Storage, which: str = "") -> Trained:
    """Restores a checkpoint onto whatever devices there are.

    Args:
      workdir: of a training run.
      which: "" or "latest", "best", or a step.

    Raises:
      UserError: no such directory, checkpoint or step; a checkpoint that does not fit the config.
    """
    config = read_config(workdir)
    system = systems.build(config)
    mesh = make_mesh(config.runtime.mesh)
    checkpoints = Checkpoints(workdir / "checkpoints", keep=config.runtime.keep, read_only=True)
    step = _choose(checkpoints, which, workdir)
    layout = lay_out(system, config, mesh)
    state = checkpoints.restore(layout.abstract, step)
    checkpoints.close()
    return Trained(config, system, evaluated_params(state), layout.placed.params, mesh, step)


def _choose(checkpoints: Checkpoints, which: str, workdir: Storage) -> int:
    """The step asked for, its files verified."""
    steps = checkpoints.steps()
    if which in ("", "latest"):
        newest = checkpoints.newest_good()
        if newest is None:
            raise UserError(f"{workdir} holds no finished checkpoint: train first")
        return newest
    if which == "best":
        best = checkpoints.best_step()
        if best is None:
            raise UserError(f"no checkpoint of {workdir} was evaluated; it has steps {steps}")
        return checkpoints.check(best)
    if not which.isdigit():
        raise UserError(f"--step {which!r} is none of latest, best, {', '.join(map(str, steps))}")
    if int(which) not in steps:
        raise UserError(f"{workdir} has no checkpoint of step {which}; it has {steps}")
    return checkpoints.check(int(which))
