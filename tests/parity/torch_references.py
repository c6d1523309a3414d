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
    record = _randomise(model, seed=2)
    lengths = {"alone": (4, 2, 1), "short": (9, 5), "fused": (7, 3, 6)}
    for case, kept in lengths.items():
        length = max(kept)
        random = np.random.default_rng(length)
        tokens = random.integers(0, 40, (len(kept), length)).astype(np.int32)
        mask = np.arange(length) < np.array(kept)[:, None]
        additive = torch.where(torch.from_numpy(mask), 0.0, -10000.0)[:, None, None, :]
        record |= {f"{case}/tokens": tokens, f"{case}/mask": mask}
        condition = None
        if case == "fused":
            record[f"{case}/condition"] = _normal(len(kept), 11, 32, seed=length)
            condition = torch.from_numpy(record[f"{case}/condition"])
        output = model(
            input_ids=torch.from_numpy(tokens).long(),
            attention_mask=additive.expand(-1, 1, length, -1),
            encoder_hidden_states=condition,
            use_cache=False,
        )
        record[f"{case}/output"] = output.last_hidden_state.numpy()
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
