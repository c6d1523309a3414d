"""Sampling of clips in windows, as `systems.base.Generator` hands it on from program to program."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jax import Array

from weavejax.diffusion.inpaint import hold_known
from weavejax.diffusion.noise import Noise
from weavejax.diffusion.samplers import Course, Denoiser, Hold, Table, advance, begin, set_out
from weavejax.diffusion.windows import Windows, windowed
from weavejax.systems.base import Batch, Params


@dataclass(frozen=True)
class Sampling:
    """`begin` and `advance` of a generator, from what its system knows.

    Attributes:
      windows: samples of a clip → windows over its state.
      noise: (keys, windows) → its source of noise.
      prepare: (params, request, scales, windows, samples, known) → arrays that all steps share, and
        `kept`: None, or the state of the original [B, T, ...] and which of it to renew, bool [B, T].
      denoiser: (params, what `prepare` gave) → a denoiser of windows.
    """

    windows: Callable[[int], Windows]
    noise: Callable[[Array, Windows], Noise]
    prepare: Callable[..., dict[str, Any]]
    denoiser: Callable[[Params, Mapping[str, Any]], Denoiser]

    def begin(
        self,
        params: Params,
        request: Batch,
        keys: Array,
        scales: Array,
        table: Table,
        *,
        samples: int,
        known: tuple[Array, Array] | None = None,
    ) -> tuple[dict[str, Any], Course]:
        """Runs all networks but the diffusion's."""
        windows = self.windows(samples)
        prepared = self.prepare(params, request, scales, windows, samples, known) | {"keys": keys}
        noise, hold = self._drawn_and_held(prepared, windows)
        return prepared, set_out(begin(table, noise), table, hold)

    def advance(
        self,
        params: Params,
        prepared: Mapping[str, Any],
        course: Course,
        rows: Table,
        *,
        samples: int,
    ) -> Course:
        """Runs the next rows of the table."""
        windows = self.windows(samples)
        noise, hold = self._drawn_and_held(prepared, windows)
        denoiser = windowed(self.denoiser(params, prepared), windows)
        return advance(denoiser, course, rows, noise=noise, hold=hold)

    def _drawn_and_held(
        self, prepared: Mapping[str, Any], windows: Windows
    ) -> tuple[Noise, Hold | None]:
        noise = self.noise(prepared["keys"], windows)
        if prepared["kept"] is None:
            return noise, None
        clean, renew = prepared["kept"]
        return noise, hold_known(clean, noise(0), renew)
