"""transformers' CLIP, SigLIP and CLAP at small sizes with random weights, and CLAP's front end.

As `torch_references`: one flat dictionary of arrays for each. Imported only where the ``parity``
extra is installed.
"""

import copy
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file

Recording = dict[str, np.ndarray]
BLOCKS = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


def clip_vision() -> Recording:
    """CLIP's vision tower, 24 pixels, patches of 8; tokens after the last norm; with projection."""
    config = transformers.CLIPVisionConfig(image_size=24, patch_size=8, projection_dim=16, **BLOCKS)
    model = transformers.CLIPVisionModelWithProjection(config).eval()
    record = _strip(_randomise(model, seed=10), "vision_model.")
    for case, batch in (("one", 1), ("three", 3)):
        images = _normal(batch, 24, 24, 3, seed=batch)
        output = model(torch.from_numpy(images).permute(0, 3, 1, 2))
        tokens = model.vision_model.post_layernorm(output.last_hidden_state)
        record |= {f"{case}/images": images, f"{case}/output": tokens.numpy()}
        record[f"{case}/joint"] = output.image_embeds.numpy()
    return record


def siglip_vision() -> Recording:
    """SigLIP's vision tower, 26 pixels, patches of 8: two rows and columns of pixels are left."""
    config = transformers.SiglipVisionConfig(image_size=26, patch_size=8, **BLOCKS)
    model = transformers.SiglipVisionModel(config).eval()
    record = _strip(_randomise(model, seed=11), "vision_model.")
    for case, batch in (("one", 1), ("two", 2)):
        images = _normal(batch, 26, 26, 3, seed=batch)
        output = model(torch.from_numpy(images).permute(0, 3, 1, 2))
        record |= {f"{case}/images": images, f"{case}/output": output.last_hidden_state.numpy()}
        record[f"{case}/joint"] = output.pooler_output.numpy()
    return record


def clip_text() -> Recording:
    """CLIP's text tower; sentences end at token 39, after which anything may stand."""
    config = transformers.CLIPTextConfig(
        vocab_size=40,
        max_position_embeddings=12,
        projection_dim=16,
        bos_token_id=0,
        eos_token_id=39,
        **BLOCKS,
    )
    model = transformers.CLIPTextModelWithProjection(config).eval()
    record = _strip(_randomise(model, seed=12), "text_model.")
    for case, kept in (("short", (5, 2, 1)), ("full", (12, 7))):
        length = max(kept)
        tokens = np.random.default_rng(length).integers(0, 39, (len(kept), length))
        mask = np.arange(length) < np.array(kept)[:, None]
        for row, count in enumerate(kept):
            tokens[row, count - 1 :] = 39  # CLIP pads with the token that ends
        output = model(torch.from_numpy(tokens), torch.from_numpy(mask).long())
        record |= {f"{case}/tokens": tokens.astype(np.int32), f"{case}/mask": mask}
        record[f"{case}/output"] = _kept(output.last_hidden_state, mask)
        record[f"{case}/joint"] = output.text_embeds.numpy()
    return record


def siglip_text() -> Recording:
    """SigLIP's text tower, without a mask, as it was trained."""
    config = transformers.SiglipTextConfig(
        vocab_size=40,
        max_position_embeddings=12,
        projection_size=32,
        bos_token_id=None,
        eos_token_id=None,
        **BLOCKS,
    )
    model = transformers.SiglipTextModel(config).eval()
    record = _strip(_randomise(model, seed=13), "text_model.")
    for case, shape in (("one", (1, 7)), ("two", (2, 12))):
        tokens = np.random.default_rng(shape[1]).integers(0, 40, shape)
        output = model(torch.from_numpy(tokens))
        record |= {f"{case}/tokens": tokens.astype(np.int32), f"{case}/mask": np.ones(shape, bool)}
        record[f"{case}/output"] = output.last_hidden_state.numpy()
        record[f"{case}/joint"] = output.pooler_output.numpy()
    return record


def clap_text() -> Recording:
    """CLAP's RoBERTa with its pooler and projection; padding is token 1."""
    config = transformers.ClapTextConfig(
        vocab_size=40, max_position_embeddings=14, projection_dim=16, **BLOCKS
    )
    model = transformers.ClapTextModelWithProjection(config).eval()
    record = _strip(_randomise(model, seed=14), "text_model.")
    for case, kept in (("short", (5, 2, 1)), ("full", (12, 7))):
        length = max(kept)
        tokens = np.random.default_rng(length).integers(2, 40, (len(kept), length))
        mask = np.arange(length) < np.array(kept)[:, None]
        tokens = np.where(mask, tokens, 1)
        output = model(torch.from_numpy(tokens), torch.from_numpy(mask).long())
        record |= {f"{case}/tokens": tokens.astype(np.int32), f"{case}/mask": mask}
        record[f"{case}/output"] = _kept(output.last_hidden_state, mask)
        record[f"{case}/joint"] = output.text_embeds.numpy()
    return record


def htsat() -> Recording:
    """CLAP's HTS-AT: stretched and whole spectrograms; tokens in our order."""
    model = _htsat(fusion=False)
    record = _strip(_randomise(model, seed=15), "audio_model.audio_encoder.")
    for case, shape in (("stretched", (1, 101, 8)), ("whole", (3, 128, 8))):
        mel = _decibels(*shape, seed=shape[1])
        output = model(torch.from_numpy(mel)[:, None])
        record |= {f"{case}/mel": mel, f"{case}/output": _tokens(output)}
        record[f"{case}/joint"] = output.audio_embeds.numpy()
    return record


def htsat_fused() -> Recording:
    """CLAP's HTS-AT with feature fusion: four views, of which short sounds use the first."""
    model = _htsat(fusion=True)
    record = _strip(_randomise(model, seed=16), "audio_model.audio_encoder.")
    for case, longer in (("mixed", (True, False, True)), ("short", (False,))):
        mel = _decibels(len(longer), 4, 101, 8, seed=len(longer))
        output = model(torch.from_numpy(mel), is_longer=torch.tensor(longer)[:, None])
        record |= {f"{case}/mel": mel, f"{case}/longer": np.array(longer)}
        record |= {f"{case}/output": _tokens(output)}
        record[f"{case}/joint"] = output.audio_embeds.numpy()
    return record


def log_mel() -> Recording:
    """`ClapFeatureExtractor` on sounds shorter and longer than what the tower takes (here 0.1 s).

    Of the views of long sounds, the places that were drawn are recorded too.
    """
    random = np.random.default_rng(4)
    noise = random.standard_normal(12_000).astype(np.float32)
    time = np.arange(4_800) / 48_000
    waves = {
        "exact": 0.1 * noise[:4_800],
        "half": 0.3 * noise[:2_400],
        "third_and_odd": 0.3 * noise[:1_599],
        "short": 0.3 * noise[:700],
        "silence": np.zeros(1_000, np.float32),
        "chirp": 0.5 * np.sin(2 * np.pi * (200 + 120_000 * time) * time),
        "offset": 0.5 + 1e-4 * noise[:4_800],
    }
    record: Recording = {}
    for case, wave in waves.items():
        samples = wave.astype(np.float32)
        record[f"{case}/wave"] = samples
        for mode in ("rand_trunc", "fusion"):
            features = _extract(samples, mode)
            record[f"{case}/{mode}"] = features["input_features"][0][0].astype(np.float32)
    for case, length in (("long", 12_000), ("a_frame_more", 5_300), ("less_than_a_frame", 4_900)):
        samples = 0.2 * noise[:length]
        np.random.seed(5)  # noqa: NPY002  (the published code draws from it)
        views = np.asarray(_extract(samples, "fusion")["input_features"][0], np.float32)
        extractor = transformers.ClapFeatureExtractor()
        mel = extractor._np_extract_fbank_features(samples, extractor.mel_filters)
        frames = views.shape[1]
        record |= {f"{case}/wave": samples, f"{case}/views": views}
        record[f"{case}/starts"] = np.array(
            [
                next(s for s in range(len(mel)) if np.array_equal(mel[s : s + frames], view))
                for view in views[1:]
            ]
        )
    return record


def _extract(samples: np.ndarray, mode: str) -> dict[str, np.ndarray]:
    extractor = transformers.ClapFeatureExtractor()
    return extractor(
        samples.astype(np.float64), truncation=mode, max_length=4_800, sampling_rate=48_000
    )


def pictures() -> Recording:
    """Pillow's bicubic resizing, by CLIP's preprocessing (squares cut out) and by SigLIP's.

    Left out are shapes for which Pillow 13 takes rows before columns, and those whose square cannot
    lie in the middle: transformers rounds its place down, the published CLIP to the nearest.
    """
    clip = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}
    )
    siglip = transformers.SiglipImageProcessorPil(size={"height": 24, "width": 24})
    record: Recording = {}
    shapes = {"wide": (50, 88), "high": (90, 60), "small": (9, 13), "same": (24, 24)}
    for case, shape in shapes.items():
        image = np.random.default_rng(shape[0]).integers(0, 256, (*shape, 3), np.uint8)
        record[f"{case}/image"] = image
        for name, processor in (("clip", clip), ("siglip", siglip)):
            given = processor(image, return_tensors="np")["pixel_values"][0]
            record[f"{case}/{name}"] = given.transpose(1, 2, 0).astype(np.float32)
    return record


def counts() -> Recording:
    """Parameters of the published sizes, projections included: without memory, on "meta"."""
    picture, sentence = transformers.CLIPVisionConfig, transformers.CLIPTextConfig
    large = {"num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    so400m = {"num_hidden_layers": 27, "num_attention_heads": 16, "intermediate_size": 4304}
    vision, text = (
        transformers.CLIPVisionModelWithProjection,
        transformers.CLIPTextModelWithProjection,
    )
    sound, words = (
        transformers.ClapAudioModelWithProjection,
        transformers.ClapTextModelWithProjection,
    )
    fused = {"enable_fusion": True, "fusion_type": "aff_2d"}
    wide = {"patch_embeds_hidden_size": 128, "hidden_size": 1024, "depths": [2, 2, 12, 2]}
    published = {
        "CLIP_B32_VISION": (vision, picture()),
        "CLIP_L14_VISION": (
            vision,
            picture(hidden_size=1024, patch_size=14, projection_dim=768, **large),
        ),
        "CLIP_B32_TEXT": (text, sentence()),
        "CLIP_L14_TEXT": (
            text,
            sentence(
                hidden_size=768,
                num_attention_heads=12,
                intermediate_size=3072,
                projection_dim=768,
            ),
        ),
        "SIGLIP_B16_VISION": (transformers.SiglipVisionModel, transformers.SiglipVisionConfig()),
        "SIGLIP_SO400M_VISION": (
            transformers.SiglipVisionModel,
            transformers.SiglipVisionConfig(
                hidden_size=1152, image_size=384, patch_size=14, **so400m
            ),
        ),
        "SIGLIP_B16_TEXT": (
            transformers.SiglipTextModel,
            transformers.SiglipTextConfig(bos_token_id=None, eos_token_id=None),
        ),
        "CLAP_TEXT": (words, transformers.ClapTextConfig()),
        "CLAP_HTSAT": (sound, transformers.ClapAudioConfig()),
        "CLAP_HTSAT_FUSED": (sound, transformers.ClapAudioConfig(**fused)),
        "CLAP_HTSAT_LARGE": (sound, transformers.ClapAudioConfig(**wide)),
    }
    found: Recording = {}
    for name, (kind, config) in published.items():
        with torch.device("meta"):
            found[name] = np.array(sum(p.numel() for p in kind(config).parameters()))
    return found


def whole(name: str, config: dict[str, Any]) -> tuple[Recording, dict[str, Any]]:
    """A whole model's state dict and `config.json`, as transformers writes them."""
    kinds = {
        "clip": (transformers.CLIPModel, transformers.CLIPConfig),
        "siglip": (transformers.SiglipModel, transformers.SiglipConfig),
        "clap": (transformers.ClapModel, transformers.ClapConfig),
    }
    model, sizes = kinds[name]
    made = model(sizes(**copy.deepcopy(config)))
    with tempfile.TemporaryDirectory() as folder:
        made.save_pretrained(folder)
        written = json.loads(Path(folder, "config.json").read_text())
        state = load_file(Path(folder, "model.safetensors"))
    return state, written


REFERENCES: dict[str, Callable[[], Recording]] = {
    "clip_vision": clip_vision,
    "siglip_vision": siglip_vision,
    "clip_text": clip_text,
    "siglip_text": siglip_text,
    "clap_text": clap_text,
    "htsat": htsat,
    "htsat_fused": htsat_fused,
    "log_mel": log_mel,
    "pictures": pictures,
    "counts": counts,
}


def run(name: str) -> Recording:
    """Compute one reference without gradients."""
    with torch.no_grad():
        return REFERENCES[name]()


def _htsat(*, fusion: bool) -> torch.nn.Module:
    config = transformers.ClapAudioConfig(
        spec_size=32,
        num_mel_bins=8,
        patch_size=2,
        patch_stride=[2, 2],
        window_size=4,
        patch_embeds_hidden_size=8,
        depths=[2, 2, 2],
        num_attention_heads=[2, 4, 8],
        hidden_size=32,
        projection_dim=16,
        enable_fusion=fusion,
        fusion_type="aff_2d" if fusion else None,
        aff_block_r=2,
    )
    return transformers.ClapAudioModelWithProjection(config).eval()


def _tokens(output: transformers.modeling_outputs.ModelOutput) -> np.ndarray:
    """``[N, width, frequencies, frames]`` to tokens, time-major."""
    return output.last_hidden_state.permute(0, 3, 2, 1).flatten(1, 2).numpy()


def _kept(tokens: torch.Tensor, mask: np.ndarray) -> np.ndarray:
    """Zeros at padding, where nothing is promised."""
    return np.where(mask[..., None], tokens.numpy(), np.float32(0))


def _randomise(model: torch.nn.Module, *, seed: int) -> Recording:
    """Give everything, biases, norms and their statistics included, a value that shows a mistake."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm | torch.nn.BatchNorm2d):
            module.weight += 1.0
        if isinstance(module, torch.nn.BatchNorm2d):
            shape = module.running_mean.shape
            module.running_mean.copy_(torch.randn(shape, generator=generator))
            module.running_var.copy_(torch.rand(shape, generator=generator) + 0.5)
    return {f"state/{key}": value.numpy().copy() for key, value in model.state_dict().items()}


def _strip(record: Recording, prefix: str) -> Recording:
    return {key.replace(f"state/{prefix}", "state/"): value for key, value in record.items()}


def _normal(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _decibels(*shape: int, seed: int) -> np.ndarray:
    return 3 * _normal(*shape, seed=seed)
