"""Samplers on a problem with a known answer, and against their formulas written as loops."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian import Gaussian
from jax.sharding import NamedSharding, PartitionSpec

from weavejax.diffusion.inpaint import hold_known
from weavejax.diffusion.noise import clip_noise, given_noise, placed_noise
from weavejax.diffusion.samplers import (
    SAMPLERS,
    advance,
    begin,
    dpm_solver,
    find_sampler,
    pieces,
    sample,
    set_out,
)
from weavejax.diffusion.schedules import cosine_grid, linear, polyexponential, straight
from weavejax.errors import UserError

DETERMINISTIC = ("ddim", "dpmpp-2m", "dpmpp-3m", "heun")
STOCHASTIC = ("ancestral", "dpmpp-2m-sde", "dpmpp-3m-sde", "pingpong")


def keys(size, seed=0):
    return jax.random.split(jax.random.key(seed), size)


def toy(seed=0, channels=3):
    """A denoiser that mixes channels and places and knows the time."""
    rng = np.random.default_rng(seed)
    mix = jnp.asarray(rng.normal(size=(channels, channels)) / channels**0.5)
    tell = jnp.asarray(rng.normal(size=(channels,)))

    def denoiser(x, time):
        told = time[:, None, None] * tell.astype(x.dtype)[None, None]
        near = 0.5 * x + 0.25 * (jnp.roll(x, 1, 1) + jnp.roll(x, -1, 1))
        return jnp.tanh(near @ mix.astype(x.dtype) + told)

    return denoiser


def literal_3m_sde(estimate, x, sigmas, noise, eta=1.0):
    """DPM-Solver++ (3M) SDE as published, in σ/α, float64, one step after the other."""
    old, steps = [], []
    for n, (here, there) in enumerate(itertools.pairwise(sigmas)):
        z = estimate(x, here)
        if there == 0:
            return z
        h = np.log(here) - np.log(there)
        wide = h * (1 + eta)
        x = np.exp(-wide) * x + (1 - np.exp(-wide)) * z
        phi_2 = (np.exp(-wide) - 1) / wide + 1
        phi_3 = phi_2 / wide - 0.5
        if len(old) >= 2:
            r0, r1 = steps[-1] / h, steps[-2] / h
            slope, before = (z - old[-1]) / r0, (old[-1] - old[-2]) / r1
            x = x + phi_2 * (slope + (slope - before) * r0 / (r0 + r1))
            x = x - phi_3 * (slope - before) / (r0 + r1)
        elif old:
            x = x + phi_2 * (z - old[-1]) / (steps[-1] / h)
        x = x + noise[n] * there * np.sqrt(1 - np.exp(-2 * h * eta))
        old.append(z)
        steps.append(h)
    return x


@pytest.mark.parametrize("steps", [1, 2, 20])
def test_3m_sde_equals_the_published_loop(steps):
    grid = polyexponential(steps)
    rng = np.random.default_rng(steps)
    noise = rng.normal(size=(steps + 1, 2, 5, 3))
    denoiser = toy()
    with jax.enable_x64(True):
        compiled = jax.jit(denoiser)

        def estimate(x, ratio):
            alpha = 1 / np.sqrt(1 + ratio**2)
            time = jnp.full(len(x), np.arctan(ratio) * 2 / np.pi)
            return alpha * (alpha * x) - ratio * alpha * np.asarray(
                compiled(jnp.asarray(alpha * x), time)
            )

        want = literal_3m_sde(estimate, noise[0] * grid.ratio[0], grid.ratio, noise[1:])
    source = given_noise(jnp.asarray(noise, jnp.float32))
    table = SAMPLERS["dpmpp-3m-sde"](grid)
    got = sample(denoiser, begin(table, source), table, noise=source)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, atol=2e-5)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_order_of_convergence(name):
    """Halving the step divides the error by 2 to the order: against the ODE's exact solution."""
    problem, errors = Gaussian(), []
    with jax.enable_x64(True):
        start = jnp.linspace(-2.0, 2.0, 5)[None]
        run = jax.jit(lambda table: sample(problem.denoiser, start, table))
        for steps in (40, 80, 160):
            grid = cosine_grid(np.geomspace(500.0, 0.3, steps + 1))
            got = run(SAMPLERS[name](grid))
            here, there = ((grid.alpha[n], grid.sigma[n]) for n in (0, -1))
            want = problem.follow(start, here, there)
            errors.append(float(jnp.abs(got - want).max()))
    order = np.log2(np.array(errors[:-1]) / errors[1:])
    want = {"ddim": 1, "dpmpp-2m": 2, "dpmpp-3m": 3, "heun": 2}[name]
    assert order[-1] > want - 0.1, (errors, order)


def test_more_order_is_less_error_at_few_steps():
    problem, errors = Gaussian(), {}
    published = partial(dpm_solver, order=3, eta=0.0)
    with jax.enable_x64(True):
        start = jnp.linspace(-2.0, 2.0, 5)[None]
        grid = cosine_grid(np.geomspace(500.0, 0.3, 25))
        here, there = ((grid.alpha[n], grid.sigma[n]) for n in (0, -1))
        names = ("dpmpp-3m", "dpmpp-2m", "euler")
        solvers = {name: SAMPLERS[name] for name in names} | {"published-3m": published}
        for name, solver in solvers.items():
            got = sample(problem.denoiser, start, solver(grid))
            errors[name] = float(jnp.abs(got - problem.follow(start, here, there)).max())
    assert errors["dpmpp-3m"] < 0.6 * errors["dpmpp-2m"] < 0.2 * errors["euler"], errors
    assert errors["published-3m"] < 0.6 * errors["dpmpp-2m"], errors


@pytest.mark.parametrize("name", [*DETERMINISTIC, *STOCHASTIC])
def test_samples_have_the_mean_and_the_spread_of_the_data(name):
    problem = Gaussian()
    grid = polyexponential(60, 0.01, 500.0)
    table = SAMPLERS[name](grid)
    noise = clip_noise(keys(4), (4096,))
    denoiser = problem.consistent if name == "pingpong" else problem.denoiser
    got = np.asarray(sample(denoiser, begin(table, noise), table, noise=noise))
    assert abs(got.mean() - problem.mean) < 4 * problem.spread / got.size**0.5
    first_order = name in ("ddim", "ancestral")
    assert abs(got.std() / problem.spread - 1) < (0.1 if first_order else 0.03)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_on_the_grid_of_the_v_sampler(eta):
    """From t = 1, where no ratio of signal to noise exists; the published rotation at η = 0."""
    problem = Gaussian()
    table = SAMPLERS["ddim"](linear(200), eta=eta)
    noise = clip_noise(keys(4), (4096,))
    got = np.asarray(sample(problem.denoiser, begin(table, noise), table, noise=noise))
    assert abs(got.mean() - problem.mean) < 4 * problem.spread / got.size**0.5 + 0.005
    assert abs(got.std() / problem.spread - 1) < 0.05
    if eta == 0:
        x = np.asarray(noise(0))
        for here, there in itertools.pairwise(np.linspace(1, 0, 201)):
            v = np.asarray(problem.denoiser(jnp.asarray(x), jnp.full(4, np.float32(here))))
            turn = np.float32((here - there) * np.pi / 2)
            x = np.cos(turn) * x - np.sin(turn) * v
        np.testing.assert_allclose(got, x, atol=2e-4)


@pytest.mark.parametrize("name", ["euler", "ancestral"])
def test_samplers_of_flows(name):
    problem = Gaussian()
    table = SAMPLERS[name](straight(200))
    noise = clip_noise(keys(4), (4096,))
    got = np.asarray(sample(problem.flow, begin(table, noise), table, noise=noise))
    assert abs(got.mean() - problem.mean) < 0.02
    assert abs(got.std() / problem.spread - 1) < 0.05


def test_euler_on_the_straight_path_is_the_plain_step():
    denoiser, grid = toy(), straight(7)
    x = start = clip_noise(keys(2), (5, 3))(0)
    for here, there in itertools.pairwise(grid.time):
        x = x + np.float32(there - here) * denoiser(x, jnp.full(2, np.float32(here)))
    np.testing.assert_allclose(sample(denoiser, start, SAMPLERS["euler"](grid)), x, atol=2e-6)


def test_heun_equals_the_published_loop():
    problem, grid = Gaussian(), polyexponential(9, 0.05, 80.0)

    def slope(x, ratio):
        alpha = 1 / np.sqrt(1 + ratio**2)
        return (x - problem.estimate(alpha * x, alpha, alpha * ratio)) / ratio

    start = np.random.default_rng(0).normal(size=(2, 6))
    x = start * grid.ratio[0]
    for here, there in itertools.pairwise(grid.ratio):
        first = slope(x, here)
        euler = x + (there - here) * first
        x = euler if there == 0 else x + (there - here) * (first + slope(euler, there)) / 2
    table = SAMPLERS["heun"](grid)
    assert len(table.time) == 2 * 9 - 1
    x0 = begin(table, lambda number: jnp.float32(start))
    np.testing.assert_allclose(sample(problem.denoiser, x0, table), x, atol=2e-5)


@pytest.mark.parametrize("name", ["dpmpp-3m-sde", "dpmpp-2m", "ddim", "heun", "pingpong"])
def test_one_program_serves_all_seeds_levels_and_clips(name):
    """One trace whatever the keys and levels; a clip in a batch is the clip alone."""
    denoiser, traces = toy(), []

    @jax.jit
    def generate(table, keys):
        traces.append(1)
        noise = clip_noise(keys, (6, 3))
        return sample(denoiser, begin(table, noise), table, noise=noise)

    tables = [SAMPLERS[name](polyexponential(6, low, 80.0)) for low in (0.3, 0.1)]
    first = generate(tables[0], keys(3))
    other = generate(tables[1], keys(3, seed=1))
    assert len(traces) == 1
    assert not np.allclose(first, other)
    for n in range(3):
        alone = generate(tables[0], keys(3)[n : n + 1])
        np.testing.assert_allclose(alone[0], first[n], atol=1e-6)


def test_the_network_is_traced_once_and_may_answer_in_half_precision():
    seen, denoiser = [], toy()

    def half(x, time):
        seen.append(x.dtype)
        return denoiser(x, time).astype(jnp.bfloat16)

    table = SAMPLERS["dpmpp-3m-sde"](polyexponential(50))
    noise = clip_noise(keys(2), (6, 3))
    got = jax.jit(lambda x: sample(half, x, table, noise=noise))(begin(table, noise))
    assert seen == [jnp.float32]
    assert got.dtype == jnp.float32
    assert np.isfinite(got).all()


def test_sampling_can_start_from_a_clip():
    problem = Gaussian()
    clean = jnp.full((2, 50), 3.0)
    noise = clip_noise(keys(2), (50,))
    moved = []
    for highest in (0.02, 5.0):
        table = SAMPLERS["dpmpp-2m"](polyexponential(8, 0.01, highest))
        got = sample(problem.denoiser, begin(table, noise, clean), table)
        moved.append(float(jnp.abs(got - clean).mean()))
    assert moved[0] < 0.2
    assert moved[1] > 1.0


def test_impossible_samplers_are_said_to_be():
    with pytest.raises(UserError, match="no sampler"):
        find_sampler("euler-a")
    for name in ("dpmpp-3m-sde", "dpmpp-2m", "heun"):
        with pytest.raises(UserError, match="pure noise"):
            find_sampler(name)(linear(4))
    with pytest.raises(UserError, match="eta"):
        find_sampler("ddim")(linear(4), eta=2.0)
    table = SAMPLERS["pingpong"](linear(4))
    with pytest.raises(ValueError, match="noise"):
        sample(toy(), jnp.zeros((1, 4, 3)), table)


@pytest.mark.parametrize("name", ["dpmpp-3m-sde", "heun", "pingpong"])
def test_pieces_end_where_the_whole_table_does(name):
    table = SAMPLERS[name](polyexponential(6))
    noise = clip_noise(keys(2), (4, 3))
    renew = np.arange(4)[None] < [[1], [3]]
    hold = hold_known(jnp.ones((2, 4, 3)), noise(0), renew)
    x = begin(table, noise)
    whole = sample(toy(), x, table, noise=noise, hold=hold)

    @jax.jit
    def on(course, rows):
        return advance(toy(), course, rows, noise=noise, hold=hold)

    course, seen = set_out(x, table, hold), 0
    for rows in pieces(table, 4):
        course, seen = on(course, rows), seen + len(rows.time)
        assert int(course.done) == seen
    assert seen == len(table.time)
    assert on._cache_size() == 1
    np.testing.assert_allclose(course.x, whole, rtol=1e-5, atol=1e-6)


def test_pieces_are_of_one_length():
    for steps, most, lengths in ((12, 5, [4] * 3), (7, 3, [1] * 7), (5, 9, [5]), (6, 1, [1] * 6)):
        table = SAMPLERS["ddim"](linear(steps))
        assert [len(part.time) for part in pieces(table, most)] == lengths
        joined = np.concatenate([part.next_sigma for part in pieces(table, most)])
        np.testing.assert_array_equal(joined, table.next_sigma)


def test_clips_spread_over_devices_are_the_same_clips():
    table = SAMPLERS["dpmpp-3m-sde"](polyexponential(6))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put(keys(8), NamedSharding(mesh, PartitionSpec("data")))

    @jax.jit
    def generate(keys):
        noise = clip_noise(keys, (4, 3))
        return sample(toy(), begin(table, noise), table, noise=noise)

    got = generate(spread)
    assert len(got.sharding.device_set) == 8
    np.testing.assert_allclose(got, generate(keys(8)), atol=1e-6)


def test_the_noise_of_a_place_does_not_depend_on_the_length():
    long = jax.jit(placed_noise(keys(8), 400, (4,)))
    part = jax.jit(placed_noise(keys(8), 15, (4,), first=10))
    for number in (0, 7):
        np.testing.assert_array_equal(long(number)[:, 10:25], part(number))
    draws = np.asarray(long(0))
    assert abs(draws.mean()) < 0.03
    assert abs(draws.std() - 1) < 0.03
    assert not np.allclose(draws, long(1))
