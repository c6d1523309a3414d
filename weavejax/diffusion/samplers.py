"""Samplers, all of them one compiled scan.

Every sampler here is linear in what it knows: after the network has looked at x and the clean latent
is estimated, z = skip · x − σ · v, the next state is

    x ← keep · x + clean_0 · z + clean_1 · z_last + clean_2 · z_before + fresh · ε.

So a sampler is a table of those numbers, worked out in float64 on the host, and one scan runs any
table. The table is an argument of the compiled program: other levels or another sampler with a table
of the same shape compile nothing new. To add a sampler: a function of a grid, and a line in
`SAMPLERS`.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from weavejax.diffusion.noise import Noise
from weavejax.diffusion.schedules import Grid
from weavejax.errors import UserError

Denoiser = Callable[[Array, Array], Array]
Hold = Callable[[Array, Array, Array], Array]
Column = Any  # float64 on the host; in a program, arrays of the state's type


class Table(NamedTuple):
    """A sampler on a grid, a row for each evaluation of the network; float64 [rows], on the host.

    Attributes:
      time: what the network is told.
      alpha, sigma: level of the state that it sees.
      skip: see `Grid`.
      keep: share of the old state in the new one.
      clean: shares of the newest estimates of the clean latent, the newest first, [rows, known].
      fresh: share of new noise; None where the sampler adds none.
      next_alpha, next_sigma: level of the new state.
    """

    time: Column
    alpha: Column
    sigma: Column
    skip: Column
    keep: Column
    clean: Column
    fresh: Column
    next_alpha: Column
    next_sigma: Column


def ddim(grid: Grid, *, eta: float = 0.0) -> Table:
    """DDIM (Song et al., arXiv 2010.02502, eq. 12 and 16).

    η = 0 is deterministic: SyncFusion's V-sampler on the linear grid, Euler's method in σ/α, and
    Euler's method of rectified flows on the straight path are this same formula. η = 1 is ancestral
    sampling.
    """
    if not 0 <= eta <= 1:
        raise UserError(f"the eta of DDIM lies in [0, 1], not at {eta}")
    alpha, sigma, after_alpha, after_sigma = _ends(grid)
    # (16) in a form that holds on any path and at α = 0.
    fresh = eta * after_sigma * np.sqrt(1 - (alpha * after_sigma / (sigma * after_alpha)) ** 2)
    keep = np.sqrt(np.maximum(after_sigma**2 - fresh**2, 0.0)) / sigma
    return _table(grid, keep, [after_alpha - alpha * keep], fresh)


def dpm_solver(
    grid: Grid, *, order: int, eta: float, noise_scale: float = 1.0, exact: bool = False
) -> Table:
    """Multistep DPM-Solver++ (Lu et al., arXiv 2211.01095), as an ODE (η = 0) or SDE (η = 1).

    With h the step in λ = log α/σ, the data-prediction integral over a step is exact for a constant
    estimate; estimates of earlier steps add its slope (order 2) and curvature (order 3). The first
    step has no earlier one, the second one, and a step to clean returns the estimate itself. The
    stochastic form and the third order are those of k-diffusion (`sample_dpmpp_2m`,
    `sample_dpmpp_2m_sde` with the midpoint rule, `sample_dpmpp_3m_sde`); order 2 with η = 1 is also
    the cosine DPM-Solver scheduler of diffusers.

    Those libraries take their noise from one Brownian path: the increment over each interval of the
    grid, divided by the root of its length. Increments over intervals that do not overlap are
    independent and normal, so independent draws at each step have the same law; only the agreement of
    one seed between grids of different length is lost.

    The published third order gives the curvature half of its Taylor weight (its D_2 is h² z''/2, its
    factor that of h² z''), which leaves errors of second order in the limit of small steps, if with
    a small factor. `exact` gives it the whole weight: third order.

    Args:
      grid: its first level must not be pure noise (λ would be −∞).
      order: 2 or 3.
      eta: 0 deterministic, 1 the reverse SDE, between them a share of its noise.
      noise_scale: factor on the fresh noise (s_noise).
      exact: the curvature's whole weight, of order 3.
    """
    if grid.alpha[0] == 0.0:
        raise UserError("DPM-Solver cannot start from pure noise: begin the grid below t = 1")
    _, sigma, after_alpha, after_sigma = _ends(grid)
    with np.errstate(divide="ignore"):
        steps = -np.diff(np.log(grid.ratio))  # h; the last is ∞ when the grid ends clean
    width = (1 + eta) * steps
    whole = -np.expm1(-width)
    clean = np.zeros((len(steps), order))
    clean[:, 0] = whole
    for n in range(1, len(steps)):
        if after_sigma[n] == 0.0:
            continue
        first = _phi_2(width[n]) if order == 3 else 0.5 * whole[n]
        if order == 2 or n == 1:
            slope = first * steps[n] / steps[n - 1]
            clean[n, :2] += [slope, -slope]
        else:
            slope, curve = _third_order(steps[n], steps[n - 1], steps[n - 2])
            phi_2 = _phi_2(width[n])
            clean[n] += phi_2 * slope - (1 + exact) * (phi_2 / width[n] - 0.5) * curve
    keep = after_sigma / sigma * np.exp(-eta * steps) if eta else after_sigma / sigma
    fresh = noise_scale * after_sigma * np.sqrt(-np.expm1(-2 * eta * steps)) if eta else 0 * sigma
    return _table(grid, keep, list((after_alpha[:, None] * clean).T), fresh)


def heun(grid: Grid) -> Table:
    """Heun's method for dx/dσ = (x − z)/σ, x and σ divided by α (Karras et al., 2206.00364, alg. 1).

    Two evaluations a step, the second at the state that Euler's step leads to; one when the grid ends
    clean. The state before the step is not stored: it follows from Euler's state and the estimate.
    """
    if grid.alpha[0] == 0.0:
        raise UserError("Heun's method cannot start from pure noise: begin the grid below t = 1")
    ratio, alpha = grid.ratio, grid.alpha
    at, to, keep, clean = [], [], [], []
    for n, (here, there) in enumerate(pairwise(ratio)):
        shrink = there / here
        at.append(n)
        to.append(n + 1)
        keep.append(shrink * alpha[n + 1] / alpha[n])
        clean.append((alpha[n + 1] * (1 - shrink), 0.0))
        if there == 0.0:
            continue
        half = (there - here) / 2
        back = (1 + half / here) / shrink
        at.append(n + 1)
        to.append(n + 1)
        keep.append(back + half / there)
        old = -back * (1 - shrink) - half / here
        clean.append((alpha[n + 1] * -half / there, alpha[n + 1] * old))
    return _rows(grid, np.array(at), np.array(to), np.array(keep), np.array(clean), None)


def pingpong(grid: Grid) -> Table:
    """Estimate the clean latent, add new noise at the next level, and so on.

    Multistep consistency sampling (Song et al., arXiv 2303.01469, alg. 1); as "ping-pong" the few-step
    sampler of adversarially post-trained audio models (Novack et al., arXiv 2505.08175).
    """
    _, _, after_alpha, after_sigma = _ends(grid)
    return _table(grid, 0 * after_sigma, [after_alpha], after_sigma)


SAMPLERS: dict[str, Callable[..., Table]] = {
    "dpmpp-3m-sde": partial(dpm_solver, order=3, eta=1.0),
    "dpmpp-3m": partial(dpm_solver, order=3, eta=0.0, exact=True),
    "dpmpp-2m-sde": partial(dpm_solver, order=2, eta=1.0),
    "dpmpp-2m": partial(dpm_solver, order=2, eta=0.0),
    "ddim": ddim,
    "v-ddim": ddim,
    "euler": ddim,
    "ancestral": partial(ddim, eta=1.0),
    "heun": heun,
    "pingpong": pingpong,
}


def find_sampler(name: str) -> Callable[..., Table]:
    """The sampler of that name: grid → table."""
    if name not in SAMPLERS:
        raise UserError(f"no sampler is called {name!r}; there are {', '.join(sorted(SAMPLERS))}")
    return SAMPLERS[name]


def begin(table: Table, noise: Noise, clean: Array | None = None) -> Array:
    """What sampling starts from: noise at the first level, [B, ...], and `clean` [B, ...] beneath it.

    With `clean`, the table should begin at a lower level: the lower, the more of it is kept (SDEdit,
    arXiv 2108.01073).
    """
    start = noise(0)
    x = jnp.asarray(table.sigma[0], start.dtype) * start
    return x if clean is None else jnp.asarray(table.alpha[0], start.dtype) * clean + x


def sample(
    denoiser: Denoiser,
    x: Array,
    table: Table,
    *,
    noise: Noise | None = None,
    hold: Hold | None = None,
) -> Array:
    """Runs a table: one `lax.scan`, all clips of the batch at once.

    Args:
      denoiser: (x [B, ...], t [B]) → v [B, ...], in any float type.
      x: state at the table's first level, [B, ...], from `begin`; its type is kept throughout.
      table: from `SAMPLERS`. Passed through `jax.jit` as an argument it is not compiled in.
      noise: source of the fresh noise; needed if the sampler adds any.
      hold: (x, α, σ) → x, applied to the state before the first step and after every one, such as
        `inpaint.hold_known`.

    Returns:
      The state after the last row, [B, ...]: the clean latent when the grid ends at 0.
    """
    return advance(denoiser, set_out(x, table, hold), table, noise=noise, hold=hold).x


class Course(NamedTuple):
    """A sampling under way, as one program hands it to the next.

    Attributes:
      x: the state [B, ...].
      known: the newest estimates of the clean latent, the newest first, as many as the table looks
        back.
      done: rows behind it, int32.
    """

    x: Array
    known: tuple[Array, ...]
    done: Array


def set_out(x: Array, table: Table, hold: Hold | None = None) -> Course:
    """Before the first row; the arguments are those of `sample`."""
    if hold is not None:
        first = (jnp.asarray(level[0], x.dtype) for level in (table.alpha, table.sigma))
        x = hold(x, *first)
    earlier = table.clean.shape[1] - 1
    return Course(x, (jnp.zeros_like(x),) * earlier, jnp.zeros((), jnp.int32))


def advance(
    denoiser: Denoiser,
    course: Course,
    rows: Table,
    *,
    noise: Noise | None = None,
    hold: Hold | None = None,
) -> Course:
    """Runs the next rows of a table; the arguments are those of `sample`."""
    if rows.fresh is not None and noise is None:
        raise ValueError("this sampler adds noise at every step: give it a source")
    rows = jax.tree.map(lambda column: jnp.asarray(column, course.x.dtype), rows)

    def evaluate(course: Course, at: Table) -> tuple[Course, None]:
        x, earlier, done = course
        v = denoiser(x, jnp.full((len(x),), at.time)).astype(x.dtype)
        known = (at.skip * x - at.sigma * v, *earlier)
        x = at.keep * x
        for share, estimate in enumerate(known):
            x = x + at.clean[share] * estimate
        if at.fresh is not None and noise is not None:
            x = x + at.fresh * noise(done + 1).astype(x.dtype)
        if hold is not None:
            x = hold(x, at.next_alpha, at.next_sigma)
        return Course(x, known[: len(earlier)], done + 1), None

    return lax.scan(evaluate, course, rows)[0]


def pieces(table: Table, most: int) -> Iterator[Table]:
    """The rows in order, in pieces of one length, so that one program runs them all.

    Args:
      table: on the host.
      most: rows a piece has at most; it has as many of them as divide the table.
    """
    rows = len(table.time)
    length = next(n for n in range(min(most, rows), 0, -1) if rows % n == 0)
    for first in range(0, rows, length):
        yield jax.tree.map(lambda column, first=first: column[first : first + length], table)


def _ends(grid: Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    return grid.alpha[:-1], grid.sigma[:-1], grid.alpha[1:], grid.sigma[1:]


def _table(grid: Grid, keep: np.ndarray, clean: list[np.ndarray], fresh: np.ndarray) -> Table:
    at = np.arange(len(keep))
    return _rows(grid, at, at + 1, keep, np.stack(clean, 1), fresh if fresh.any() else None)


def _rows(
    grid: Grid,
    at: np.ndarray,
    to: np.ndarray,
    keep: np.ndarray,
    clean: np.ndarray,
    fresh: np.ndarray | None,
) -> Table:
    seen = (grid.time[at], grid.alpha[at], grid.sigma[at], grid.skip[at])
    return Table(*seen, keep, clean, fresh, grid.alpha[to], grid.sigma[to])


def _phi_2(width: float) -> float:
    return float(np.expm1(-width) / width + 1)


def _third_order(step: float, last: float, before: float) -> tuple[np.ndarray, np.ndarray]:
    """Slope h z' and half curvature h² z''/2 as shares of the three newest estimates."""
    r0, r1 = last / step, before / step
    d0 = np.array([1.0, -1.0, 0.0]) / r0
    d1 = np.array([0.0, 1.0, -1.0]) / r1
    curve = (d0 - d1) / (r0 + r1)
    return d0 + r0 * curve, curve
