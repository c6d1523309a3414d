"""A model ready to use: from the working directory of its training, or from converted weights."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from weavejax import systems
from weavejax.errors import UserError
from weavejax.runs import initial
from weavejax.runtime import cli
from weavejax.runtime.checkpoint import Checkpoints
from weavejax.runtime.mesh import make_mesh
from weavejax.runtime.step import evaluated_params, lay_out
from weavejax.runtime.workdir import keep_compiled, read_config
from weavejax.storage import Storage, storage
from weavejax.systems.base import System

FLAGS = {
    "workdir": "directory of a training run",
    "step": "which checkpoint: latest (default), best, or a step",
    "weights": "in place of both, with --config: file or directory of weavejax.convert",
}


class Trained(NamedTuple):
    """A system with its parameters on the devices.

    Attributes:
      config: as run.
      system: built from it.
      params: the averaged ones where an average was kept.
      placed: their shardings.
      mesh: of this process' devices.
      step: of the checkpoint; 0 of converted weights.
    """

    config: Any
    system: System
    params: Any
    placed: Any
    mesh: Mesh
    step: int


def parse(argv: Sequence[str], doc: str, own: Mapping[str, str]) -> cli.Arguments:
    """The command line of a door that takes `FLAGS`, among its own: a run, or config and weights.

    Raises:
      UserError: as `cli.parse`; neither is given, or both.
    """
    takes_config = any(a.lstrip("-").startswith(("weights", "config")) for a in argv)
    arguments = cli.parse(argv, doc, own, takes_config=takes_config)
    if arguments.values["workdir"] and takes_config:
        raise UserError("--workdir has its own config and weights: give no --config and --weights")
    if takes_config and not arguments.values["weights"]:
        raise UserError("--weights is missing, as in --weights params.safetensors; see --help")
    if not (takes_config or arguments.values["workdir"]):
        raise UserError("--workdir is missing, as in --workdir runs/gram; see --help")
    return arguments


def open_model(arguments: cli.Arguments) -> Trained:
    """The model that a command line of `parse` names; raises as `restore` and `from_weights`.

    What is compiled for it from now on is kept for the next start.
    """
    values = arguments.values
    if arguments.config is not None:
        trained = from_weights(arguments.config, values["weights"])
        keep_compiled(None)
    else:
        workdir = storage(values["workdir"])
        trained = restore(workdir, values["step"])
        keep_compiled(workdir)
    return trained


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


def from_weights(config: Any, weights: str) -> Trained:
    """Puts converted weights onto whatever devices there are.

    Args:
      config: of the model; `config.init.partial` says what need not fit.
      weights: file of `weavejax.convert`, or its directory.

    Raises:
      UserError: there is no such file, or it does not fit the config.
    """
    system = systems.build(config)
    mesh = make_mesh(config.runtime.mesh)
    layout = lay_out(system, config, mesh)
    init = ConfigDict({"weights": weights, "partial": config.init.partial})
    print(initial.describe(initial.check(system, layout, init)), flush=True)
    params = initial.params(system, layout, init, jax.random.key(config.seed))
    return Trained(config, system, params, layout.placed.params, mesh, 0)


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
