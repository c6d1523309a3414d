"""PyTorch names of HTS-AT's parameters, as in transformers' ``modeling_clap.py``."""

from collections.abc import Mapping

import numpy as np

from weavejax.errors import UserError
from weavejax.models.torch_names import CONV_2D, TRANSPOSED, Layout, Source, Table, dense, norm

BATCH_NORM_EPSILON = 1e-5  # PyTorch's default
# A convolution of one pixel [out, in, 1, 1] as a matrix.
PIXEL = Layout(lambda x: x.reshape(x.shape[:2]).T, lambda x: x.T[:, :, None, None])
# Nothing learned: counters of batch norms, places within windows.
BUFFERS = (".num_batches_tracked", ".relative_position_index")


def fold_batch_norms(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The state dict with every batch norm as it acts when it does not learn.

    Its weight and bias become the one scale and the one bias that it comes to; its statistics go.

    Raises:
        UserError: a batch norm is not complete.
    """
    folded = {key: np.asarray(tensor) for key, tensor in state.items()}
    names = {
        key.rpartition(".")[0] for key in state if key.endswith((".running_mean", ".running_var"))
    }
    parts = ("weight", "bias", "running_mean", "running_var")
    missing = [f"{n}.{part}" for n in sorted(names) for part in parts if f"{n}.{part}" not in state]
    if missing:
        raise UserError(f"HTS-AT's batch norms are not whole: missing {', '.join(missing)}")
    for name in names:
        weight, bias, mean, variance = (folded.pop(f"{name}.{part}") for part in parts)
        scale = weight.astype(np.float64) / np.sqrt(variance + BATCH_NORM_EPSILON)
        folded |= {f"{name}.weight": scale, f"{name}.bias": bias - mean * scale}
    return folded


def table(depths: tuple[int, ...], *, fusion: bool, projection: bool) -> Table:
    """Linen path → source of every parameter, for separate pairs of blocks.

    Args:
        depths: blocks of each stage.
        fusion: with the four-view fusion.
        projection: with CLAP's projection.
    """
    names: Table = {
        **norm("mel", "batch_norm"),
        "patch/kernel": Source("patch_embed.proj.weight", CONV_2D),
        "patch/bias": Source("patch_embed.proj.bias"),
        **norm("patch_norm", "patch_embed.norm"),
        **norm("norm", "norm"),
    }
    if fusion:
        names |= _fusion()
    if projection:
        names |= dense("projection/fc1", "audio_projection.linear1")
        names |= dense("projection/fc2", "audio_projection.linear2")
    for stage, depth in enumerate(depths):
        if stage:
            names |= norm(f"merge_{stage}/norm", f"layers.{stage - 1}.downsample.norm")
            names[f"merge_{stage}/reduce/kernel"] = Source(
                f"layers.{stage - 1}.downsample.reduction.weight", TRANSPOSED
            )
        for block in range(depth):
            part = ("whole", "shifted")[block % 2]
            path = f"stage_{stage}/blocks_{block // 2}/{part}"
            names |= _block(path, f"layers.{stage}.blocks.{block}")
    return names


def _block(path: str, key: str) -> Table:
    names: Table = {
        f"{path}_window/relative_bias": Source(
            f"{key}.attention.self.relative_position_bias_table"
        ),
        **dense(f"{path}_window/attention/output", f"{key}.attention.output.dense"),
        **dense(f"{path}_mlp/fc1", f"{key}.intermediate.dense"),
        **dense(f"{path}_mlp/fc2", f"{key}.output.dense"),
        **norm(f"{path}_norm1", f"{key}.layernorm_before"),
        **norm(f"{path}_norm2", f"{key}.layernorm_after"),
    }
    for name in ("query", "key", "value"):
        names |= dense(f"{path}_window/attention/{name}", f"{key}.attention.self.{name}")
    return names


def _fusion() -> Table:
    names: Table = {
        "local_patch/kernel": Source("patch_embed.mel_conv2d.weight", CONV_2D),
        "local_patch/bias": Source("patch_embed.mel_conv2d.bias"),
    }
    # Positions in the published sequences; the whole's begins with a pooling.
    for ours, theirs, first in (("local", "local_att", 0), ("whole", "global_att", 1)):
        for number, at in (("1", first), ("2", first + 3)):
            key = f"patch_embed.fusion_model.{theirs}"
            names[f"fusion/{ours}/fc{number}/kernel"] = Source(f"{key}.{at}.weight", PIXEL)
            names[f"fusion/{ours}/fc{number}/bias"] = Source(f"{key}.{at}.bias")
            names |= norm(f"fusion/{ours}/norm{number}", f"{key}.{at + 1}")
    return names
