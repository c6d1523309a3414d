"""The train state and the one jitted train step, whatever the system."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh, NamedSharding

from weavejax.runtime import tree
from weavejax.runtime.mesh import batch_sharding, replicated
from weavejax.runtime.metrics import per_step
from weavejax.runtime.optim import make_optimiser, schedule
from weavejax.runtime.sharding import shardings

FROZEN_DTYPE = jnp.bfloat16


class Trainable(Protocol):
    """What the runtime needs of a system (`weavejax.systems.base.System`)."""

    @property
    def init(self) -> Callable[[Array], Any]: ...
    @property
    def loss(self) -> Callable[..., tuple[Array, dict[str, tuple[Array, Array]]]]: ...
    @property
    def rules(self) -> Any: ...
    @property
    def frozen(self) -> Callable[[str], bool]: ...


class State(NamedTuple):
    """Everything a run carries from step to step; random keys are folded from `step`.

    Attributes:
      step: updates made so far, int32 [].
      params: all parameters, a nested dict.
      optimiser: optimiser state over the trainable ones, keyed by path.
      average: exponential moving average of the trainable ones by path; empty when off.

    The same tuple also carries the state's shapes or shardings.
    """

    step: Any
    params: Any
    optimiser: Any
    average: Any


class Layout(NamedTuple):
    """Everything about a run's state but its numbers.

    Attributes:
      shapes: abstract state.
      placed: sharding of every leaf; the optimiser's and the average's follow the parameters'.
      abstract: shapes with their shardings: what `Checkpoints.restore` takes.
      optimiser: over the trainable parameters, by path.
      learning_rate: of a step.
      init: key → a fresh state, made where it belongs.
    """

    shapes: State
    placed: State
    abstract: State
    optimiser: optax.GradientTransformation
    learning_rate: Callable[[Any], Any]
    init: Callable[[Array], State]


def lay_out(system: Trainable, optim: Any, steps: int, mesh: Mesh) -> Layout:
    """Shapes and shardings of a run; nothing is computed or compiled yet.

    Args:
      system: whose parameters to lay out; frozen ones are kept in bfloat16.
      optim: `config.optim`.
      steps: length of the run.
      mesh: of the devices.

    Raises:
      UserError: an impossible optimiser or a sharding table that does not fit.
    """

    def initial_params(key: Array) -> Any:
        return tree.map_with_path(
            lambda path, x: x.astype(FROZEN_DTYPE) if system.frozen(path) else x, system.init(key)
        )

    param_shapes = jax.eval_shape(initial_params, jax.random.key(0))
    optimiser = make_optimiser(optim, steps, split(param_shapes, system.frozen)[0])

    def init(key: Array) -> State:
        params = initial_params(key)
        trainable, _ = split(params, system.frozen)
        average = jax.tree.map(jnp.copy, trainable) if optim.average else {}
        return State(jnp.zeros((), jnp.int32), params, optimiser.init(trainable), average)

    shapes = jax.eval_shape(init, jax.random.key(0))
    placed = _state_shardings(shapes, optimiser, system, mesh)
    abstract = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, placed
    )
    fresh = jax.jit(init, out_shardings=placed)
    return Layout(shapes, placed, abstract, optimiser, schedule(optim, steps), fresh)


def evaluated_params(state: State) -> Any:
    """The parameters that evaluation uses: the averaged ones where an average is kept."""
    return tree.unflatten({**tree.flatten(state.params), **state.average})


def split(params: Any, frozen: Callable[[str], bool]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters by path: (trainable, frozen)."""
    leaves = tree.flatten(params)
    return (
        {path: leaf for path, leaf in leaves.items() if not frozen(path)},
        {path: leaf for path, leaf in leaves.items() if frozen(path)},
    )


def _state_shardings(
    shapes: State, optimiser: optax.GradientTransformation, system: Trainable, mesh: Mesh
) -> State:
    params = shardings(shapes.params, mesh, system.rules)
    trainable, _ = split(params, system.frozen)
    everywhere = replicated(mesh)
    return State(
        step=everywhere,
        params=params,
        optimiser=optax.tree_utils.tree_map_params(
            optimiser,
            lambda _, sharding: sharding,
            shapes.optimiser,
            trainable,
            transform_non_params=lambda _: everywhere,
        ),
        average=trainable if shapes.average else {},
    )


def make_train_step(
    system: Trainable,
    layout: Layout,
    mesh: Mesh,
    *,
    seed: int,
    average_decay: float,
) -> Callable[[State, Mapping[str, Array]], tuple[State, dict[str, Any]]]:
    """(state, batch) → (state, metrics), jitted; the state is donated.

    The random key of a step is a pure function of (seed, step), so resuming needs no key state.
    """
    data: NamedSharding = batch_sharding(mesh)

    def train_step(state: State, batch: Mapping[str, Array]) -> tuple[State, dict[str, Any]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        trainable, frozen = split(state.params, system.frozen)

        def loss_of(leaves: dict[str, Any]) -> tuple[Array, dict[str, Any]]:
            return system.loss(tree.unflatten({**leaves, **frozen}), batch, key, state.step)

        (loss, metrics), grads = jax.value_and_grad(loss_of, has_aux=True)(trainable)
        updates, moments = layout.optimiser.update(grads, state.optimiser, trainable)
        trainable = optax.apply_updates(trainable, updates)
        average = jax.tree.map(
            lambda old, new: average_decay * old + (1.0 - average_decay) * new,
            state.average,
            trainable if state.average else {},
        )
        metrics = metrics | {
            "optimised loss": per_step(loss),
            "gradient norm": per_step(optax.tree.norm(grads)),
            "learning rate": per_step(layout.learning_rate(state.step)),
        }
        params = tree.unflatten({**trainable, **frozen})
        return State(state.step + 1, params, moments, average), metrics

    return jax.jit(
        train_step,
        in_shardings=(layout.placed, data),
        out_shardings=(layout.placed, replicated(mesh)),
        donate_argnums=0,
    )
