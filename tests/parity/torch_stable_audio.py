"""Stable Audio Open's networks in diffusers, transformers and stable-audio-tools, at small sizes.

As `torch_references`: one flat dictionary of arrays for each. Weights are `seeded`, so that a
recording holds their keys and shapes only. Imported only where the ``parity`` extra is installed.
stable-audio-tools pins old versions of much that these networks do not use and is no part of that
extra: with ``pip install --no-deps stable-audio-tools==0.0.19`` its references run too.
"""

import importlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import seeded
import torch
import transformers
from diffusers import AutoencoderOobleck, StableAudioDiTModel
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from diffusers.pipelines.stable_audio import StableAudioProjectionModel

Recording = dict[str, np.ndarray]


def dit_diffusers() -> Recording:
    """4 heads of 32, half of which turns, on 2 of keys and values; norms with biases."""
    model = StableAudioDiTModel(
        in_channels=8,
        out_channels=8,
        num_layers=2,
        attention_head_dim=32,
        num_attention_heads=4,
        num_key_value_attention_heads=2,
        cross_attention_dim=64,
        cross_attention_input_dim=64,
        time_proj_dim=16,
        global_states_input_dim=24,
    )
    record = _seed(model)
    for case, sizes in (("odd", (2, 9, 5)), ("one", (1, 16, 3))):
        inputs = _dit_inputs(*sizes, channels=8, cross=64, whole=24)
        x, time, cross, whole = (torch.from_numpy(array) for array in inputs.values())
        rotary = get_1d_rotary_pos_embed(
            16, x.shape[1] + 1, use_real=True, repeat_interleave_real=False
        )
        output = model(x.mT, time, cross, whole[:, None], rotary, return_dict=False)[0].mT
        record |= _case(case, inputs, output)
    return record


def dit_tools() -> Recording:
    """4 heads of 64, half of which turns, on 2 of keys and values."""
    model = tools("models.dit").DiffusionTransformer(
        io_channels=8,
        embed_dim=256,
        depth=2,
        num_heads=4,
        cond_token_dim=128,
        global_cond_dim=32,
        project_cond_tokens=False,
    )
    record = _seed(model)
    for case, sizes in (("odd", (2, 11, 7)), ("one", (1, 8, 1))):
        inputs = _dit_inputs(*sizes, channels=8, cross=128, whole=32)
        x, time, cross, whole = (torch.from_numpy(array) for array in inputs.values())
        output = model(x.mT, time, cross_attn_cond=cross, global_embed=whole).mT
        record |= _case(case, inputs, output)
    return record


def control_tools() -> Recording:
    """Two of the base's networks, the second one as the copy, joined by hooks; one block copied.

    As stable-audio-controlnet does it: ``conv_in`` of the control after ``preprocess_conv``,
    ``conv_outs`` of each block's output, added before the base's block of the same number.
    """
    sizes: dict[str, Any] = {"io_channels": 8, "embed_dim": 128, "num_heads": 2}
    sizes |= {"cond_token_dim": 64, "global_cond_dim": 32, "project_cond_tokens": False}
    dit = tools("models.dit").DiffusionTransformer
    model = torch.nn.ModuleDict(
        {
            "base": dit(depth=2, **sizes),
            "copy": dit(depth=1, **sizes),
            "conv_in": torch.nn.Conv1d(8, 8, 1, bias=False),
            "conv_outs": torch.nn.ModuleList([torch.nn.Conv1d(128, 128, 1, bias=False)]),
        }
    )
    record = _seed(model)
    inputs = _dit_inputs(2, 9, 5, channels=8, cross=64, whole=32)
    x, time, cross, whole = (torch.from_numpy(array) for array in inputs.values())
    control = seeded.array("control", (2, 9, 8))
    added, between = (torch.from_numpy(control).mT, [])
    given: dict[str, Any] = {"cross_attn_cond": cross, "global_embed": whole}
    copy, base = model["copy"].transformer, model["base"].transformer
    copy.project_in.register_forward_pre_hook(lambda _, x: x[0] + model["conv_in"](added).mT)
    copy.layers[0].register_forward_hook(
        lambda _, x, y: between.append(model["conv_outs"][0](y.mT).mT)
    )
    model["copy"](x.mT, time, **given)
    base.layers[0].register_forward_pre_hook(lambda _, x: (x[0] + between[0], *x[1:]))
    output = model["base"](x.mT, time, **given).mT
    record |= {"odd/residuals": torch.stack(between).numpy()}
    return record | _case("odd", inputs | {"control": control}, output)


def oobleck_diffusers() -> Recording:
    """Strides 2, 3 and 4; two lengths that strides do not divide, and a batch."""
    model = AutoencoderOobleck(
        encoder_hidden_size=8,
        decoder_channels=8,
        decoder_input_channels=4,
        downsampling_ratios=[2, 3, 4],
        channel_multiples=[1, 2, 3],
    )
    record = _seed(model)
    for case, batch, length in (("odd", 2, 151), ("even", 1, 240)):
        audio = seeded.array(f"audio {case}", (batch, length, 2))
        latent = model.encode(torch.from_numpy(audio).mT).latent_dist
        output = model.decode(latent.mean, return_dict=False)[0]
        record |= {
            f"{case}/audio": audio,
            f"{case}/mean": latent.mean.mT.numpy(),
            f"{case}/deviation": latent.std.mT.numpy(),
            f"{case}/divergence": latent.kl().numpy(),
            f"{case}/output": output.mT.numpy(),
        }
    return record


def oobleck_tools() -> Recording:
    """The same with strides 2, 4 and 8."""
    module = tools("models.autoencoders")
    sizes: dict[str, Any] = {"channels": 8, "c_mults": [1, 2, 3], "strides": [2, 4, 8]}
    model = torch.nn.ModuleDict(
        {
            "encoder": module.OobleckEncoder(in_channels=2, latent_dim=8, use_snake=True, **sizes),
            "decoder": module.OobleckDecoder(
                out_channels=2, latent_dim=4, use_snake=True, final_tanh=False, **sizes
            ),
        }
    )
    record = _seed(model)
    for case, batch, length in (("odd", 2, 333), ("even", 1, 256)):
        audio = seeded.array(f"audio {case}", (batch, length, 2))
        mean, scale = model["encoder"](torch.from_numpy(audio).mT).chunk(2, dim=1)
        _, divergence = tools("models.bottleneck").vae_sample(mean, scale)
        record |= {
            f"{case}/audio": audio,
            f"{case}/mean": mean.mT.numpy(),
            f"{case}/deviation": (torch.nn.functional.softplus(scale) + 1e-4).mT.numpy(),
            f"{case}/divergence": divergence.numpy(),
            f"{case}/output": model["decoder"](mean).mT.numpy(),
        }
    return record


def number_diffusers() -> Recording:
    """Seconds from 0 to 512, and beyond."""
    model = StableAudioProjectionModel(
        text_encoder_dim=24, conditioning_dim=24, min_value=0, max_value=512
    ).start_number_conditioner
    record = _seed(model)
    return record | _case("seconds", {"numbers": SECONDS}, model(torch.from_numpy(SECONDS))[:, 0])


def number_tools() -> Recording:
    """The same."""
    model = tools("models.conditioners").NumberConditioner(24, min_val=0, max_val=512)
    record = _seed(model)
    tokens, _ = model(SECONDS.tolist())
    return record | _case("seconds", {"numbers": SECONDS}, tokens[:, 0])


def t5() -> Recording:
    """4 heads of 8; batches with padding."""
    config = transformers.T5Config(
        vocab_size=40, d_model=32, d_kv=8, num_heads=4, d_ff=64, num_layers=2, dropout_rate=0.0
    )
    model = transformers.T5EncoderModel(config).eval()
    record = _seed(model)
    for case, kept in (("short", (5, 2, 1)), ("long", (40, 33))):
        length = max(kept)
        tokens = np.random.default_rng(length).integers(0, 40, (len(kept), length))
        mask = np.arange(length) < np.array(kept)[:, None]
        output = model(torch.from_numpy(tokens), torch.from_numpy(mask).long()).last_hidden_state
        inputs = {"tokens": tokens.astype(np.int32), "mask": mask}
        record |= _case(case, inputs, output * torch.from_numpy(mask)[..., None])
    return record


def buckets() -> Recording:
    """Of relative positions -400 to 400, for the published sizes and for smaller ones."""
    offsets = torch.arange(-400, 401)
    look_up = transformers.models.t5.modeling_t5.T5Attention._relative_position_bucket
    return {
        f"{count}-{most}/buckets": look_up(offsets, num_buckets=count, max_distance=most).numpy()
        for count, most in ((32, 128), (16, 50))
    }


def published() -> Recording:
    """Every key and shape at the published sizes, and how many numbers are parameters."""
    with torch.device("meta"):
        return _describe(
            {
                "dit": StableAudioDiTModel(),
                "oobleck": AutoencoderOobleck(),
                "number": StableAudioProjectionModel(768, 768, 0, 512).end_number_conditioner,
                "t5": transformers.T5EncoderModel(transformers.T5Config(**T5_BASE)),
            }
        )


def published_tools() -> Recording:
    """The same of stable-audio-tools."""
    sizes: dict[str, Any] = {"c_mults": [1, 2, 4, 8, 16], "strides": [2, 4, 4, 8, 8]}
    oobleck, numbers = tools("models.autoencoders"), tools("models.conditioners")
    with torch.device("meta"):
        halves = {
            "encoder": oobleck.OobleckEncoder(latent_dim=128, use_snake=True, **sizes),
            "decoder": oobleck.OobleckDecoder(
                latent_dim=64, use_snake=True, final_tanh=False, **sizes
            ),
        }
        return _describe(
            {
                "dit": tools("models.dit").DiffusionTransformer(
                    io_channels=64,
                    embed_dim=1536,
                    depth=24,
                    num_heads=24,
                    cond_token_dim=768,
                    global_cond_dim=1536,
                    project_cond_tokens=False,
                ),
                "oobleck": torch.nn.ModuleDict(halves),
                "number": numbers.NumberConditioner(768, min_val=0, max_val=512),
            }
        )


def _describe(models: dict[str, torch.nn.Module]) -> Recording:
    found: Recording = {}
    for name, model in models.items():
        count = sum(parameter.numel() for parameter in model.parameters())
        found[f"{name}/count"] = np.array(count)
        shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        found[f"{name}/shapes"] = seeded.pack(shapes)
    return found


T5_BASE: dict[str, Any] = {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12}
SECONDS = np.array([0.0, 10.0, 47.5, 511.0, 512.0, 600.0, -3.0], np.float32)
REFERENCES: dict[str, Callable[[], Recording]] = {
    name: globals()[name]
    for name in (
        "dit_diffusers",
        "dit_tools",
        "control_tools",
        "oobleck_diffusers",
        "oobleck_tools",
        "number_diffusers",
        "number_tools",
        "t5",
        "buckets",
        "published",
        "published_tools",  # what ends so needs stable-audio-tools
    )
}


def run(name: str) -> Recording:
    """One reference, on the CPU, without gradients."""
    with torch.no_grad(), warnings.catch_warnings():
        # PyTorch's on the weight normalisation that both libraries use.
        warnings.simplefilter("ignore", FutureWarning)
        return REFERENCES[name]()


def tools(module: str) -> types.ModuleType:
    """A module of stable-audio-tools without what it imports and these networks do not use."""
    name = "stable_audio_tools"
    if name not in sys.modules:
        spec = importlib.util.find_spec(name)
        if spec is None:
            raise ModuleNotFoundError(f"{name} is not installed", name=name)
        others = [m for m in ("alias_free_torch", "einops_exts") if not importlib.util.find_spec(m)]
        own = ("diffusion", "factory", "pretransforms", "utils")
        others += [f"{name}.models.{part}" for part in own]
        others += [f"{name}.inference.{part}" for part in ("sampling", "utils")]
        sys.modules |= {other: _Stub(other) for other in others}
        for package in (name, f"{name}.models", f"{name}.inference"):
            # Without running __init__, which imports everything.
            empty = types.ModuleType(package)
            empty.__spec__ = spec
            folder = package.removeprefix(name).replace(".", "/")
            empty.__path__ = [path + folder for path in spec.submodule_search_locations or ()]
            sys.modules[package] = empty
    return importlib.import_module(f"{name}.{module}")


class _Stub(types.ModuleType):
    """Has whatever is imported from it: a class, which as a decorator changes nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__new__": lambda cls, first=None, *_, **__: first})


def _dit_inputs(
    batch: int, length: int, tokens: int, *, channels: int, cross: int, whole: int
) -> Recording:
    shapes = {
        "x": (batch, length, channels),
        "time": (batch,),
        "cross": (batch, tokens, cross),
        "global_cond": (batch, whole),
    }
    found = {key: 2 * seeded.array(f"{key} {batch}", shape) for key, shape in shapes.items()}
    return found | {"time": np.abs(found["time"])}


def _seed(model: torch.nn.Module) -> Recording:
    """Give every parameter its value; buffers, which follow from the sizes, keep theirs."""
    shapes = {key: tuple(parameter.shape) for key, parameter in model.named_parameters()}
    values = {key: torch.from_numpy(value) for key, value in seeded.weights(shapes).items()}
    model.load_state_dict(values, strict=False)
    state = model.state_dict()
    # Tied copies are no parameters of their own.
    aliases = {
        key: value
        for key, value in state.items()
        if key not in shapes and not _constant(key, model)
    }
    assert all(any(torch.equal(a, state[k]) for k in shapes) for a in aliases.values())
    model.eval()
    constants = {key: state[key].numpy().copy() for key in state if _constant(key, model)}
    return {
        "shapes": seeded.pack(shapes),
        **{f"constant/{key}": value for key, value in constants.items()},
    }


def _constant(key: str, model: torch.nn.Module) -> bool:
    return key in dict(model.named_buffers())


def _case(case: str, inputs: Recording, output: torch.Tensor) -> Recording:
    arrays = inputs | {"output": output.numpy().astype(np.float32)}
    return {f"{case}/{key}": value for key, value in arrays.items()}
