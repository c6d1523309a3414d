"""What every network must hold: sharding rules, sizes, noise, precision, scan and remat."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from weavejax.models import bert, clip_text, clip_vision, htsat, spectrogram, vit
from weavejax.ops.transformer import Rule, stack_blocks

# Halves the compile time, which is nearly all of these tests' time.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

VIT = vit.ViTConfig(
    image_size=16, patch=8, width=16, layers=2, heads=2, mlp=32, drop_path=0.5, head=8
)
SPECTROGRAM = spectrogram.SpectrogramConfig(
    frames=16,
    mels=16,
    patch=4,
    patch_width=8,
    width=16,
    layers=2,
    heads=2,
    mlp=32,
    pos_kernel=4,
    pos_groups=2,
    buckets=16,
    max_distance=20,
    dropout=0.2,
    attention_dropout=0.2,
    input_dropout=0.2,
    layerdrop=0.2,
)
BERT = bert.BertConfig(
    vocab=30,
    positions=8,
    types=2,
    width=16,
    layers=2,
    heads=2,
    mlp=32,
    dropout=0.2,
    cross_attention=True,
    cond_width=24,
)

CLIP_BLOCKS: dict[str, Any] = {"width": 16, "layers": 2, "heads": 2, "mlp": 32, "drop_path": 0.5}
CLIP_VISION = clip_vision.ClipVisionConfig(image_size=16, patch=8, projection=8, **CLIP_BLOCKS)
CLIP_TEXT = clip_text.ClipTextConfig(vocab=30, positions=8, end=29, projection=8, **CLIP_BLOCKS)
HTSAT = htsat.HtsatConfig(
    frames=50,
    mels=8,
    side=24,
    patch=2,
    window=3,
    width=8,
    depths=(2, 2),
    heads=(2, 2),
    fusion=True,
    fusion_ratio=1,
    projection=8,
    drop_path=0.5,
)


@dataclass(frozen=True)
class Network:
    """A network, its tiny and published configs, and inputs for the tiny one."""

    module: Callable[[Any], Any]
    rules: Callable[[Any], tuple[Rule, ...]]
    tiny: Any
    published: Any
    parameters: int
    inputs: dict[str, Any]


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


NETWORKS = {
    "vit": Network(
        vit.ViT,
        vit.rules,
        VIT,
        vit.EVA_CLIP_G,
        1_012_588_928,
        {"images": normal(3, 16, 16, 3)},
    ),
    "spectrogram": Network(
        spectrogram.SpectrogramTransformer,
        spectrogram.rules,
        SPECTROGRAM,
        spectrogram.BEATS_ITER3,
        # patch, norm, projection, position convolution, norm, bias table; 12 blocks
        131_072 + 1_024 + 393_984 + 4_719_488 + 1_536 + 3_840 + 12 * 7_088_404,
        {"fbank": normal(3, 24, 8)},
    ),
    "bert": Network(
        bert.Bert,
        bert.rules,
        BERT,
        bert.BERT_BASE,
        # embeddings and their norm; 12 × (two attentions, MLP, their norms)
        (30_522 + 512 + 2 + 2) * 768 + 12 * (2 * 2_363_904 + 4_723_968),
        {
            "tokens": np.arange(12, dtype=np.int32).reshape(2, 6),
            "mask": np.arange(6) < np.array([[6], [4]]),
            "condition": normal(2, 5, 24),
        },
    ),
    "htsat": Network(
        htsat.Htsat,
        htsat.rules,
        HTSAT,
        htsat.CLAP_HTSAT_FUSED,
        28_205_512,
        {"mel": normal(3, 4, 50, 8), "longer": np.array([True, True, False])},
    ),
}
# Of vit's blocks, which all that compiles is tested on.
KINDRED = {
    "clip_vision": Network(
        clip_vision.ClipVision,
        clip_vision.rules,
        CLIP_VISION,
        clip_vision.CLIP_L14_VISION,
        303_966_208,
        {"images": normal(3, 16, 16, 3)},
    ),
    "clip_text": Network(
        clip_text.ClipText,
        clip_text.rules,
        CLIP_TEXT,
        clip_text.CLIP_B32_TEXT,
        63_428_096,
        {
            "tokens": np.array([[0, 3, 4, 9, 29], [0, 5, 29, 29, 29]], np.int32),
            "mask": np.arange(5) < np.array([[5], [3]]),
        },
    ),
}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> Network:
    return NETWORKS[request.param]


def abstract(network: Network, config: Any) -> dict[str, Any]:
    size = getattr(config, "image_size", 0)
    inputs = {"images": np.zeros((1, size, size, 3), np.float32)} if size else network.inputs
    inputs = {name: array for name, array in inputs.items() if name != "condition"}
    if "mel" in inputs:
        inputs = {"mel": np.zeros((1, config.frames, config.mels), np.float32)}
    if "fbank" in inputs:
        inputs = {"fbank": np.zeros((1, config.patch, config.patch), np.float32)}
    init = partial(network.module(config).init, deterministic=True)
    return jax.eval_shape(init, jax.random.key(0), **inputs)["params"]


def random_params(network: Network, config: Any) -> dict[str, Any]:
    """Parameters off their initial values, so that no comparison is between zeros."""
    random = np.random.default_rng(1)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            0.2 * random.standard_normal(leaf.shape) + (path[-1].key == "scale")
        ).astype(np.float32),
        abstract(network, config),
    )


def variants() -> Iterator[Any]:
    for name, network in {**NETWORKS, **KINDRED}.items():
        tiny = network.tiny
        yield pytest.param(network, tiny, id=f"{name}-tiny")
        yield pytest.param(network, replace(tiny, scan=True), id=f"{name}-scan")
        yield pytest.param(network, replace(network.published, scan=True), id=f"{name}-published")
    yield pytest.param(NETWORKS["vit"], replace(VIT, head=0), id="vit-no-head")
    yield pytest.param(NETWORKS["bert"], replace(BERT, cross_attention=False), id="bert-no-cross")
    yield pytest.param(NETWORKS["bert"], replace(bert.CLAP_TEXT, scan=True), id="bert-clap")
    siglip = replace(CLIP_VISION, pooling="attention", projection=0)
    yield pytest.param(KINDRED["clip_vision"], siglip, id="siglip-vision")
    siglip_text = replace(CLIP_TEXT, causal=False)
    yield pytest.param(KINDRED["clip_text"], siglip_text, id="siglip-text")
    yield pytest.param(NETWORKS["htsat"], replace(HTSAT, fusion=False, projection=0), id="htsat")


@pytest.mark.parametrize(("network", "config"), list(variants()))
def test_every_leaf_has_one_rule_and_every_rule_a_leaf(network: Network, config: Any) -> None:
    rules = network.rules(config)
    shapes = {
        path: leaf.shape for path, leaf in flatten_dict(abstract(network, config), sep="/").items()
    }
    used = set()
    for path, shape in shapes.items():
        matches = [rule for rule in rules if re.search(rule[0], path)]
        assert len(matches) == 1, (path, matches)
        used.add(matches[0])
        spec = matches[0][1]
        assert len(spec) <= len(shape), path
        for size, axis in zip(shape[len(shape) - len(spec) :], spec, strict=True):
            assert axis is None or size % 8 == 0, (path, shape, spec)
    assert used == set(rules)


@pytest.mark.parametrize("name", [*NETWORKS, *KINDRED])
def test_published_parameter_count(name: str) -> None:
    network = {**NETWORKS, **KINDRED}[name]
    shapes = abstract(network, replace(network.published, scan=True))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == network.parameters
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float32)}


def test_initial_values_train_from_scratch(network: Network) -> None:
    init = partial(network.module(network.tiny).init, deterministic=True)
    params = quick_jit(init)(jax.random.key(0), **network.inputs)["params"]
    for path, leaf in flatten_dict(params, sep="/").items():
        if path.split("/")[-1] == "bias":
            assert not leaf.any(), path
        elif path.endswith("scale") and "conv" not in path:
            assert (leaf == 1).all(), path
        else:
            assert 0.005 < leaf.std() < 0.5, path


def test_noise_follows_the_key_and_stops_when_deterministic(network: Network) -> None:
    config = replace(network.tiny, scan=True)
    params = {"params": random_params(network, config)}

    @partial(quick_jit, static_argnames="deterministic")
    def run(seed: int, *, deterministic: bool) -> jax.Array:
        rngs = {"dropout": jax.random.key(seed)}
        return network.module(config).apply(
            params, **network.inputs, rngs=rngs, deterministic=deterministic
        )

    first = run(1, deterministic=False)
    np.testing.assert_array_equal(run(1, deterministic=False), first)
    assert np.abs(run(2, deterministic=False) - first).max() > 0.01
    np.testing.assert_array_equal(run(1, deterministic=True), run(2, deterministic=True))


def test_bfloat16_is_close_and_keeps_float32_parameters(network: Network) -> None:
    single = replace(network.tiny, scan=True)
    half = replace(single, dtype="bfloat16")
    shapes = jax.tree.leaves(abstract(network, half))
    assert {leaf.dtype for leaf in shapes} == {jnp.dtype(jnp.float32)}
    params = {"params": random_params(network, half)}
    exact, rounded = (
        quick_jit(partial(network.module(config).apply, deterministic=True))(
            params, **network.inputs
        )
        for config in (single, half)
    )
    assert rounded.dtype == jnp.bfloat16
    error = np.linalg.norm(rounded.astype(np.float32) - exact) / np.linalg.norm(exact)
    assert 1e-5 < error < 0.03


def gradient(network: Network, config: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Gradient of a fixed mixture of the outputs."""

    def loss(params: dict[str, Any]) -> jax.Array:
        output = network.module(config).apply(
            {"params": params}, **network.inputs, deterministic=True
        )
        weights = jnp.cos(jnp.arange(output.size, dtype=jnp.float32)).reshape(output.shape)
        return (weights * output).sum()

    return jax.grad(loss)


def test_scan_and_remat_change_no_gradient(network: Network) -> None:
    params = random_params(network, network.tiny)
    wanted = quick_jit(gradient(network, network.tiny))(params)
    for path, leaf in flatten_dict(wanted, sep="/").items():
        assert np.isfinite(leaf).all(), path
        # A key's bias adds the same to all logits of a query; heads are held, not applied.
        silent = path.endswith("attention/key/bias") or path.startswith(("head/", "projection/"))
        assert silent or np.abs(leaf).max() > 1e-4, path
    config = replace(network.tiny, scan=True, remat="dots")
    stacked = quick_jit(gradient(network, config))(stack_blocks(params))
    close = partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
    jax.tree.map(close, stacked, stack_blocks(wanted))


@pytest.mark.parametrize("scan", [False, True])
def test_remat_recomputes_what_it_says(network: Network, scan: bool) -> None:
    products = {}
    for remat in ("none", "dots", "full"):
        config = replace(network.tiny, scan=scan, remat=remat)
        program = str(jax.make_jaxpr(gradient(network, config))(random_params(network, config)))
        assert ("prevent_cse" in program) == (remat != "none")
        products[remat] = program.count("dot_general")
    # Both repeat the attention's products, which have a batch; "full" repeats the others too.
    assert products["none"] < products["dots"] < products["full"]


def test_unknown_switches_fail_while_tracing(network: Network) -> None:
    with pytest.raises(ValueError, match="unknown remat 'some'"):
        abstract(network, replace(network.tiny, remat="some"))
    with pytest.raises(ValueError, match="unknown attention backend 'flash'"):
        abstract(network, replace(network.tiny, attention="flash"))


def test_vit_wants_its_image_size() -> None:
    with pytest.raises(ValueError, match=r"takes images \[N, 16, 16, 3\]"):
        vit.ViT(VIT).init(jax.random.key(0), normal(1, 8, 16, 3), deterministic=True)


def test_spectrogram_wants_whole_patches() -> None:
    with pytest.raises(ValueError, match="multiples of 4"):
        spectrogram.SpectrogramTransformer(SPECTROGRAM).init(
            jax.random.key(0), normal(1, 10, 8), deterministic=True
        )


def test_layerdrop_skips_whole_blocks() -> None:
    network = NETWORKS["spectrogram"]
    quiet: dict[str, Any] = {"dropout": 0.0, "attention_dropout": 0.0, "input_dropout": 0.0}
    config = replace(SPECTROGRAM, **quiet, layerdrop=1.0)
    params = {"params": random_params(network, config)}

    def run(config: Any, *, deterministic: bool) -> jax.Array:
        module = spectrogram.SpectrogramTransformer(config)
        apply = quick_jit(partial(module.apply, deterministic=deterministic))
        return apply(params, **network.inputs, rngs={"dropout": jax.random.key(0)})

    without = run(replace(config, layers=0), deterministic=True)
    np.testing.assert_array_equal(run(config, deterministic=False), without)
    assert np.abs(run(config, deterministic=True) - without).max() > 0.01


def test_bert_ignores_what_stands_at_padding() -> None:
    network = NETWORKS["bert"]
    params = {"params": random_params(network, BERT)}
    run = quick_jit(partial(bert.Bert(BERT).apply, deterministic=True))
    inputs = dict(network.inputs)
    mask = inputs["mask"]
    before = run(params, **inputs)
    inputs["tokens"] = np.where(mask, inputs["tokens"], 29).astype(np.int32)
    after = run(params, **inputs)
    np.testing.assert_array_equal(before[mask], after[mask])
    inputs["mask"] = np.ones_like(mask)
    assert np.abs(run(params, **inputs) - after)[mask].max() > 1e-3


def test_clip_reads_up_to_the_end_and_no_further() -> None:
    network = KINDRED["clip_text"]
    params = {"params": random_params(network, CLIP_TEXT)}
    run = quick_jit(partial(clip_text.ClipText(CLIP_TEXT).apply, deterministic=True, joint=True))
    tokens, everything = network.inputs["tokens"].copy(), np.ones((2, 5), bool)
    before = run(params, tokens, everything)
    tokens[1, 3:] = 7  # after the second text's end
    np.testing.assert_array_equal(run(params, tokens, everything)[1], before[1])
    tokens[1, 1] = 8
    assert np.abs(run(params, tokens, everything)[1] - before[1]).max() > 1e-3
    assert clip_text.sentence_position(tokens, CLIP_TEXT).tolist() == [4, 2]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"depths": (2, 3)}, "an even depth for each stage"),
        ({"window": 5}, r"grids of \[12, 6\] patches do not split into windows of 5"),
        ({"mels": 7}, "7 mel bins do not fold into a square of 24"),
    ],
)
def test_htsat_names_what_does_not_fit(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(HTSAT, **change)


def test_towers_refuse_what_they_cannot_give() -> None:
    key, sound = jax.random.key(0), NETWORKS["htsat"].inputs["mel"]
    plain = replace(HTSAT, fusion=False, projection=0)
    with pytest.raises(ValueError, match="need a tower with fusion, and `longer`"):
        htsat.Htsat(plain).init(key, sound, np.ones(3, bool), deterministic=True)
    with pytest.raises(ValueError, match=r"\[N, T, 8\] with T from 4 to 72"):
        htsat.Htsat(plain).init(key, normal(1, 73, 8), deterministic=True)
    with pytest.raises(ValueError, match="HTS-AT with a projection"):
        htsat.Htsat(plain).init(key, normal(1, 50, 8), deterministic=True, joint=True)
    without = replace(CLIP_VISION, projection=0)
    with pytest.raises(ValueError, match="CLIP tower with a projection"):
        clip_vision.ClipVision(without).init(
            key, normal(1, 16, 16, 3), deterministic=True, joint=True
        )
    with pytest.raises(ValueError, match="unknown activation 'swish'"):
        abstract(KINDRED["clip_vision"], replace(CLIP_VISION, activation="swish"))
    with pytest.raises(ValueError, match="neither 'class' nor 'attention'"):
        replace(CLIP_VISION, pooling="mean")


def test_bert_looks_both_ways_and_at_the_condition() -> None:
    network = NETWORKS["bert"]
    params = {"params": random_params(network, BERT)}
    run = quick_jit(partial(bert.Bert(BERT).apply, deterministic=True))
    before = run(params, **network.inputs)
    tokens = network.inputs["tokens"].copy()
    tokens[:, 3] = 29
    after = run(params, **{**network.inputs, "tokens": tokens})
    assert (np.abs(after - before).max(-1)[:, :4] > 1e-4).all()
    other = run(params, **{**network.inputs, "condition": -network.inputs["condition"]})
    assert np.abs(other - before).max() > 1e-3


def test_bert_without_condition_is_a_bert_without_cross_attention() -> None:
    network = NETWORKS["bert"]
    inputs = {name: network.inputs[name] for name in ("tokens", "mask")}
    params = random_params(network, BERT)  # from an init that saw no condition
    assert "cross_attention" in params["blocks_0"]
    plain = replace(BERT, cross_attention=False)
    kept = {
        path: leaf for path, leaf in flatten_dict(params, sep="/").items() if "cross" not in path
    }
    shapes = flatten_dict(abstract(network, plain), sep="/")
    assert {path: leaf.shape for path, leaf in kept.items()} == {
        path: leaf.shape for path, leaf in shapes.items()
    }
    with_cross, without = (
        quick_jit(partial(bert.Bert(config).apply, deterministic=True))({"params": tree}, **inputs)
        for config, tree in ((BERT, params), (plain, unflatten_dict(kept, sep="/")))
    )
    np.testing.assert_array_equal(with_cross, without)


def test_bert_names_what_it_cannot_take() -> None:
    inputs = NETWORKS["bert"].inputs
    long: dict[str, Any] = {"tokens": np.zeros((1, 9), np.int32), "mask": np.ones((1, 9), bool)}
    with pytest.raises(ValueError, match="at most 8 word pieces, got 9"):
        bert.Bert(BERT).init(jax.random.key(0), **long, deterministic=True)
    with pytest.raises(ValueError, match="cross_attention=True"):
        bert.Bert(replace(BERT, cross_attention=False)).init(
            jax.random.key(0), **inputs, deterministic=True
        )
