"""Noise levels: the path from clean to noise, its v, the times of training and of sampling.

A noised latent is x = α z + σ ε. On the variance-preserving cosine path α = cos(πt/2), σ = sin(πt/2)
and the network's output is v = α ε − σ z (Salimans and Ho, arXiv 2202.00512); on the straight path
of rectified flows α = 1 − t, σ = t and v = ε − z (Liu et al., arXiv 2209.03003). Both run from clean
at t = 0 to noise at t = 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from weavejax.errors import UserError


def levels(time: Array) -> tuple[Array, Array]:
    """α = cos(πt/2) and σ = sin(πt/2), of any shape."""
    angle = time * (np.pi / 2)
    return jnp.cos(angle), jnp.sin(angle)


def beside(value: Array, x: Array) -> Array:
    """One value an example, [B], shaped so that it multiplies x [B, ...]."""
    return value.reshape(value.shape + (1,) * (x.ndim - value.ndim))


def add_noise(clean: Array, noise: Array, time: Array) -> Array:
    """α z + σ ε on the cosine path: z and ε [B, ...], t [B] in [0, 1]."""
    alpha, sigma = (beside(level, clean) for level in levels(time))
    return alpha * clean + sigma * noise


def velocity(clean: Array, noise: Array, time: Array) -> Array:
    """v = α ε − σ z on the cosine path: z and ε [B, ...], t [B]."""
    alpha, sigma = (beside(level, clean) for level in levels(time))
    return alpha * noise - sigma * clean


def clean_of(x: Array, v: Array, time: Array) -> Array:
    """z = α x − σ v on the cosine path: x and v [B, ...], t [B]."""
    alpha, sigma = (beside(level, x) for level in levels(time))
    return alpha * x - sigma * v


def noise_of(x: Array, v: Array, time: Array) -> Array:
    """ε = σ x + α v on the cosine path: x and v [B, ...], t [B]."""
    alpha, sigma = (beside(level, x) for level in levels(time))
    return sigma * x + alpha * v


def uniform_times(key: Array, size: int) -> Array:
    """t ~ U(0, 1), float32 [size]: SyncFusion (arXiv 2310.15247)."""
    return jax.random.uniform(key, (size,))


def logit_normal_times(key: Array, size: int) -> Array:
    """t = sigmoid(n), n ~ N(0, 1), float32 [size]: FOL-AI's training (arXiv 2412.15023)."""
    return jax.nn.sigmoid(jax.random.normal(key, (size,)))


def stratified_times(key: Array, size: int) -> Array:
    """One uniform draw shared by the batch, spread evenly: t_i = (u + i/size) mod 1, float32 [size].

    Each t_i is uniform, the batch covers [0, 1] without gaps, so the loss varies less from step to
    step (Kingma et al., arXiv 2107.00630, app. I).
    """
    spread = jnp.arange(size, dtype=jnp.float32) / size
    return (jax.random.uniform(key, ()) + spread) % 1.0


TIMES: dict[str, Callable[[Array, int], Array]] = {
    "uniform": uniform_times,
    "logit_normal": logit_normal_times,
    "stratified": stratified_times,
}


@dataclass(frozen=True)
class Grid:
    """The levels that a sampler passes through, noise first; float64 [steps + 1], on the host.

    Attributes:
      time: as the network is told it.
      alpha: share of the clean latent.
      sigma: share of the noise.
      skip: the clean estimate is skip · x − σ · v: α on the cosine path, 1 on the straight one.
    """

    time: np.ndarray
    alpha: np.ndarray
    sigma: np.ndarray
    skip: np.ndarray

    @property
    def ratio(self) -> np.ndarray:
        """σ/α, which the σ of k-diffusion and of Karras et al. is; infinite where α is 0."""
        with np.errstate(divide="ignore"):
            return self.sigma / self.alpha


def cosine_grid(ratio: Any) -> Grid:
    """Levels on the cosine path by their falling σ/α [steps + 1]; t = (2/π) atan(σ/α)."""
    ratio = _falling(ratio, "the noise levels")
    alpha = 1 / np.sqrt(1 + ratio**2)
    return Grid(np.arctan(ratio) * (2 / np.pi), alpha, ratio * alpha, alpha)


def polyexponential(
    steps: int, lowest: float = 0.3, highest: float = 500.0, rho: float = 1.0
) -> Grid:
    """Stable Audio's levels: log σ/α falls as a polynomial of degree ρ, log-linear at 1; then clean.

    k-diffusion's `get_sigmas_polyexponential`; at ρ = 1 also the exponential schedule of diffusers.

    Args:
      steps: evaluations of the network, n ≥ 1: n levels and 0.
      lowest: σ/α of the last level before clean; the published training data has σ_data = 1.
      highest: σ/α of the first.
      rho: below 1 more steps at high noise, above 1 at low.
    """
    _at_least_one(steps)
    if not 0 < lowest < highest:
        raise UserError(f"noise levels: want 0 < lowest < highest, not {lowest} and {highest}")
    ramp = np.linspace(1.0, 0.0, steps) ** rho
    log = np.log(lowest) + ramp * (np.log(highest) - np.log(lowest))
    return cosine_grid(np.append(np.exp(log), 0.0))


def linear(steps: int, start: float = 1.0) -> Grid:
    """The cosine path in equal steps of t from `start` to 0: SyncFusion's V-sampler at start 1."""
    time = _times(steps, start)
    alpha = np.cos(time * np.pi / 2)
    # The cosine of the nearest float to π/2 is 6e-17: at t = 1 the latent is noise and nothing else.
    alpha = np.where(time == 1.0, 0.0, alpha)
    return Grid(time, alpha, np.sin(time * np.pi / 2), alpha)


def straight(steps: int, start: float = 1.0, shift: float = 1.0) -> Grid:
    """The straight path of rectified flows in `steps` steps of t from `start` to 0.

    Args:
      steps: evaluations of a first-order sampler.
      start: first t, at most 1.
      shift: t → shift · t / (1 + (shift − 1) t), above 1 more steps at high noise (Esser et al.,
        arXiv 2403.03206, eq. 23).
    """
    time = _times(steps, start)
    time = shift * time / (1 + (shift - 1) * time)
    return Grid(time, 1 - time, time, np.ones_like(time))


def _times(steps: int, start: float) -> np.ndarray:
    _at_least_one(steps)
    if not 0 < start <= 1:
        raise UserError(f"the first time has to be in (0, 1], not {start}")
    return _falling(np.linspace(start, 0.0, steps + 1), "times")


def _at_least_one(steps: int) -> None:
    if steps < 1:
        raise UserError(f"a sampler takes at least one step, not {steps}")


def _falling(values: Any, name: str) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or len(array) < 2 or not (np.diff(array) < 0).all() or array[-1] < 0:
        raise UserError(f"{name} have to fall and to stay at 0 or above: {array.tolist()}")
    return array
