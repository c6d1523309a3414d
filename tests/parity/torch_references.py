"""The published networks in PyTorch, at small sizes with random weights.

Each reference returns one flat dictionary of arrays: ``state/<torch key>``, ``<case>/<input>`` and
``<case>/output``. Imported only where the ``parity`` extra is installed.
"""

from collections.abc import Callable

import numpy as np
import timm
import torch
import torchaudio
from speechbrain.lobes.models import beats
from transformers import BertConfig, BertModel

from weavejax.ops.fbank import INT16_SCALE

Recording = dict[str, np.ndarray]


def vit() -> Recording:
    """timm's EVA giant: all tokens after the final norm."""
    model = timm.create_model(
        "eva_giant_patch14_clip_224",
        pretrained=False,
        img_size=24,
        patch_size=8,
        embed_dim=32,
        depth=2,
        num_heads=4,
        mlp_ratio=2.0,
        num_classes=16,
    ).eval()
    record = _randomise(model, seed=0)
    for case, batch in (("one", 1), ("three", 3)):
        images = _normal(batch, 24, 24, 3, seed=batch)
        tokens = model.forward_features(torch.from_numpy(images).permute(0, 3, 1, 2))
        record |= {f"{case}/images": images, f"{case}/output": tokens.numpy()}
    return record


def spectrogram() -> Recording:
    """SpeechBrain's BEATs, its sub-modules called directly: its front end is fixed to 128 mels."""
    config = beats.BEATsConfig(
        {
            "embed_dim": 24,
            "encoder_embed_dim": 32,
            "encoder_layers": 2,
            "encoder_attention_heads": 4,
            "encoder_ffn_embed_dim": 64,
            "conv_pos": 16,
            "conv_pos_groups": 4,
            "deep_norm": True,
            "relative_position_embedding": True,
            "gru_rel_pos": True,
            "num_buckets": 16,
            "max_distance": 20,
        }
    )
    published, beats.BEATsConfig = beats.BEATsConfig, lambda _: config
    try:
        model = beats.BEATs().eval()
    finally:
        beats.BEATsConfig = published
    record = _randomise(model, seed=1)
    for case, shape in (("one", (1, 112, 64)), ("two", (2, 48, 32))):
        fbank = _normal(*shape, seed=shape[1])
        x = model.patch_embedding(torch.from_numpy(fbank)[:, None])
        x = model.layer_norm(x.flatten(2).transpose(1, 2))
        tokens, _ = model.encoder(model.post_extract_proj(x))
        record |= {f"{case}/fbank": fbank, f"{case}/output": tokens.numpy()}
    return record


def buckets() -> Recording:
    """The published bucket of every distance up to 1023 tokens: keys after, then before."""
    attend = beats.MultiheadAttention(
        8, 1, has_relative_attention_bias=True, num_buckets=320, max_distance=800
    )
    distance = torch.arange(1024)
    return {
        "after": attend._relative_positions_bucket(distance).numpy().astype(np.int16),
        "before": attend._relative_positions_bucket(-distance).numpy().astype(np.int16),
    }


def bert() -> Recording:
    """transformers' BERT with cross-attention, called as VAST does.

    The 4-D additive mask passes through untouched, which gives bidirectional attention and -10000
    at padding although ``is_decoder`` is set; condition tokens have no mask.
    """
    model = _bert()
    record = _randomise(model, seed=2)
    lengths = {"alone": (4, 2, 1), "short": (9, 5), "fused": (7, 3, 6)}
    for case, kept in lengths.items():
        length = max(kept)
        random = np.random.default_rng(length)
        tokens = random.integers(0, 40, (len(kept), length)).astype(np.int32)
        mask = np.arange(length) < np.array(kept)[:, None]
        record |= {f"{case}/tokens": tokens, f"{case}/mask": mask}
        condition = None
        if case == "fused":
            record[f"{case}/condition"] = _normal(len(kept), 11, 32, seed=length)
            condition = torch.from_numpy(record[f"{case}/condition"])
        record[f"{case}/output"] = _encode(model, tokens, mask, condition).numpy()
    return record


def _bert() -> BertModel:
    config = BertConfig(
        vocab_size=40,
        max_position_embeddings=12,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        is_decoder=True,
        add_cross_attention=True,
    )
    model = BertModel(config, add_pooling_layer=False).eval()
    model.set_attn_implementation("eager")  # takes an additive mask as it is
    return model


def _encode(
    model: BertModel, tokens: np.ndarray, mask: np.ndarray, condition: torch.Tensor | None
) -> torch.Tensor:
    additive = torch.where(torch.from_numpy(mask), 0.0, -10000.0)[:, None, None, :]
    return model(
        input_ids=torch.from_numpy(tokens).long(),
        attention_mask=additive.expand(-1, 1, tokens.shape[1], -1),
        encoder_hidden_states=condition,
        use_cache=False,
    ).last_hidden_state


class Matching(torch.nn.Module):
    """VAST's matching path around transformers' BERT, its parts named as in the checkpoints."""

    def __init__(self) -> None:
        super().__init__()
        widths = {"vision": 24, "audio": 20, "subtitle": 32}
        for name, width in widths.items():
            projection = torch.nn.Sequential(
                torch.nn.Linear(width, 32), torch.nn.LayerNorm(32, eps=1e-12)
            )
            self.add_module(f"hidden_trans_{name}_multimodal", projection)
            kind = torch.nn.Parameter(torch.zeros(1, 1, 32))
            self.register_parameter(f"{name}_type_embeddings", kind)
        self.vision_frame_embedding = torch.nn.Parameter(torch.zeros(1, 3, 32))
        self.audio_frame_embedding = torch.nn.Parameter(torch.zeros(1, 2, 32))
        self.multimodal_encoder = torch.nn.ModuleDict({"bert": _bert()})
        self.itm_head = torch.nn.ModuleDict(
            {
                "linear1": torch.nn.Linear(32, 32),
                "layernorm": torch.nn.LayerNorm(32, eps=1e-12),
                "linear2": torch.nn.Linear(32, 2),
            }
        )

    def condition(self, name: str, x: torch.Tensor) -> torch.Tensor:
        x = self.get_submodule(f"hidden_trans_{name}_multimodal")(x)
        if name != "subtitle":
            rows = self.get_parameter(f"{name}_frame_embedding").mT
            rows = torch.nn.functional.interpolate(rows, x.shape[1], mode="nearest").mT
            x = (x + rows[:, :, None]).flatten(1, 2)
        return x + self.get_parameter(f"{name}_type_embeddings")

    def forward(
        self, tokens: np.ndarray, mask: np.ndarray, clip: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        published = {"video": "vision", "depth": "vision"}
        parts = [self.condition(published.get(name, name), x) for name, x in clip.items()]
        x = _encode(self.multimodal_encoder["bert"], tokens, mask, torch.cat(parts, 1))[:, 0]
        x = self.itm_head["layernorm"](torch.nn.functional.gelu(self.itm_head["linear1"](x)))
        return self.itm_head["linear2"](x)


def matching() -> Recording:
    """The whole matching path, from the towers' tokens to logits.

    Frames and chunks as many as there are embeddings, more, and fewer; with padding, subtitles and
    depth, which is a video to all parameters.
    """
    model = Matching().eval()
    record = _randomise(model, seed=4)
    cases: dict[str, dict[str, tuple[int, ...]]] = {
        "same": {"video": (3, 3, 5, 24), "audio": (3, 2, 4, 20)},
        "more": {"video": (1, 8, 2, 24), "audio": (1, 3, 1, 20), "subtitle": (1, 7, 32)},
        "fewer": {"video": (4, 2, 3, 24), "audio": (4, 1, 5, 20), "subtitle": (4, 3, 32)}
        | {"depth": (4, 5, 2, 24)},
        "sound": {"audio": (2, 5, 3, 20)},
    }
    lengths = {"same": (9, 5, 2), "more": (11,), "fewer": (2, 6, 7, 3), "sound": (3, 4)}
    for number, (case, shapes) in enumerate(cases.items()):
        random = np.random.default_rng(number)
        length = max(lengths[case]) + 1
        tokens = random.integers(0, 40, (len(lengths[case]), length)).astype(np.int32)
        mask = np.arange(length) < np.array(lengths[case])[:, None]
        clip = {name: _normal(*shape, seed=shape[1]) for name, shape in shapes.items()}
        record |= {f"{case}/tokens": tokens, f"{case}/mask": mask}
        record |= {f"{case}/clip.{name}": x for name, x in clip.items()}
        logits = model(tokens, mask, {name: torch.from_numpy(x) for name, x in clip.items()})
        record[f"{case}/output"] = logits.numpy()
    return record


def resizing() -> Recording:
    """PyTorch's resizing of embeddings: bilinear of positions, nearest of frames."""
    positions = _normal(1, 1 + 5 * 5, 4, seed=5)
    square = torch.from_numpy(positions[:, 1:]).reshape(1, 5, 5, 4).permute(0, 3, 1, 2)
    record = {"positions": positions}
    for side in (2, 3, 8):
        resized = torch.nn.functional.interpolate(square, (side, side), mode="bilinear")
        record[f"positions to {side}"] = resized.permute(0, 2, 3, 1).flatten(1, 2).numpy()
    for stored, wanted in ((1, 8), (8, 2), (2, 8), (14, 46), (26, 22)):  # the last two: rounding
        numbers = torch.arange(float(stored))[None, None]
        chosen = torch.nn.functional.interpolate(numbers, wanted, mode="nearest")
        record[f"frames {stored} to {wanted}"] = chosen.numpy()[0, 0].astype(np.int16)
    return record


def fbank() -> Recording:
    """torchaudio's Kaldi filter bank, called as BEATs and GRAM do."""
    random = np.random.default_rng(3)
    noise = random.standard_normal(7001).astype(np.float32)
    time = np.arange(2000) / 16000
    waves = {
        "noise": 0.1 * noise[:5000],
        "odd": 0.01 * noise[:4001],
        "one_window": 0.3 * noise[:400],
        "one_short_of_two": 0.3 * noise[:559],
        "two_windows": 0.3 * noise[:560],
        "silence": np.zeros(1600, np.float32),
        "offset": 0.5 + 0.01 * noise[:1777],
        "full_scale": np.sign(noise[:3001]),
        "quiet": 1e-4 * noise[:1200],
        "chirp": 0.5 * np.sin(2 * np.pi * (200 + 14000 * time) * time) + 0.01 * noise[:2000],
    }
    record: Recording = {}
    for case, wave in waves.items():
        samples = wave.astype(np.float32)
        record[f"{case}/wave"] = samples
        for mels in (64, 128):
            bank = torchaudio.compliance.kaldi.fbank(
                torch.from_numpy(samples)[None] * INT16_SCALE,
                num_mel_bins=mels,
                sample_frequency=16000,
                frame_length=25,
                frame_shift=10,
            )
            record[f"{case}/mels{mels}"] = bank.numpy()
    return record


REFERENCES: dict[str, Callable[[], Recording]] = {
    "vit": vit,
    "spectrogram": spectrogram,
    "buckets": buckets,
    "bert": bert,
    "matching": matching,
    "resizing": resizing,
    "fbank": fbank,
}


def run(name: str) -> Recording:
    """Compute one reference without gradients."""
    with torch.no_grad():
        return REFERENCES[name]()


def _randomise(model: torch.nn.Module, *, seed: int) -> Recording:
    """Give every parameter, biases and norms included, a value that shows a wrong mapping."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.weight += 1.0
    return {f"state/{key}": value.numpy().copy() for key, value in model.state_dict().items()}


def _normal(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
