"""Stable Audio Open's networks and its control: sharding, control, precision, scan, remat, FLOPs."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from weavejax.models import control_dit, number, oobleck, stable_dit, t5
from weavejax.models.control_dit import ControlDit, ControlDitConfig
from weavejax.models.stable_dit import StableDit, StableDitConfig
from weavejax.ops.transformer import stack_blocks

# Halves the compile time, which is nearly all of these tests' time.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

DIT = StableDitConfig(
    channels=8,
    width=32,
    layers=3,
    heads=4,
    kv_heads=2,
    mlp=64,
    cross_width=16,
    global_width=24,
    features=16,
    rotary=4,
    scan=True,
)
CONTROL = ControlDitConfig(DIT, layers=2)
OOBLECK = oobleck.OobleckConfig(2, 8, (1, 2), (2, 3), latent=4)
T5 = t5.T5Config(vocab=40, width=16, layers=2, heads=2, mlp=32, scan=True)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


INPUTS = {
    "x": normal(2, 5, 8),
    "time": np.array([0.1, 0.9], np.float32),
    "cross": normal(2, 3, 16),
    "global_cond": normal(2, 24),
}
ENVELOPE = normal(2, 5, 8, seed=1)


def random_params(shapes: dict[str, tuple[int, ...]], *, scan: bool = True) -> dict[str, Any]:
    """Parameters off their initial values; some of those are zero."""
    random = np.random.default_rng(2)
    around = {"scale": 1.0, "gain": 0.4}  # what a sine is taken of must stay small
    leaves = {
        path: np.asarray(
            0.2 * random.standard_normal(shape) + around.get(path.rpartition("/")[2], 0.0), "f"
        )
        for path, shape in shapes.items()
    }
    params = unflatten_dict(leaves, sep="/")
    return jax.tree.map(np.asarray, stack_blocks(params)) if scan else params


BASE = random_params(stable_dit.shapes(DIT))
COPY = random_params(control_dit.shapes(CONTROL))


def run_base(config: StableDitConfig, params: Any, residuals: Any = None) -> jax.Array:
    return StableDit(config).apply({"params": params}, **INPUTS, residuals=residuals)


def run_control(config: ControlDitConfig, params: Any) -> jax.Array:
    return ControlDit(config).apply({"params": params}, **INPUTS, control=ENVELOPE)


def variants() -> Iterator[Any]:
    full = stable_dit.STABLE_AUDIO_OPEN
    for name, module, configs in (
        ("dit", stable_dit, (DIT, full, replace(full, norm_bias=True))),
        ("control", control_dit, (CONTROL, control_dit.FOLAI)),
        ("oobleck", oobleck, (oobleck.STABLE_AUDIO_OPEN,)),
        ("number", number, (number.SECONDS,)),
        ("t5", t5, (T5, t5.T5_BASE)),
    ):
        for i, config in enumerate(configs):
            yield pytest.param(module, config, id=f"{name}-{i}")


@pytest.mark.parametrize(("module", "config"), list(variants()))
def test_every_leaf_has_one_rule_and_every_rule_a_leaf(module: Any, config: Any) -> None:
    rules = module.rules(config)
    used = set()
    for path, shape in module.shapes(config).items():
        matches = [rule for rule in rules if re.search(rule[0], path)]
        assert len(matches) == 1, (path, matches)
        used.add(matches[0])
        spec = matches[0][1]
        assert len(spec) <= len(shape), path
        for size, axis in zip(shape[len(shape) - len(spec) :], spec, strict=True):
            assert axis is None or size % 8 == 0, (path, shape, spec)
    assert used == set(rules)


def test_published_parameter_count_of_the_control_network() -> None:
    shapes = control_dit.shapes(control_dit.FOLAI)
    copied, between = 4 * 43_665_408, 4 * 1536**2
    time = 128 + (256 + 1 + 1536 + 1) * 1536
    embedding = time + 2 * 1536**2 + 2 * 768**2 + 64 * 64 + 64 * 1536
    found = sum(int(np.prod(shape)) for shape in shapes.values())
    assert found == copied + between + embedding + 64 * 64 == 192_859_264


def test_ten_seconds_are_215_latents() -> None:
    config = oobleck.STABLE_AUDIO_OPEN
    assert config.hop == 2048
    assert (config.latents(441_000), config.samples(215)) == (215, 440_320)
    assert config.latents(216 * 2048) == 216
    assert (config.latents(2_097_152), config.samples(1024)) == (1024, 2_097_152)


@pytest.mark.parametrize("scan", [False, True])
def test_a_fresh_control_changes_nothing(scan: bool) -> None:
    config = replace(CONTROL, base=replace(DIT, scan=scan))
    base = random_params(stable_dit.shapes(DIT), scan=scan)
    params = control_dit.init_from_base(base, config)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    initial = jax.eval_shape(
        partial(ControlDit(config).init), jax.random.key(0), **INPUTS, control=ENVELOPE
    )
    jax.tree.map(lambda a, b: np.testing.assert_equal(a.shape, b.shape), params, initial["params"])
    residuals = quick_jit(partial(run_control, config))(params)
    assert residuals.shape == (2, 2, 6, 32)
    run = quick_jit(partial(run_base, config.base))
    np.testing.assert_array_equal(run(base, residuals), run(base))
    # Off zero it does: both the control and each layer's way out have a say.
    params["control"]["kernel"] += 0.1
    np.testing.assert_array_equal(quick_jit(partial(run_control, config))(params), residuals)


def test_a_copied_block_sees_what_the_bases_block_sees() -> None:
    """With ways out that pass everything on, the residuals are the base's hidden states."""
    params = control_dit.init_from_base(BASE, CONTROL)
    params["blocks"]["residual"]["kernel"] += jnp.eye(32)[None]
    residuals = quick_jit(partial(run_control, CONTROL))(params)
    for depth in (1, 2):
        config = replace(DIT, layers=depth)
        part = {**BASE, "blocks": jax.tree.map(itemgetter(slice(depth)), BASE["blocks"])}
        part = {**part, "post": {"kernel": np.zeros((8, 8), np.float32)}}
        output = quick_jit(partial(run_base, config))(part)
        hidden = residuals[depth - 1][:, 1:] @ BASE["output"]["kernel"]
        np.testing.assert_allclose(output, hidden, atol=1e-5)


def test_residuals_enter_before_their_blocks_and_at_the_first_token() -> None:
    run = quick_jit(partial(run_base, DIT))
    plain = run(BASE)
    first = np.zeros((1, 2, 6, 32), np.float32)
    first[0, :, 0] = normal(2, 32)
    assert np.abs(run(BASE, first) - plain).max() > 1e-3  # by attention to the first token
    # Where blocks add nothing, residuals simply add up.
    silent = jax.tree.map(np.zeros_like, BASE["blocks"])
    base = {**BASE, "blocks": silent, "post": {"kernel": np.zeros((8, 8), np.float32)}}
    residuals = normal(2, 2, 6, 32)
    added = run(base, residuals) - run(base)
    np.testing.assert_allclose(added, residuals.sum(0)[:, 1:] @ BASE["output"]["kernel"], atol=1e-5)
    with pytest.raises(ValueError, match="4 residuals for 3 blocks"):
        run_base(DIT, BASE, normal(4, 2, 6, 32))


def test_the_control_has_a_say_once_trained() -> None:
    run = quick_jit(partial(run_base, DIT))
    residuals = quick_jit(partial(run_control, CONTROL))(COPY)
    assert np.abs(run(BASE, residuals) - run(BASE)).max() > 1e-2
    with pytest.raises(ValueError, match="does not fit latents"):
        ControlDit(CONTROL).init(jax.random.key(0), **INPUTS, control=ENVELOPE[:, :4])


def loss(base: StableDitConfig, layers: int, params: Any) -> jax.Array:
    """Of both networks together, as they are trained."""
    control = ControlDitConfig(base, layers)
    output = run_base(base, params["base"], run_control(control, params["control"]))
    weights = jnp.cos(jnp.arange(output.size, dtype=jnp.float32)).reshape(output.shape)
    return (weights * output.astype(jnp.float32)).sum()


def test_scan_and_remat_change_no_gradient() -> None:
    base = replace(DIT, layers=2)
    apart = {
        "base": random_params(stable_dit.shapes(base), scan=False),
        "control": random_params(control_dit.shapes(ControlDitConfig(base, 1)), scan=False),
    }
    config = replace(base, scan=False)
    wanted = quick_jit(jax.grad(partial(loss, config, 1)))(apart)
    for path, leaf in flatten_dict(wanted, sep="/").items():
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 1e-4, path
    together = {name: stack_blocks(params) for name, params in apart.items()}
    config = replace(base, remat="full")
    stacked = quick_jit(jax.grad(partial(loss, config, 1)))(together)
    close = partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3)
    jax.tree.map(close, stacked, {name: stack_blocks(grad) for name, grad in wanted.items()})


def test_remat_recomputes_what_it_says() -> None:
    params = {"base": BASE, "control": COPY}
    products = []
    for remat in ("none", "dots", "full"):
        config = replace(DIT, remat=remat)
        program = str(jax.make_jaxpr(jax.grad(partial(loss, config, 2)))(params))
        products.append(program.count("dot_general"))
    assert products == sorted(set(products))


def test_bfloat16_is_close_with_parameters_of_either_type() -> None:
    half = replace(DIT, dtype="bfloat16")
    exact = np.asarray(quick_jit(partial(run_base, DIT))(BASE))
    frozen = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), BASE)
    for params in (BASE, frozen):
        rounded = quick_jit(partial(run_base, half))(params)
        assert rounded.dtype == jnp.bfloat16
        error = np.linalg.norm(rounded.astype(np.float32) - exact) / np.linalg.norm(exact)
        assert 1e-5 < error < 0.03
    single = quick_jit(partial(run_base, DIT))(frozen)
    assert single.dtype == jnp.float32


def test_oobleck_in_bfloat16_and_with_remat() -> None:
    params = random_params(oobleck.shapes(OOBLECK), scan=False)
    audio = normal(1, 40, 2)

    def run(config: oobleck.OobleckConfig, params: Any) -> jax.Array:
        return oobleck.Oobleck(config).apply({"params": params}, audio)

    exact = quick_jit(partial(run, OOBLECK))(params)
    half = quick_jit(partial(run, replace(OOBLECK, dtype="bfloat16")))(params)
    assert half.dtype == jnp.bfloat16
    assert np.linalg.norm(half.astype(np.float32) - exact) / np.linalg.norm(exact) < 0.05
    config = replace(OOBLECK, remat=True)
    program = jax.make_jaxpr(jax.grad(lambda p: run(config, p).sum()))(params)
    assert "remat" in str(program)
    with pytest.raises(ValueError, match=r"takes audio \[N, L, 2\]"):
        oobleck.Oobleck(OOBLECK).init(jax.random.key(0), audio[..., :1])


def test_latents_are_drawn_as_they_are_described() -> None:
    mean, deviation = normal(1, 1, 4), np.abs(normal(1, 1, 4, seed=1)) + 0.1
    shape = (20_000, 1, 4)
    latent = oobleck.Gaussian(*(jnp.broadcast_to(x, shape) for x in (mean, deviation)))
    drawn = latent.sample(jax.random.key(0))
    np.testing.assert_allclose(drawn.mean(0), mean[0], atol=0.05)
    np.testing.assert_allclose(drawn.std(0), deviation[0], rtol=0.05)
    assert np.abs(drawn - latent.sample(jax.random.key(1))).max() > 0.1
    standard = oobleck.Gaussian(jnp.zeros(shape), jnp.ones(shape))
    assert standard.divergence() == 0.0


def test_flops_are_those_of_the_compiled_products() -> None:
    base = replace(DIT, layers=2, scan=False)
    wide: dict[str, Any] = {"width": 128, "mlp": 512, "cross_width": 64, "rotary": 16}
    base = replace(base, **wide)
    control = ControlDitConfig(base, 2)
    x, *others = stable_dit.inputs(base, 1, 40, 7)
    sound = replace(OOBLECK, channels=32)
    wave = jax.ShapeDtypeStruct((1, 600, 2), jnp.float32)
    text = t5.T5Config(vocab=8, width=64, layers=2, heads=2, mlp=128)
    pieces = [jax.ShapeDtypeStruct((1, 12), kind) for kind in (jnp.int32, jnp.bool_)]
    for network, inputs, counted in (
        (StableDit(base), [x, *others], stable_dit.flops(base, 40, 7)),
        (ControlDit(control), [x, *others, x], control_dit.flops(control, 40, 7)),
        (oobleck.Oobleck(sound), [wave], sum(oobleck.flops(sound, 600).values())),
        (t5.T5Encoder(text), pieces, t5.flops(text, 12)),
    ):
        variables = jax.eval_shape(network.init, jax.random.key(0), *inputs)
        lowered = jax.jit(network.apply).lower(variables, *inputs)
        assert 0.97 <= lowered.cost_analysis()["flops"] / counted < 1.15, network


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: replace(DIT, kv_heads=3), "do not share 32 dimensions evenly"),
        (lambda: replace(DIT, rotary=10), "10 of 8 dimensions cannot turn"),
        (lambda: ControlDitConfig(DIT, 4), "4 of 3 blocks cannot be copied"),
        (lambda: replace(OOBLECK, strides=(2, 1)), r"strides \(2, 1\) of 2 or more"),
        (lambda: number.NumberConfig(8, 1.0, 1.0), "no numbers from 1.0 to 1.0"),
    ],
)
def test_configs_name_what_does_not_fit(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
