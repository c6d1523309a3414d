"""Singular values of a tuple of unit vectors: PMRL (Liu et al., TPAMI 2026), without an anchor.

Z = [z_1 … z_k] is rank one exactly when all modalities agree; its singular values are the roots of the
eigenvalues of the k×k Gram matrix, so nothing of size D×D is ever formed. The leading left vector is
u_1 = Z v_1/σ_1, its sign fixed by Σ v_1 ≥ 0 (the published code leaves it to chance).
"""

import jax
import jax.numpy as jnp
from jax import Array, lax

from weavejax.losses.score import Learned, Score

HIGHEST = lax.Precision.HIGHEST


def _prepare(clip_bmd: Array, present_bm: Array) -> tuple[Array, Array, Array]:
    clip_bmd = jnp.where(present_bm[:, :, None], clip_bmd, 0.0)
    return clip_bmd, _gram(clip_bmd), lax.rsqrt(1.0 + present_bm.sum(1).astype(clip_bmd.dtype))


def _gram(vectors_bkd: Array) -> Array:
    return jnp.einsum("bkd,bld->bkl", vectors_bkd, vectors_bkd, precision=HIGHEST)


def _leading(anchor_ad: Array, clips: tuple[Array, Array, Array], learned: Learned) -> Array:
    del learned
    clip_bmd, gram_bmn, share_b = clips
    dots_abm = jnp.einsum("ad,bmd->abm", anchor_ad, clip_bmd, precision=HIGHEST)
    own_a = jnp.square(anchor_ad).sum(1)
    shape = (*dots_abm.shape[:2], 1, 1)
    corner = jnp.broadcast_to(own_a.reshape(-1, 1, 1, 1), shape)
    top = jnp.concatenate([corner, dots_abm[:, :, None, :]], 3)
    inside = jnp.broadcast_to(gram_bmn[None], (len(anchor_ad), *gram_bmn.shape))
    rest = jnp.concatenate([dots_abm[..., None], inside], 3)
    squares_abk, _ = _spectrum(jnp.concatenate([top, rest], 2))
    return jnp.sqrt(jnp.maximum(squares_abk[..., 0], 0.5)) * share_b[None, :]


SINGULAR_VALUE = Score(_prepare, _leading)
"""σ_1([a, x_1 … x_M])/√k over the present vectors: 1 when all agree, 1/√k when all are orthogonal."""


@jax.custom_vjp
def _spectrum(gram_kk: Array) -> tuple[Array, Array]:
    """Eigenvalues [..., k], descending, and the leading eigenvector [..., k] of Gram matrices.

    Its derivative is finite where eigenvalues coincide: there the direction that turns freely is
    left out.
    """
    values, vectors = jnp.linalg.eigh(gram_kk)
    return values[..., ::-1], _signed(vectors[..., -1])


def _signed(vector_k: Array) -> Array:
    return vector_k * jnp.where(vector_k.sum(-1, keepdims=True) < 0, -1.0, 1.0)


def _spectrum_forward(gram_kk: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    values, vectors = jnp.linalg.eigh(gram_kk)
    values, vectors = values[..., ::-1], vectors[..., ::-1]
    first = _signed(vectors[..., 0])
    vectors = jnp.concatenate([first[..., None], vectors[..., 1:]], -1)
    return (values, first), (values, vectors)


def _spectrum_backward(saved: tuple[Array, Array], bars: tuple[Array, Array]) -> tuple[Array]:
    values, vectors = saved
    values_bar, first_bar = bars
    gram_bar = jnp.einsum("...ki,...i,...li->...kl", vectors, values_bar, vectors)
    gap = values[..., :1] - values[..., 1:]
    apart = gap > 16 * jnp.finfo(gap.dtype).eps
    turn = jnp.einsum("...ki,...k->...i", vectors[..., 1:], first_bar)
    turn = jnp.where(apart, turn / jnp.where(apart, gap, 1.0), 0.0)
    first_part = jnp.einsum("...ki,...i,...l->...kl", vectors[..., 1:], turn, vectors[..., 0])
    gram_bar = gram_bar + 0.5 * (first_part + first_part.mT)
    return (gram_bar,)


_spectrum.defvjp(_spectrum_forward, _spectrum_backward)


def singular_values(vectors_bkd: Array, present_bk: Array) -> tuple[Array, Array]:
    """Singular values and leading direction of each tuple.

    Args:
      vectors_bkd: unit vectors [B, k, D].
      present_bk: bool [B, k]; an absent vector counts as zero.

    Returns:
      σ [B, k], descending; u_1 [B, D], a unit vector (zero for an empty tuple).
    """
    vectors_bkd = jnp.where(present_bk[..., None], vectors_bkd, 0.0)
    squares_bk, first_bk = _spectrum(_gram(vectors_bkd))
    floor = 4 * jnp.finfo(squares_bk.dtype).eps
    sound_bk = squares_bk > floor  # the root's slope is taken as 0 at rounding level
    sigma_bk = jnp.where(sound_bk, jnp.sqrt(jnp.where(sound_bk, squares_bk, 1.0)), 0.0)
    left_bd = jnp.einsum("bk,bkd->bd", first_bk, vectors_bkd, precision=HIGHEST)
    return sigma_bk, left_bd / jnp.maximum(sigma_bk[:, :1], 0.5)  # σ₁ ≥ 1 unless there is nothing


def pmrl_loss(
    vectors_bkd: Array,
    present_bk: Array,
    *,
    alignment: float | Array = 0.05,
    instance: float | Array = 0.1,
) -> tuple[Array, Array]:
    """−log softmax(σ/τ₁)_1 plus the contrast of the leading directions among clips.

    Args:
      vectors_bkd: unit vectors of all modalities [B, k, D]; none is the anchor.
      present_bk: bool [B, k]; a tuple with fewer than two members takes no part.
      alignment: τ₁ (published: 0.01 when pre-training, 0.05 when fine-tuning).
      instance: τ₂, of −log softmax_j(u_i·u_j/τ₂)_i.

    Returns:
      Sum over the tuples that take part, and their number.
    """
    valid_b = present_bk.sum(1) >= 2
    sigma_bk, left_bd = singular_values(vectors_bkd, present_bk)
    # The largest values belong to the present vectors: absent ones are zero.
    seen_bk = jnp.arange(sigma_bk.shape[1])[None] < jnp.maximum(present_bk.sum(1), 1)[:, None]
    logits_bk = jnp.where(seen_bk, sigma_bk / alignment, -jnp.inf)
    align_b = jax.nn.logsumexp(logits_bk, axis=1) - logits_bk[:, 0]
    sim_bb = jnp.matmul(left_bd, left_bd.T, precision=HIGHEST) / instance
    rival_bb = valid_b[None, :] | jnp.eye(len(sim_bb), dtype=bool)
    instance_b = jax.nn.logsumexp(jnp.where(rival_bb, sim_bb, -jnp.inf), axis=1)
    instance_b = instance_b - jnp.diagonal(sim_bb)
    total = jnp.where(valid_b, align_b + instance_b, 0.0).sum()
    return total, valid_b.sum().astype(total.dtype)
