"""SyncFusion's published checkpoints in and out, with every key that they have.

Written out on purpose without the name tables under test.
"""

import json
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from weavejax import convert
from weavejax.errors import UserError
from weavejax.models.waveform_unet import SYNCFUSION as PUBLISHED
from weavejax.models.waveform_unet import WaveformUNet, WaveformUNetConfig
from weavejax.ops.batch_norm import follows
from weavejax.runtime import tree
from weavejax.runtime.workdir import CONFIG
from weavejax.weights.published import convert_file, restore_file
from weavejax.weights.safe import open_safetensors, save_safetensors
from weavejax.weights.syncfusion import ONSET, SYNCFUSION

STARTS = ("model.net.", "model.diffusion.net.", "model.sampler.net.")
SMALL = WaveformUNetConfig(
    channels=(8, 16, 8),
    factors=(1, 4, 2),
    items=(1, 2, 1),
    attentions=(False, True, True),
    context=(2, 4, 6),
    heads=1,
    modulation=12,
    embedding=5,
)


def both(key, *weight):
    return {f"{key}.weight": weight, f"{key}.bias": weight[:1]}


def batch_norm(key, width):
    names = ("weight", "bias", "running_mean", "running_var")
    return {f"{key}.{n}": (width,) for n in names} | {f"{key}.num_batches_tracked": ()}


def onset(widths=(64, 128, 256, 512), blocks=2, hidden=128):
    """R(2+1)D and the MLP on every frame, as Lightning's module has them."""
    found = {"stem.0.weight": (45, 3, 1, 7, 7), "stem.3.weight": (widths[0], 45, 3, 1, 1)}
    found |= batch_norm("stem.1", 45) | batch_norm("stem.4", widths[0])
    fed = widths[0]
    for stage, width in enumerate(widths, start=1):
        for block in range(blocks):
            key, planes = f"layer{stage}.{block}", 27 * fed * width // (9 * fed + 3 * width)
            for conv, seen in ((1, fed), (2, width)):
                found[f"{key}.conv{conv}.0.0.weight"] = (planes, seen, 1, 3, 3)
                found[f"{key}.conv{conv}.0.3.weight"] = (width, planes, 3, 1, 1)
                found |= batch_norm(f"{key}.conv{conv}.0.1", planes)
                found |= batch_norm(f"{key}.conv{conv}.1", width)
            if block == 0 and stage > 1:
                found[f"{key}.downsample.0.weight"] = (width, fed, 1, 1, 1)
                found |= batch_norm(f"{key}.downsample.1", width)
            fed = width
    head = {**both("fc.0", hidden, fed), **both("fc.2", 1, hidden)}
    return {f"model.net.model.{k}": x for k, x in found.items()} | {
        f"model.{k}": x for k, x in head.items()
    }


def attention(key, width, seen, wide):
    return {
        **both(f"{key}.norm", width),
        **both(f"{key}.norm_context", seen),
        f"{key}.to_q.weight": (wide, width),
        f"{key}.to_kv.weight": (2 * wide, seen),
        f"{key}.attention.blocks.0.weight": (width, wide),
    }


def level(c, number, key):
    """A level's keys and those of the levels below."""
    fed = c.channels[number - 1] if number else 1
    width, wide = c.channels[number], c.heads * c.head_width
    found = both(f"{key}.block.blocks.0.block", width, fed, c.factors[number])
    found |= both(f"{key}.skip.blocks.0.1", fed, c.modulation)
    place = 1
    for way in ("down", "up"):
        for _ in range(c.items[number]):
            at = f"{key}.block.blocks"
            residual = f"{at}.{place}.block.blocks.0.blocks"
            for half in (0, 1):
                found |= both(f"{residual}.{half}.0", width)
                found |= both(f"{residual}.{half}.2", width, width, 3)
            found |= both(f"{at}.{place + 1}.blocks.0.block.blocks.0.1", 2 * width, c.modulation)
            found |= both(f"{at}.{place + 2}.block.blocks.0", width, width + c.context[number], 1)
            place += 3
            if c.attentions[number]:
                found |= attention(f"{at}.{place}.blocks.0.block", width, width, wide)
                place += 1
            found |= attention(f"{at}.{place}.blocks.0.block", width, c.embedding, wide)
            place += 1
        if way == "down" and number + 1 < len(c.channels):
            found |= level(c, number + 1, f"{key}.block.blocks.{place}")
            place += 1
    return found | both(f"{key}.block.blocks.{place}.block.1", fed, width, 3)


def unet(c):
    noise = {"blocks.0.weights": (128,), **both("blocks.0.to_out", c.modulation, 257)}
    for again in (0, 1):
        noise |= both(f"blocks.1.blocks.{again}.0", c.modulation, c.modulation)
    noise["blocks.2.blocks.0.blocks.0.weight"] = (c.tokens, c.embedding)
    return noise | level(c, 0, "blocks.2.blocks.1.net")


def encoder(c):
    def residual(key, fed, width):
        return {
            **both(f"{key}.block1.groupnorm", fed),
            **both(f"{key}.block1.project", width, fed, 3),
            **both(f"{key}.block2.groupnorm", width),
            **both(f"{key}.block2.project", width, width, 3),
        }

    fed = c.context[0]
    found = {**residual("to_in.block", 1, fed), **both("to_in.block.to_out", fed, 1, 1)}
    for number, (width, factor) in enumerate(zip(c.context, c.factors, strict=True)):
        found |= both(f"downsamples.{number}.downsample", width, fed, 2 * factor + 1)
        for block in (0, 1):
            found |= residual(f"downsamples.{number}.blocks.{block}", width, width)
        fed = width
    return found


def diffusion(c):
    """The file's keys, shapes and, of every key, the one whose tensor it is."""
    inner = unet(c)
    found, owner = {}, {}
    for start in STARTS:
        for key, shape in inner.items():
            found[start + key] = shape
            owner[start + key] = "model.net." + key.replace(
                "blocks.1.blocks.1.0", "blocks.1.blocks.0.0"
            )
    rest = {f"onsets_encoder.{key}": shape for key, shape in encoder(c).items()}
    rest |= {"clap.model.logit_scale_a": (), "clap.model.text_projection.0.weight": (5, 7)}
    return found | rest, owner | {key: key for key in rest}


def numbers(shapes, owner=None):
    rng = np.random.default_rng(0)
    made = {}
    for key, shape in shapes.items():
        whole = key.endswith("num_batches_tracked")
        made[key] = np.array(7) if whole else rng.normal(size=shape).astype(np.float32)
    return {key: made[(owner or {}).get(key, key)] for key in shapes}


def back(converted, kind):
    found = restore_file(
        converted.leaves, kind, json.loads(json.dumps(converted.sizes)), converted.spellings, {}
    )
    return dict(found)


def same(found, expected):
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        np.testing.assert_array_equal(found[key], array, strict=True, err_msg=key)


@pytest.mark.parametrize("bare", [False, True])
def test_the_onset_network_comes_back_exactly(bare):
    state = numbers(onset((8, 12), 1, 6))
    if bare:  # the network's own state dict
        state = {key.removeprefix("model."): array for key, array in state.items()}
    assert ONSET.recognises(state)
    converted = convert_file(state, ONSET)
    assert not converted.coverage.problems
    assert converted.sizes["r2plus1d"]["widths"] == (8, 12)
    assert converted.sizes["r2plus1d"]["stem"] == 45
    same(back(converted, ONSET), state)


def test_the_diffusion_comes_back_exactly():
    shapes, owner = diffusion(SMALL)
    state = numbers(shapes, owner)
    assert SYNCFUSION.recognises(state)
    converted = convert_file(state, SYNCFUSION)
    assert not converted.coverage.problems
    found = WaveformUNetConfig(**converted.sizes["network"])
    assert found == SMALL
    assert converted.coverage.kept[0].keys == 2  # CLAP's
    same(back(converted, SYNCFUSION), state)


def test_copies_that_differ_and_odd_widths_are_told():
    shapes, owner = diffusion(SMALL)
    state = numbers(shapes, owner)
    key = "model.sampler.net.blocks.0.weights"
    wrong = {**state, key: state[key] + 1, "odd": np.zeros(1)}
    coverage = convert_file(wrong, SYNCFUSION).coverage
    assert coverage.unused == ["odd"]
    assert coverage.misfits == [
        f"{key} differs from model.net.blocks.0.weights, of which it should be a copy"
    ]
    query = "model.net.blocks.2.blocks.1.net.block.blocks.4.blocks.0.block.to_q.weight"
    with pytest.raises(UserError, match="attention is 65 wide, not a number of heads of 64"):
        convert_file(state | {query: np.zeros((65, 8), np.float32)}, SYNCFUSION)
    last = "model.net.blocks.2.blocks.1.net.block.blocks.99.block.1.bias"
    with pytest.raises(UserError, match="has not its items twice"):
        convert_file(state | {last: np.zeros(1, np.float32)}, SYNCFUSION)


def test_the_published_sizes_have_the_published_counts():
    """Abstractly: arrays of one number, seen at the full shapes."""

    def converted(shapes, kind):
        state = {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}
        made = convert_file(state, kind)
        assert not made.coverage.problems
        return {p: math.prod(x.shape) for p, x in made.leaves.items() if "published" not in p}

    shapes = onset()
    assert len(shapes) == 226
    leaves = converted(shapes, ONSET)
    assert sum(n for path, n in leaves.items() if not follows(path)) == 31_365_918
    shapes, _ = diffusion(PUBLISHED)
    leaves = converted(shapes, SYNCFUSION)
    encoding = sum(n for path, n in leaves.items() if path.startswith("network/encoder/"))
    assert encoding == 2_393_374
    assert sum(leaves.values()) - encoding == 213_051_434


def test_a_lightning_file_goes_in_and_comes_back(tmp_path, capsys):
    shapes, owner = diffusion(SMALL)
    state = numbers(shapes, owner)
    save_safetensors(tmp_path / "epoch=784.safetensors", state)
    convert.main(["--from", str(tmp_path / "epoch=784.safetensors"), "--out", str(tmp_path / "a")])
    printed = capsys.readouterr().out
    assert f"{len(state)} of {len(state)} keys accounted for" in printed
    params = open_safetensors(tmp_path / "a/params.safetensors")
    leaves = {p.removeprefix("network/"): params[p] for p in params if p.startswith("network/")}
    sound = jnp.zeros((1, SMALL.multiple, 1))
    given = (sound, jnp.zeros(1), jnp.zeros((1, 1, 5)), jnp.ones(1, bool), sound)
    made = jax.eval_shape(WaveformUNet(SMALL).apply, {"params": tree.unflatten(leaves)}, *given)
    assert made.shape == sound.shape
    convert.main(
        ["--from", str(tmp_path / "a"), "--back", "--out", str(tmp_path / "b.safetensors")]
    )
    same(dict(open_safetensors(tmp_path / "b.safetensors")), state)


def test_a_run_on_clap_from_elsewhere_is_written_back_without_it(tmp_path, monkeypatch):
    shapes, owner = diffusion(SMALL)
    state = numbers(shapes, owner)
    save_safetensors(tmp_path / "epoch=784.safetensors", state)
    convert.main(["--from", str(tmp_path / "epoch=784.safetensors"), "--out", str(tmp_path / "a")])
    params = open_safetensors(tmp_path / "a/params.safetensors")
    learnt = {path: params[path] for path in params if path.startswith("network/")}
    learnt |= {"network/null": learnt["network/null"] + 1, "text/word/embedding": np.zeros(3)}
    init = {"weights": str(tmp_path / "a"), "parts": {"text": "weights/clap", "audio": ""}}
    trained = SimpleNamespace(
        config=ConfigDict({"init": {**init, "partial": ()}}), params=tree.unflatten(learnt)
    )
    monkeypatch.setattr(convert.restore, "restore", lambda workdir, step: trained)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / CONFIG).touch()
    convert.main(
        ["--from", str(tmp_path / "run"), "--back", "--out", str(tmp_path / "b.safetensors")]
    )
    nulls = [f"{start}blocks.2.blocks.0.blocks.0.weight" for start in STARTS]
    again = dict(open_safetensors(tmp_path / "b.safetensors"))
    assert not [key for key in again if "word" in key]
    for key in nulls:
        np.testing.assert_array_equal(again[key], state[key] + 1)
    same(again, {**state, **{key: state[key] + 1 for key in nulls}})
