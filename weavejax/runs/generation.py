"""From a model, clips and their controls to sounds."""

import itertools
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer
from tqdm import tqdm

from weavejax.dials.controls import Controls
from weavejax.diffusion.inpaint import splice
from weavejax.diffusion.samplers import Table, pieces
from weavejax.errors import UserError
from weavejax.ops.placement import on_mesh
from weavejax.runs.requests import Ask, request
from weavejax.runs.restore import Trained
from weavejax.runtime.mesh import BATCH_AXES, batch_sharding, replicated
from weavejax.systems.base import Generator

CROSSFADE = 0.01  # seconds, at the ends of a span that is made anew
LOOKS = 20  # about so often does somebody who waits see how far the sampling of a batch is

Order = tuple[Ask, Controls]


@dataclass(frozen=True)
class Options:
    """How to sample.

    Attributes:
      seed: with the name of a clip, what its noise is drawn from.
      steps: of sampling.
      scales: of guidance, one a dial.
      span: seconds from and to which the sound is made anew; None for all of it.
      prompt_audio: sound file whose meaning the sound is to have; "" for none.
    """

    seed: int
    steps: int
    scales: tuple[float, ...]
    span: tuple[float, float] | None = None
    prompt_audio: str = ""


def clip_key(seed: int, name: str) -> jax.Array:
    """Of a clip's noise: the same whether it is made alone or in a folder."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def find_generator(trained: Trained) -> Generator:
    """Raises UserError where the system makes no sound."""
    if trained.system.generator is None:
        raise UserError(f"the system {trained.system.name} makes no sound")
    return trained.system.generator


def sounds(
    trained: Trained, orders: Sequence[Order], options: Options, tokenizer: Tokenizer | None
) -> Iterator[tuple[Order, np.ndarray]]:
    """The sound of every clip, clips of equal length together.

    Args:
      trained: with a generator.
      orders: clips and their controls.
      options: how.
      tokenizer: of the run; None where the system reads nothing.

    Yields:
      An order, and its sound float32 [samples, channels].

    Raises:
      UserError: what `request` raises, or the network gives what is no number.
    """
    maker = find_generator(trained)
    ways = math.prod(trained.mesh.shape[axis] for axis in BATCH_AXES)
    window = round(trained.config.inputs.seconds * maker.rate)

    def length(order: Order) -> int:
        # A window, or whole seconds, are made and cut to the clip's length: few programs for many.
        samples = order[0].samples(maker.rate)
        return window if samples <= window else math.ceil(samples / maker.rate) * maker.rate

    batches = []
    for samples, group in itertools.groupby(sorted(orders, key=length), key=length):
        same, rows = list(group), _rows(trained.config, maker.rate, samples, ways)
        parts = [same[first : first + rows] for first in range(0, len(same), rows)]
        batches += [(samples, len(parts[0]), part) for part in parts]
    table = maker.table(options.steps)
    title = "sampling" if len(orders) == 1 else f"sampling {len(orders):,} clips"
    with tqdm(total=len(batches) * len(table.time), desc=title, unit="step") as bar:
        sampler = _Sampler(trained, maker, options, table, bar)
        for samples, size, part in batches:
            given = [
                request(trained, ask, controls, samples, tokenizer, options.prompt_audio)
                for ask, controls in part
            ]
            # At least a clip a device; the last batch of a length is filled up to the others' size.
            waves = sampler(part, given, samples, size if size < ways else -(-size // ways) * ways)
            yield from zip(part, waves, strict=True)


def _rows(config: Any, rate: int, samples: int, ways: int) -> int:
    """Clips at once: about the sound of an evaluation batch, which is known to fit."""
    seconds = config.runtime.evaluate_batch * config.inputs.seconds
    most = max(1, int(seconds * rate / samples))
    return most if most < ways else most // ways * ways


class _Sampler:
    """The system's sampling: three programs, compiled once for each length and size of batch."""

    def __init__(
        self, trained: Trained, maker: Generator, options: Options, table: Table, bar: "tqdm[Any]"
    ) -> None:
        self.trained, self.maker, self.options = trained, maker, options
        self.table, self.bar = table, bar

        def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
            return jax.jit(on_mesh(function, trained.mesh), static_argnames="samples")

        self._begin, self._advance = compiled(maker.begin), compiled(maker.advance)
        self._finish = compiled(maker.finish)

    def _run(self, request: Any, keys: Any, scales: Any, known: Any, samples: int) -> np.ndarray:
        params, given = self.trained.params, {"samples": samples}
        prepared, course = self._begin(
            params, request, keys, scales, self.table, known=known, **given
        )
        for rows in pieces(self.table, max(1, len(self.table.time) // LOOKS)):
            course = jax.block_until_ready(self._advance(params, prepared, course, rows, **given))
            self.bar.update(len(rows.time))
        return np.asarray(jax.device_get(self._finish(params, course, **given)))

    def __call__(
        self, orders: Sequence[Order], given: Sequence[Any], samples: int, size: int
    ) -> list[np.ndarray]:
        """Sounds of some clips of one length, in a batch of `size`."""
        filled = [n % len(orders) for n in range(size)]
        ways = math.prod(self.trained.mesh.shape[axis] for axis in BATCH_AXES)
        mesh = self.trained.mesh
        place = replicated(mesh) if size % ways else batch_sharding(mesh)
        arrays = {name: np.stack([given[n][name] for n in filled]) for name in given[0]}
        keys = jnp.stack([clip_key(self.options.seed, orders[n][0].media.stem) for n in filled])
        originals, known = [], None
        if self.options.span:
            stereo = self.maker.channels == 2
            originals = [ask.own_sound(self.maker.rate, stereo=stereo) for ask, _ in orders]
            longer = [np.pad(o, ((0, samples - len(o)), (0, 0))) for o in originals]
            renew = np.zeros((size, samples), bool)
            renew[:, slice(*self._span(samples))] = True
            known = (np.stack([longer[n] for n in filled]), renew)
        arrays, keys, known = jax.device_put((arrays, keys, known), place)
        scales = jnp.asarray(self.options.scales, jnp.float32)
        waves = self._run(arrays, keys, scales, known, samples)
        counts = [ask.samples(self.maker.rate) for ask, _ in orders]
        made = [wave[:count] for wave, count in zip(waves, counts, strict=False)]
        for (ask, _), wave in zip(orders, made, strict=True):
            if not np.isfinite(wave).all():
                raise UserError(
                    f"{ask.media}: the network's sound is not of finite numbers; lower --scales, or "
                    "give another checkpoint, --step"
                )
        pairs = zip(originals, made, strict=True) if originals else ()
        return [self._spliced(old, new) for old, new in pairs] or made

    def _spliced(self, old: np.ndarray, new: np.ndarray) -> np.ndarray:
        fade = round(CROSSFADE * self.maker.rate)
        return splice(old.T, new.T, *self._span(len(old)), fade).T

    def _span(self, samples: int) -> tuple[int, int]:
        """First sample and the one after the last, at least one."""
        assert self.options.span is not None
        start, end = (round(each * self.maker.rate) for each in self.options.span)
        start = min(start, samples - 1)
        return start, min(max(end, start + 1), samples)


def check_span(ask: Ask, span: tuple[float, float] | None) -> None:
    """Raises UserError unless the span, if any, lies in the clip, and the clip has a sound to keep."""
    if span is None:
        return
    start, end = span
    if not 0 <= start < end or not start < float(ask.seconds) or end > float(ask.seconds) + 5e-3:
        raise UserError(
            f"--span {start:g} {end:g}: it must begin before it ends and lie in {ask.media}, which "
            f"is {float(ask.seconds):.3f} s long"
        )
    if not ask.heard:
        raise UserError(f"--span: {ask.media} has no sound to keep; give one, --sound FILE")
