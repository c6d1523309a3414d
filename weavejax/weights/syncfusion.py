"""SyncFusion's published checkpoints, of its onset network and of its diffusion, as parameters here.

Source: the training code of Comunità et al., "SyncFusion", arXiv 2310.15247 (``main/module_onset.py``,
``main/module_diffusion.py``): PyTorch Lightning's files. That of the diffusion holds its UNet three
times, of which the copies are the same tensors, and the frozen CLAP besides, in laion_clap's spelling.
"""

import re

from weavejax.models import r2plus1d, waveform_unet_names
from weavejax.models.r2plus1d import R2Plus1DConfig
from weavejax.models.torch_names import Arrays, Source, Table, count_layers
from weavejax.models.waveform_unet import WaveformUNetConfig
from weavejax.weights.published import Format, Part

TRUNK = "net.model."  # of the onset network; its MLP stands beside that
# The model, its loss and its sampler each hold the UNet.
UNET, UNET_COPIES = "model.net.", ("model.diffusion.net.", "model.sampler.net.")
ENCODER = "onsets_encoder."
LEVEL = "blocks.2.blocks.1.net"  # the UNet's first level, after noise level and null condition
NULL = "blocks.2.blocks.0.blocks.0.weight"
HEAD_WIDTH = 64  # of attention, which no array tells


def _lightning(key: str) -> str:
    """The onset network's keys also without the prefix that the module around it gives them."""
    return f"model.{key}" if key.startswith((TRUNK, "fc.")) else key


def onset_sizes(state: Arrays) -> R2Plus1DConfig:
    """The sizes that an onset network's state dict has.

    Raises:
        KeyError: an array that tells them is missing.
    """
    stages = [match[1] for key in state if (match := re.match(rf"{TRUNK}layer(\d)\.", key))]
    numbers = range(1, 1 + max(map(int, stages), default=1))
    return R2Plus1DConfig(
        widths=tuple(state[f"{TRUNK}layer{n}.0.conv1.0.3.weight"].shape[0] for n in numbers),
        blocks=tuple(count_layers(state, f"{TRUNK}layer{n}.") for n in numbers),
        hidden=state["fc.0.weight"].shape[0],
        stem=state[f"{TRUNK}stem.0.weight"].shape[0],
    )


def onset_table(config: R2Plus1DConfig) -> Table:
    """Where each leaf comes from."""
    return {
        path: source if source.key.startswith("fc.") else source._replace(key=TRUNK + source.key)
        for path, source in r2plus1d.table(config).items()
    }


def diffusion_sizes(state: Arrays) -> WaveformUNetConfig:
    """The sizes that a diffusion's state dict has.

    Heads are taken to be 64 wide, and groups of norms 8 and 2, which no array tells.

    Raises:
        KeyError: an array that tells them is missing.
        ValueError: attention is not a whole number of heads wide, or items are not whole.
    """
    levels: list[tuple[int, int, int, bool]] = []  # channels, factor, items, attention
    key = f"{UNET}{LEVEL}"
    while f"{key}.block.blocks.0.block.weight" in state or not levels:
        channels, _, factor = state[f"{key}.block.blocks.0.block.weight"].shape
        # Residual, modulation, onset track, attention to itself where it has that, to the condition.
        attention = f"{key}.block.blocks.5.blocks.0.block.to_q.weight" in state
        item = 5 if attention else 4
        # Downsampling, items, the level below (of all but the last), items, upsampling.
        items, below = divmod(count_layers(state, f"{key}.block.blocks.") - 2, 2 * item)
        if below > 1 or items < 1:
            raise ValueError(f"level {len(levels)} has not its items twice, on the way down and up")
        levels.append((channels, factor, items, attention))
        key += f".block.blocks.{1 + items * item}"
    cross = f"{UNET}{LEVEL}.block.blocks.{4 + levels[0][3]}.blocks.0.block.to_q.weight"
    wide, (tokens, embedding) = state[cross].shape[0], state[f"{UNET}{NULL}"].shape
    if wide % HEAD_WIDTH:
        raise ValueError(f"attention is {wide} wide, not a number of heads of {HEAD_WIDTH}")
    downs = [f"{ENCODER}downsamples.{n}" for n in range(len(levels))]
    return WaveformUNetConfig(
        channels=tuple(level[0] for level in levels),
        factors=tuple(level[1] for level in levels),
        items=tuple(level[2] for level in levels),
        attentions=tuple(level[3] for level in levels),
        context=tuple(state[f"{down}.downsample.weight"].shape[0] for down in downs),
        heads=wide // HEAD_WIDTH,
        head_width=HEAD_WIDTH,
        modulation=state[f"{UNET}blocks.0.to_out.weight"].shape[0],
        embedding=embedding,
        tokens=tokens,
        encoder_blocks=count_layers(state, f"{downs[0]}.blocks."),
    )


def diffusion_table(config: WaveformUNetConfig) -> Table:
    """Where each leaf comes from."""
    return {path: _placed(source) for path, source in waveform_unet_names.table(config).items()}


def _placed(source: Source) -> Source:
    """From a state dict of the networks alone to the whole file's."""
    keys = (source.key, *source.copies)
    start, starts = waveform_unet_names.UNET, [UNET, *UNET_COPIES]
    if source.key.startswith(waveform_unet_names.ENCODER):
        start, starts = waveform_unet_names.ENCODER, [ENCODER]
    first, *copies = (new + key.removeprefix(start) for new in starts for key in keys)
    return source._replace(key=first, copies=tuple(copies))


ONSET = Format(
    about="SyncFusion's onset network",
    marks=(f"model.{TRUNK}stem.0.weight", "model.fc.2.weight"),
    parts=(Part("", "model.", R2Plus1DConfig, onset_sizes, onset_table, r2plus1d.shapes),),
    official=_lightning,
    kept={"counters of batches": r"\.num_batches_tracked$"},
)
SYNCFUSION = Format(
    about="SyncFusion's diffusion",
    marks=(f"{UNET}blocks.0.weights", f"{ENCODER}to_in.block.to_out.weight"),
    parts=(
        Part(
            "network/",
            "",
            WaveformUNetConfig,
            diffusion_sizes,
            diffusion_table,
            waveform_unet_names.shapes,
        ),
    ),
    kept={"CLAP, frozen (read from transformers' file of it)": r"^clap\."},
)
