"""HTS-AT, the audio tower of LAION-CLAP: a Swin transformer on a log mel spectrogram.

Source: Chen et al., HTS-AT (arXiv 2202.00874); Wu et al., CLAP (arXiv 2211.06687), with its feature
fusion; weights as in transformers' ``modeling_clap.py``. The spectrogram is stretched in time and
folded to a square, so that windows see neighbouring frames and bins. The published batch norms do
not learn here: each is the scale and bias it comes to.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from weavejax.models.htsat_names import BUFFERS, fold_batch_norms, table
from weavejax.models.torch_names import convert, shapes_of
from weavejax.ops.placement import split_batch
from weavejax.ops.transformer import (
    BLOCK_RULES,
    LayerNorm,
    Mlp,
    PatchEmbed,
    Rule,
    drop_path,
    fan_in,
    run_blocks,
)
from weavejax.ops.windows import MergeNeighbours, WindowAttention, cubic_matrix

EPSILON = 1e-5
MLP_RATIO = 4
VIEWS = 4  # of a long sound, for fusion: all of it, and three parts
LOCAL_STRETCH = 3  # patches of the parts are three times as wide


@dataclass(frozen=True)
class HtsatConfig:
    """Sizes and switches of an `Htsat`.

    Attributes:
        frames: usual number of spectrogram frames; fewer than ``side · side / mels`` are stretched.
        mels: mel bins, a divisor of ``side``.
        side: of the square the spectrogram is folded to.
        patch: side of a patch.
        window: side of the attention windows, in patches.
        width: token width of the first stage; each further stage has twice that of the last.
        depths: blocks of each stage, an even number: every second one has its windows shifted.
        heads: attention heads of each stage.
        fusion: whether long sounds come as four views.
        fusion_ratio: how much narrower the fusion's hidden layers are.
        projection: width of CLAP's joint space; 0 = none.
        drop_path: stochastic depth of the last block; it rises linearly from 0 in the first.
        dtype: compute type; parameters are float32.
        scan: one scanned stack for each stage instead of separate pairs of blocks.
        remat: "none", "dots" or "full"; see `run_blocks`.
        attention: backend; see `weavejax.ops.attention`.
    """

    frames: int
    mels: int
    side: int
    patch: int
    window: int
    width: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    fusion: bool = False
    fusion_ratio: int = 4
    projection: int = 0
    drop_path: float = 0.0
    dtype: str = "float32"
    scan: bool = False
    remat: str = "none"
    attention: str = "xla"

    def __post_init__(self) -> None:
        for name in ("depths", "heads"):  # lists, when read from JSON
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.depths) != len(self.heads) or any(depth % 2 for depth in self.depths):
            raise ValueError("HTS-AT needs one number of heads and an even depth for each stage")
        grids = [self.grid >> stage for stage in range(len(self.depths))]
        if self.side % self.patch or any(grid % self.window for grid in grids):
            raise ValueError(f"grids of {grids} patches do not split into windows of {self.window}")
        if self.side % self.mels or grids[-1] % self.folds:
            raise ValueError(f"{self.mels} mel bins do not fold into a square of {self.side}")

    @property
    def grid(self) -> int:
        """Patches along one side of the square."""
        return self.side // self.patch

    @property
    def folds(self) -> int:
        """Stretches of time that lie one above the other in the square."""
        return self.side // self.mels

    @property
    def out_width(self) -> int:
        """Width of the tokens that come out."""
        return self.width << (len(self.depths) - 1)


CLAP_HTSAT = HtsatConfig(
    frames=1001,
    mels=64,
    side=256,
    patch=4,
    window=8,
    width=96,
    depths=(2, 2, 6, 2),
    heads=(4, 8, 16, 32),
    projection=512,
)
CLAP_HTSAT_FUSED = replace(CLAP_HTSAT, fusion=True)
CLAP_HTSAT_LARGE = replace(CLAP_HTSAT, width=128, depths=(2, 2, 12, 2))


def rules(config: HtsatConfig) -> tuple[Rule, ...]:
    """Sharding table, first match wins; specs are written from the right."""
    rules: tuple[Rule, ...] = (
        (r"^patch/kernel$", ("data",)),
        (r"relative_bias$", ()),
        *BLOCK_RULES,
    )
    if len(config.depths) > 1:
        rules = ((r"^merge_\d/reduce/kernel$", ("data", "model")), *rules)
    if config.fusion:
        rules = ((r"^local_patch/kernel$", ("data",)), (r"^fusion/\w+/fc\d/kernel$", ()), *rules)
    return (*rules, (r"^projection/fc\d/kernel$", ("data", None))) if config.projection else rules


def flops(config: HtsatConfig) -> float:
    """Of one spectrogram's forward pass: multiply-adds counted twice, attention included."""
    patches = config.grid**2
    total = 2.0 * patches * config.patch**2 * config.width
    for stage, depth in enumerate(config.depths):
        width, tokens = config.width << stage, patches >> (2 * stage)
        per_token = (4 + 2 * MLP_RATIO) * width**2 + 2 * config.window**2 * width
        total += 2.0 * depth * tokens * per_token
        if stage:
            total += 2.0 * tokens * 2 * width * width
    return total


class Htsat(nn.Module):
    """Log mel spectrograms to tokens."""

    config: HtsatConfig

    @nn.compact
    def __call__(
        self,
        mel: jax.Array,
        longer: jax.Array | None = None,
        *,
        deterministic: bool,
        joint: bool = False,
    ) -> jax.Array:
        """Encode spectrograms.

        Args:
            mel: ``[N, T, M]`` as from `weavejax.ops.log_mel`, in dB; or, to a tower with fusion,
                ``[N, 4, T, M]``: the whole sound shrunk to T frames, then three parts of it.
            longer: bool ``[N]``, whether the sound is longer than T frames, so that its parts count;
                needed with four views.
            deterministic: True switches stochastic depth off; False needs a "dropout" key.
            joint: return CLAP's embedding of the sound instead of tokens.

        Returns:
            ``[N, L, width · 2^(stages - 1)]``, time-major: all frequencies of the first frames
            first. Their mean is the sound's. With ``joint``, ``[N, projection]``, not normalised.
        """
        c = self.config
        dtype = jnp.dtype(c.dtype)
        views = self._views(mel, longer, joint=joint)
        x = ChannelAffine(name="mel")(views.astype(jnp.float32)).astype(dtype)
        squares = rearrange(_stretch(x, c), "n v (r t) m -> n v (r m) t", r=c.folds)
        embed = PatchEmbed(c.width, c.patch, dtype, name="patch")
        x = embed(squares[:, 0, ..., None])
        if c.fusion and (longer is not None or self.is_initializing()):
            fused = self._fuse(x, squares)
            x = fused if longer is None else jnp.where(longer[:, None, None], fused, x)
        x = LayerNorm(EPSILON, dtype, name="patch_norm")(x)
        for stage, (depth, heads) in enumerate(zip(c.depths, c.heads, strict=True)):
            if stage:
                x = MergeNeighbours(dtype, EPSILON, name=f"merge_{stage}")(x)
            x = Stage(
                c,
                depth,
                heads,
                before=sum(c.depths[:stage]),
                deterministic=deterministic,
                name=f"stage_{stage}",
            )(x)
        x = LayerNorm(EPSILON, dtype, name="norm")(x)
        x = rearrange(
            x,
            "n (r f t) d -> n (r t f) d",
            r=c.folds,
            t=c.grid >> (len(c.depths) - 1),
        )
        if joint or (c.projection and self.is_initializing()):
            project = Mlp(c.projection, c.projection, dtype, activation="relu", name="projection")
            embedding = project(x.mean(1))
        return embedding if joint else x

    def _views(self, mel: jax.Array, longer: jax.Array | None, *, joint: bool) -> jax.Array:
        """The input as ``[N, V, T, M]``, checked."""
        c = self.config
        views = mel[:, None] if mel.ndim == 3 else mel
        most = c.side * c.folds
        if views.ndim != 4 or views.shape[3] != c.mels or not 4 <= views.shape[2] <= most:
            raise ValueError(
                f"spectrograms must be [N, T, {c.mels}] with T from 4 to {most}, got {mel.shape}"
            )
        if views.shape[1] != (1 if longer is None else VIEWS) or (
            longer is not None and not c.fusion
        ):
            raise ValueError("four views of a sound need a tower with fusion, and `longer`")
        if joint and not c.projection:
            raise ValueError("joint embeddings need an HTS-AT with a projection")
        if c.fusion and self.is_initializing():
            views = jnp.broadcast_to(views[:, :1], (len(views), VIEWS, *views.shape[2:]))
        return views

    def _fuse(self, x: jax.Array, squares: jax.Array) -> jax.Array:
        """The whole sound's patches joined with those of its three parts, side by side in time."""
        c = self.config
        wide = c.patch * LOCAL_STRETCH
        whole = c.side // wide * wide
        dtype = jnp.dtype(c.dtype)
        embed = PatchEmbed(c.width, c.patch, dtype, stretch=LOCAL_STRETCH, name="local_patch")
        parts = rearrange(squares[:, 1:, :, :whole], "n v h w -> (n v) h w 1")
        parts = rearrange(embed(parts), "(n v) (h w) d -> n h (v w) d", v=VIEWS - 1, h=c.grid)
        parts = jnp.pad(parts, ((0, 0), (0, 0), (0, c.grid - parts.shape[2]), (0, 0)))
        parts = parts.reshape(x.shape)
        return AttentionalFusion(c.width // c.fusion_ratio, dtype, name="fusion")(x, parts)


class ChannelAffine(nn.Module):
    """A batch norm that does not learn: a scale and a bias for each of the last axis' channels."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """The same shape, in float32."""
        row = (1,) * (x.ndim - 1) + (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],)).astype(jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],)).astype(jnp.float32)
        return x.astype(jnp.float32) * scale.reshape(row) + bias.reshape(row)


class AttentionalFusion(nn.Module):
    """Attentional feature fusion (Dai et al., arXiv 2009.14082): a learned share of each side."""

    hidden: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, other: jax.Array) -> jax.Array:
        """Two ``[N, L, width]`` to one."""
        both = x + other
        here = Squeeze(self.hidden, self.dtype, name="local")(both)
        everywhere = Squeeze(self.hidden, self.dtype, name="whole")(both.mean(1, keepdims=True))
        share = nn.sigmoid(here + everywhere)
        return 2.0 * x * share + 2.0 * other * (1.0 - share)


class Squeeze(nn.Module):
    """Two convolutions of one pixel, each with its batch norm; ReLU between them."""

    hidden: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for name, width in (("1", self.hidden), ("2", x.shape[-1])):
            dense = nn.Dense(width, dtype=self.dtype, kernel_init=fan_in, name=f"fc{name}")
            x = ChannelAffine(name=f"norm{name}")(dense(x)).astype(self.dtype)
            x = nn.relu(x) if name == "1" else x
        return x


class Stage(nn.Module):
    """The blocks of one resolution, in pairs: whole windows, then shifted ones."""

    config: HtsatConfig
    depth: int
    heads: int
    before: int
    deterministic: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[N, G · G, width]`` → the same."""
        c = self.config
        return run_blocks(
            Pair,
            x,
            layers=self.depth // 2,
            scan=c.scan,
            remat=c.remat,
            config=c,
            heads=self.heads,
            before=self.before,
            deterministic=self.deterministic,
        )


class Pair(nn.Module):
    """Two Swin blocks; the second's windows are shifted by half unless one window sees all."""

    config: HtsatConfig
    heads: int
    before: int
    deterministic: bool

    @nn.compact
    def __call__(self, x: jax.Array, layer: jax.Array) -> tuple[jax.Array, None]:
        c = self.config
        dtype = jnp.dtype(c.dtype)
        x = split_batch(x)
        width = x.shape[-1]
        side = round(x.shape[1] ** 0.5)
        for number, part in enumerate(("whole", "shifted")):
            shift = c.window // 2 if number and side > c.window else 0
            attend = WindowAttention(
                self.heads, c.window, shift, dtype, c.attention, name=f"{part}_window"
            )
            mlp = Mlp(MLP_RATIO * width, width, dtype, name=f"{part}_mlp")
            place = self.before + 2 * layer + number
            y = attend(LayerNorm(EPSILON, dtype, name=f"{part}_norm1")(x))
            x = x + self._noise(y, place)
            # As published, only the attention has stochastic depth.
            x = x + mlp(LayerNorm(EPSILON, dtype, name=f"{part}_norm2")(x))
        return x, None

    def _noise(self, branch: jax.Array, place: jax.Array) -> jax.Array:
        c = self.config
        if self.deterministic or c.drop_path == 0.0:
            return branch
        rate = place.astype(jnp.float32) * (c.drop_path / max(sum(c.depths) - 1, 1))
        return drop_path(branch, rate, self.make_rng("dropout"))


def _stretch(x: jax.Array, config: HtsatConfig) -> jax.Array:
    """``[N, V, T, M]`` to as many frames as the square holds."""
    frames = config.side * config.folds
    if x.shape[2] == frames:
        return x
    matrix = jnp.asarray(cubic_matrix(x.shape[2], frames), x.dtype)
    return jnp.einsum("ts,nvsm->nvtm", matrix, x)


def from_torch(state: Mapping[str, np.ndarray], config: HtsatConfig) -> dict[str, Any]:
    """Parameters from the audio tower of a CLAP state dict.

    Args:
        state: keys as in transformers' ``ClapModel``, the prefix ``audio_model.audio_encoder.``
            stripped; ``audio_projection.*`` as it is.
        config: sizes.

    Raises:
        UserError: naming every unused, missing or mis-shaped key.
    """
    plain = replace(config, scan=False)
    mel = jax.ShapeDtypeStruct((1, config.side, config.mels), jnp.float32)
    return convert(
        fold_batch_norms(state),
        table(config.depths, fusion=config.fusion, projection=bool(config.projection)),
        shapes=shapes_of(partial(Htsat(plain).init, deterministic=True), mel),
        model="HTS-AT",
        scan=config.scan,
        ignore=frozenset(key for key in state if key.endswith(BUFFERS)),
    )
