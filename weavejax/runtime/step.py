"""The train state and the one jitted train step, whatever the system."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from weavejax.ops.batch_norm import follows
from weavejax.ops.placement import on_mesh
from weavejax.runtime import tree
from weavejax.runtime.guard import check_guard, fresh, judge
from weavejax.runtime.mesh import AXES, batch_sharding, replicated
from weavejax.runtime.metrics import per_step
from weavejax.runtime.optim import make_optimiser, schedule
from weavejax.runtime.sharding import shardings

FROZEN_DTYPE = jnp.bfloat16


class Trainable(Protocol):
    """What the runtime needs of a system (`weavejax.systems.base.System`)."""

    @property
    def train_spec(self) -> Mapping[str, jax.ShapeDtypeStruct]: ...
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
      step: global batches seen so far, int32 []: all there is to the state of the data.
      params: all parameters, a nested dict.
      optimiser: optimiser state over the trainable ones, keyed by path.
      average: exponential moving average of the trainable ones by path; empty when off.
      guard: what the guard remembers of the last steps (`runtime.guard`).

    The same tuple also carries the state's shapes or shardings.
    """

    step: Any
    params: Any
    optimiser: Any
    average: Any
    guard: Any


class Told(NamedTuple):
    """What a step tells every process alike.

    Attributes:
      accepted: whether the guard let the update through, bool [].
      loss: as computed, float32 [].
      norm: of the gradients, float32 [].
      in_a_row: refused steps since the last accepted one, int32 [].
      wishes: how many devices' processes say each of `WISHES`, int32 [3].
    """

    accepted: Any
    loss: Any
    norm: Any
    in_a_row: Any
    wishes: Any


# What a process tells all others with its share of a batch: that it was asked to stop, that a save
# has failed and it is time to try again, that a save is still under way.
WISHES = ("stop", "save", "saving")


class Layout(NamedTuple):
    """Everything about a run's state but its numbers.

    Attributes:
      shapes: abstract state.
      placed: sharding of every leaf; the optimiser's and the average's follow the parameters'.
      abstract: shapes with their shardings: what `Checkpoints.restore` takes.
      optimiser: over the trainable parameters, by path.
      learning_rate: of a step.
      init: key → a fresh state, made where it belongs.
      fresh: key → fresh parameters; to be traced.
      begin: parameters where they belong → a state at step 0; they are donated.
    """

    shapes: State
    placed: State
    abstract: State
    optimiser: optax.GradientTransformation
    learning_rate: Callable[[Any], Any]
    init: Callable[[Array], State]
    fresh: Callable[[Array], Any]
    begin: Callable[[Any], State]


def lay_out(system: Trainable, config: Any, mesh: Mesh) -> Layout:
    """Shapes and shardings of a run; nothing is computed or compiled yet.

    Args:
      system: whose parameters to lay out; frozen ones are kept in bfloat16.
      config: its `optim`, `guard` and `steps`.
      mesh: of the devices.

    Raises:
      UserError: an impossible optimiser or guard, or a sharding table that does not fit.
    """
    optim, steps = config.optim, config.steps
    check_guard(config.guard)

    def initial_params(key: Array) -> Any:
        return tree.map_with_path(
            lambda path, x: x.astype(FROZEN_DTYPE) if system.frozen(path) else x, system.init(key)
        )

    param_shapes = jax.eval_shape(initial_params, jax.random.key(0))
    optimiser = make_optimiser(optim, steps, split(param_shapes, system.frozen)[0])

    def begin(params: Any) -> State:
        trainable, _ = split(params, system.frozen)
        average = jax.tree.map(jnp.copy, trainable) if optim.average else {}
        zero = jnp.zeros((), jnp.int32)
        guard = fresh(config.guard.window)
        return State(zero, params, optimiser.init(trainable), average, guard)

    def init(key: Array) -> State:
        return begin(initial_params(key))

    shapes = jax.eval_shape(init, jax.random.key(0))
    placed = _state_shardings(shapes, optimiser, system, mesh)
    abstract = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, placed
    )
    return Layout(
        shapes,
        placed,
        abstract,
        optimiser,
        schedule(optim, steps),
        init=jax.jit(init, out_shardings=placed),
        fresh=initial_params,
        begin=jax.jit(begin, out_shardings=placed, donate_argnums=0),
    )


def evaluated_params(state: State) -> Any:
    """The parameters that evaluation uses: the averaged ones where an average is kept."""
    return tree.unflatten({**tree.flatten(state.params), **state.average})


def split(params: Any, frozen: Callable[[str], bool]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters by path: (trainable, others); the others are frozen, or running statistics."""
    leaves = tree.flatten(params)
    kept = {path for path in leaves if frozen(path) or follows(path)}
    return (
        {path: leaf for path, leaf in leaves.items() if path not in kept},
        {path: leaf for path, leaf in leaves.items() if path in kept},
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
        guard=jax.tree.map(lambda _: everywhere, shapes.guard),
    )


def wishes_sharding(mesh: Mesh) -> NamedSharding:
    """Of the wishes int32 [devices, 3]: each device holds its process's row."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def abstract_inputs(
    system: Trainable, layout: Layout, mesh: Mesh
) -> tuple[State, dict[str, jax.ShapeDtypeStruct], jax.ShapeDtypeStruct]:
    """Shapes and shardings of everything the train step takes: (state, batch, wishes)."""
    data = batch_sharding(mesh)
    batch = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=data)
        for name, leaf in system.train_spec.items()
    }
    wishes = jax.ShapeDtypeStruct(
        (mesh.size, len(WISHES)), jnp.int32, sharding=wishes_sharding(mesh)
    )
    return layout.abstract, batch, wishes


@dataclass(frozen=True)
class TrainStep:
    """(state, batch, wishes) → (state, metrics, told); the state is donated.

    Attributes:
      program: jitted, of the key as well.
      key: of the run's seed, as data. Not a constant of the program, which so is one for all seeds and
        comes from the cache of compiled programs for all but the first.
    """

    program: Any
    key: np.ndarray

    def __call__(
        self, state: State, batch: Mapping[str, Array], wishes: Array
    ) -> tuple[State, dict[str, Any], Told]:
        found: tuple[State, dict[str, Any], Told] = self.program(state, batch, wishes, self.key)
        return found

    def lower(self, *inputs: Any) -> Any:
        """As of a jitted function; `inputs` as in `abstract_inputs`."""
        return self.program.lower(*inputs, self.key)


def make_train_step(system: Trainable, layout: Layout, mesh: Mesh, config: Any) -> TrainStep:
    """The train step of a system.

    The random key of a step is a pure function of (seed, step), so resuming needs no key state. A
    step that the guard refuses counts as a step and changes nothing else but the guard; it has no
    weight in the metrics. Wishes are summed over the devices on the way, so that all processes
    learn of them with the same step and need no messages of their own.
    """
    decay = config.optim.average
    loss_on_mesh = on_mesh(system.loss, mesh)  # keeps the batch split between the layers

    def train_step(
        state: State, batch: Mapping[str, Array], wishes: Array, run_key: Array
    ) -> tuple[State, dict[str, Any], Told]:
        key = jax.random.fold_in(jax.random.wrap_key_data(run_key), state.step)
        trainable, others = split(state.params, system.frozen)
        running = {path: leaf for path, leaf in others.items() if not system.frozen(path)}
        frozen = {path: leaf for path, leaf in others.items() if path not in running}

        def loss_of(leaves: dict[str, Any]) -> tuple[Array, dict[str, Any]]:
            return loss_on_mesh(tree.unflatten({**leaves, **frozen}), batch, key, state.step)

        (loss, metrics), grads = jax.value_and_grad(loss_of, has_aux=True)({**trainable, **running})
        followed = {path: leaf - grads.pop(path) for path, leaf in running.items()}
        norm = optax.tree.norm(grads)
        accepted, guard = judge(config.guard, state.guard, loss, norm)
        updates, moments = layout.optimiser.update(grads, state.optimiser, trainable)
        updated = optax.apply_updates(trainable, updates)
        average = jax.tree.map(
            lambda old, new: decay * old + (1.0 - decay) * new,
            state.average,
            updated if state.average else {},
        )
        rate = layout.learning_rate(state.guard.accepted)
        metrics = metrics | {
            "optimised loss": per_step(loss),
            "gradient norm": per_step(norm),
            "learning rate": per_step(rate),
        }
        metrics = _where(accepted, metrics, jax.tree.map(jnp.zeros_like, metrics))
        metrics["refused steps %"] = per_step(100.0 * (1.0 - accepted.astype(jnp.float32)))
        new = State(
            step=state.step + 1,
            params=tree.unflatten(
                {
                    **_where(accepted, updated, trainable),
                    **_where(accepted, followed, running),
                    **frozen,
                }
            ),
            optimiser=_where(accepted, moments, state.optimiser),
            average=_where(accepted, average, state.average),
            guard=guard,
        )
        return new, metrics, Told(accepted, loss, norm, guard.in_a_row, wishes.sum(0))

    everywhere = replicated(mesh)
    program = jax.jit(
        train_step,
        in_shardings=(layout.placed, batch_sharding(mesh), wishes_sharding(mesh), everywhere),
        out_shardings=(layout.placed, everywhere, everywhere),
        donate_argnums=0,
    )
    # In NumPy: every process has it, and JAX need not be told where.
    return TrainStep(program, np.asarray(jax.random.key_data(jax.random.key(config.seed))))


def _where(condition: Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
