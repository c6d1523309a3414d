"""The contract between a system and everything that runs it."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from weavejax.dials.controls import When
from weavejax.diffusion.samplers import Course, Table
from weavejax.metrics.report import Report
from weavejax.ops.transformer import Rule

Params = Mapping[str, Any]
Batch = Mapping[str, Array]
Metrics = dict[str, tuple[Array, Array]]


def under(prefix: str, rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """The rules of a part, for the tree in which that part stands at `prefix`."""
    start = rf"^{re.escape(prefix)}/"
    return tuple(
        (start + (pattern[1:] if pattern.startswith("^") else f".*{pattern}"), spec)
        for pattern, spec in rules
    )


def never(path: str) -> bool:
    """No parameter is frozen."""
    del path
    return False


@dataclass(frozen=True)
class SecondStage:
    """A slower, better look at the candidates of a first search.

    Attributes:
      candidates: from the arrays `embed` gave to the pairs (text, clip) to look at, int [P, 2].
      see: (params, batch) → what is seen of every clip: tokens [B, S, width], mask [B, S].
      match: (params, text tokens [N, L], seen [N, S, width], mask [N, S]) → probabilities [N] that
        they belong together.
    """

    candidates: Callable[[Mapping[str, np.ndarray]], np.ndarray]
    see: Callable[[Params, Batch], tuple[Array, Array]]
    match: Callable[[Params, Array, Array, Array], Array]


@dataclass(frozen=True)
class Generator:
    """How a system turns a controls file into sound; a clip may be of any length.

    Attributes:
      rate: of the sound, Hz.
      channels: of the sound.
      unit: samples that one place of the diffused state stands for: those of a latent, or 1.
      when: the part of the controls that it follows, "onsets" or "envelope".
      dials: names of the scales of guidance, in order.
      scales: of guidance, one a dial, as the config has them.
      steps: of sampling, as the config has them.
      condition: (when, samples) → the arrays of one clip, on the host, that its controls become: for
        "onsets", `onsets` float32 [K] in seconds, filled up with −1; for "envelope", `envelope`
        float32 [samples, channels], linear RMS as the network was trained to see it.
      table: steps → how they are done, on the host.
      begin: (params, request, keys [B], scales [dials] or [B, dials], table, samples=, known=) →
        (prepared, course): what all steps share, and the state before the first. The request holds
        the arrays of `condition` with a leading [B]; `text` int32 [B, L] and `text_mask` [B] where the
        system reads; `video` uint8 [B, T, H, W, 3] at the config's rate over the whole clip, and
        `video_mask` [B], where it sees. `samples`, of a clip, is Python's; `known`, for local
        re-synthesis, is (sound [B, samples, channels], renew bool [B, samples]): what is not to be
        renewed stays as it is, as far as the state allows (`diffusion.inpaint`).
      advance: (params, prepared, course, rows of the table, samples=) → course.
      finish: (params, course, samples=) → sound float32 [B, samples, channels].

    The last three are compiled each by itself: whoever waits sees how far it is, and programs without
    calls to the host are kept for the next time.
    """

    rate: int
    channels: int
    unit: int
    when: str
    dials: tuple[str, ...]
    scales: tuple[float, ...]
    steps: int
    condition: Callable[[When, int], dict[str, np.ndarray]]
    table: Callable[[int], Table]
    begin: Callable[..., tuple[Any, Course]]
    advance: Callable[..., Course]
    finish: Callable[..., Array]

    def sample(
        self,
        params: Params,
        request: Mapping[str, Array],
        keys: Array,
        scales: Array | None = None,
        *,
        samples: int,
        steps: int | None = None,
        known: tuple[Array, Array] | None = None,
    ) -> Array:
        """From the request to the sound, in one go; scales and steps of None are the config's."""
        table = self.table(steps or self.steps)
        scales = jnp.asarray(self.scales, jnp.float32) if scales is None else scales
        prepared, course = self.begin(
            params, request, keys, scales, table, samples=samples, known=known
        )
        course = self.advance(params, prepared, course, table, samples=samples)
        return self.finish(params, course, samples=samples)


@dataclass(frozen=True)
class Latents:
    """Training on what `System.features` gave, kept by `weavejax.extract`, in the place of clips.

    Attributes:
      chosen: whether the config asks for it.
      spec: shape and type of every array of a global batch of training then: those of `features`.
      parts: first names of the parameters that make them; a model must hold the very same.
      key: what of the config they depend on, in JSON's types.
    """

    chosen: bool
    spec: Mapping[str, jax.ShapeDtypeStruct]
    parts: tuple[str, ...]
    key: Mapping[str, Any]


@dataclass(frozen=True)
class System:
    """Pure functions; the train step, checkpoints, guard and launch never change with the system.

    Attributes:
      name: as in `SYSTEMS`.
      batch_spec: shape and type of every array of a global batch of clips.
      init: key → parameters, a nested dict.
      loss: (params, batch, key, step) → (loss [], metrics as (sum, weight) pairs). The step is an
        argument because losses may follow a schedule.
      embed: (params, batch) → named arrays with a leading batch dimension; no randomness.
      features: (params, batch) → what the frozen networks give, before anything that is trained on
        top of them: float32 [B, ...] by name, each with a presence mask bool [B]. None where a
        system has no such place.
      latents: how it trains on those; None where it cannot.
      second_stage: reranks what the first search found; None where a system has none.
      generator: makes sound from controls; None where a system makes none.
      told: further evaluators, of what `embed` makes where a batch holds, as `told_<name>`, the arrays
        of `generator.condition` that another network's predictions became.
      rules: sharding table, see `weavejax.runtime.sharding`.
      evaluators: by name, from the arrays `embed` gave over a whole split (and `valid` [N]) to a
        report.
      flops: analytic FLOPs of one example's forward pass, by part.
      frozen: path → whether the parameter is kept as it is (bf16, no optimiser state).
      passed: first names of the parameters of networks that gradients pass through even where these
        are frozen, on their way to what is trained.
      resize: regex of paths → (stored array, wanted shape) → array: how parameters whose shape
        follows the inputs are taken over from a model of other inputs.
      copies: regex of paths → the path, as `re.sub` makes it, of the parameter that one starts as
        where nothing stored has any of them: a copy of a network starts from what that network starts
        from. A stack of blocks may be shorter than the one it is copied from. "" for what belongs to
        the copy and starts as `init` has it.
      headline: name of the scalar that picks the best checkpoint; higher is better.
    """

    name: str
    batch_spec: Mapping[str, jax.ShapeDtypeStruct]
    init: Callable[[Array], Params]
    loss: Callable[[Params, Batch, Array, Array], tuple[Array, Metrics]]
    embed: Callable[[Params, Batch], dict[str, Array]]
    rules: Sequence[Rule]
    evaluators: Mapping[str, Callable[[Mapping[str, np.ndarray]], Report]]
    flops: Mapping[str, float]
    headline: str
    features: Callable[[Params, Batch], dict[str, Array]] | None = None
    latents: Latents | None = None
    second_stage: SecondStage | None = None
    generator: Generator | None = None
    told: Mapping[str, Callable[[Mapping[str, np.ndarray]], Report]] = field(default_factory=dict)
    frozen: Callable[[str], bool] = never
    passed: frozenset[str] = frozenset()
    resize: Mapping[str, Callable[[np.ndarray, tuple[int, ...]], np.ndarray]] = field(
        default_factory=dict
    )
    copies: Mapping[str, str] = field(default_factory=dict)

    @property
    def train_spec(self) -> Mapping[str, jax.ShapeDtypeStruct]:
        """Shape and type of every array of a global batch of training."""
        return self.latents.spec if self.latents and self.latents.chosen else self.batch_spec


def origin(path: str, copies: Mapping[str, str]) -> str | None:
    """Where a parameter is copied from by `System.copies`: "" from nowhere; None: it is of no copy."""
    for pattern, source in copies.items():
        match = re.search(pattern, path)
        if match:
            return match.expand(source)
    return None
