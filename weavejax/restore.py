"""A trained model from its working directory."""

from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh

from weavejax import systems
from weavejax.errors import UserError
from weavejax.runtime.checkpoint import Checkpoints
from weavejax.runtime.mesh import make_mesh
from weavejax.runtime.step import evaluated_params, lay_out
from weavejax.runtime.workdir import read_config
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


def restore(workdir: Path, which: str = "") -> Trained:
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
    if not (workdir / "checkpoints").is_dir():
        raise UserError(f"{workdir} holds no checkpoints yet: train first")
    checkpoints = Checkpoints(workdir / "checkpoints", keep=config.runtime.keep, read_only=True)
    step = _choose(checkpoints, which, workdir)
    layout = lay_out(system, config.optim, config.steps, mesh)
    state = checkpoints.restore(layout.abstract, step)
    checkpoints.close()
    return Trained(config, system, evaluated_params(state), layout.placed.params, mesh, step)


def _choose(checkpoints: Checkpoints, which: str, workdir: Path) -> int:
    steps = checkpoints.steps()
    if not steps:
        raise UserError(f"{workdir} holds no finished checkpoint: train first")
    if which in ("", "latest"):
        return steps[-1]
    if which == "best":
        best = checkpoints.best_step()
        if best is None:
            raise UserError(f"no checkpoint of {workdir} was evaluated; it has steps {steps}")
        return best
    if not which.isdigit():
        raise UserError(f"--step {which!r} is none of latest, best, {', '.join(map(str, steps))}")
    return int(which)
