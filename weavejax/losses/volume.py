r"""The Gramian volume of an anchor and a clip's modalities, factored per clip.

GRAM (Cicchetti et al., ICLR 2025, arXiv 2412.11959, eq. 2) scores anchor a_i against clip j by the
volume of the parallelotope that a_i and the clip's vectors r_j1 … r_jM span:

  V_ij = sqrt(det G(a_i, r_j1, …, r_jM)),   G the k×k Gram matrix, k = M + 1.

The determinant factors into base times height. With q_jm the Gram–Schmidt basis of clip j and h_j
the product of its residual norms (the volume of the clip's own vectors),

  V_ij = h_j · s_ij,   s_ij² = a_i·a_i − Σ_m (a_i·q_jm)².

So k − 1 matrix products replace A·B little determinants: same value, less memory, any k.

Why Gram–Schmidt on the vectors and not Cholesky of their Gram matrix: forming the Gram matrix
squares the condition number, and needs a jitter that biases the volume of tight clips.

Numerics: similarities in `highest` precision; volumes in the input's type (use float32 or wider).
Every derivative is finite: ∂V/∂a = h·(a − Pa)/s has norm at most h, and is taken as 0 where s is
at rounding level (coincident, zero or duplicate vectors, where V = 0 is the minimum).
"""

import jax
import jax.numpy as jnp
from jax import Array, lax

from weavejax.losses.score import Learned, Score

HIGHEST = lax.Precision.HIGHEST
LORENTZ = -2.0
LOG_FLOOR = 1e-4  # added to s² and h under the logarithm, whose slope it bounds


def _volume(anchor_ad: Array, clips: tuple[Array, Array], learned: Learned) -> Array:
    del learned
    return -_base_times_height(anchor_ad, *clips)


def _prepare_normalised(clip_bmd: Array, present_bm: Array) -> tuple[Array, Array]:
    basis_bmd, base_b, _ = gram_schmidt(clip_bmd, present_bm)
    return basis_bmd, jnp.ones_like(base_b)


def _log_volume(anchor_ad: Array, clips: tuple[Array, Array], learned: Learned) -> Array:
    del learned
    basis_bmd, base_b = clips
    height2_ab, _ = _height_squared(anchor_ad, basis_bmd)
    return -0.5 * jnp.log(height2_ab + LOG_FLOOR) - jnp.log(base_b + LOG_FLOOR)[None, :]


def _prepare_shifted(clip_bmd: Array, present_bm: Array) -> tuple[Array, ...]:
    basis_bmd, base_b, lower = gram_schmidt(clip_bmd, present_bm)
    coords_bm = _solve_ones(lower, present_bm)
    touch_bd = jnp.einsum("bm,bmd->bd", coords_bm, basis_bmd, precision=HIGHEST)
    return basis_bmd, base_b, touch_bd, jnp.square(coords_bm).sum(1)


def _shifted_from(anchor_ad: Array, clips: tuple[Array, ...], shift: float) -> Array:
    basis_bmd, base_b, touch_bd, inverse_b = clips
    height2_ab, _ = _height_squared(anchor_ad, basis_bmd)
    gap_ab = 1.0 - jnp.matmul(anchor_ad, touch_bd.T, precision=HIGHEST)
    own_b = 1.0 + shift * inverse_b
    return base_b[None, :] * _safe_sqrt(
        jnp.abs(height2_ab * own_b[None, :] + shift * jnp.square(gap_ab))
    )


def _shifted_volume(anchor_ad: Array, clips: tuple[Array, ...], learned: Learned) -> Array:
    del learned
    return -_shifted_from(anchor_ad, clips, LORENTZ)


def _blended_volume(anchor_ad: Array, clips: tuple[Array, ...], learned: Learned) -> Array:
    alpha = learned["alpha"]
    plain_ab = _base_times_height(anchor_ad, *clips[:2])
    return -(1.0 - alpha) * _shifted_from(anchor_ad, clips, LORENTZ) - alpha * plain_ab


VOLUME = Score(lambda clip, present: gram_schmidt(clip, present)[:2], _volume)
"""−V_ij. V in [0, 1]: 0 when the vectors are linearly dependent, 1 when they are orthogonal. An absent
modality is left out of the Gram matrix, as an orthonormal phantom axis would be."""

NORMALISED_VOLUME = Score(_prepare_normalised, _volume)
"""−V_ij/h_j = −sin of the angle between anchor and the clip's span: the volume without the bias h_j,
which does not depend on the query and favours clips whose own modalities agree."""

LOG_VOLUME = Score(lambda clip, present: gram_schmidt(clip, present)[:2], _log_volume)
"""−log V_ij = −½ log(s_ij² + ε) − log(h_j + ε), ε = 1e-4: a product of ratios; h_j cancels in the
softmax over anchors."""

SHIFTED_VOLUME = Score(_prepare_shifted, _shifted_volume)
r"""−sqrt|det(G − 2·11ᵀ)|: the hyperbolic volume of HyperGRAM (Na et al., CVPR 2026): the Lorentz lift
of unit vectors turns the Gram matrix C into C − 2·11ᵀ. Unlike the bare volume it tells a vector from
its opposite and has a slope at orthogonality (k = 2: sqrt((1 − c)(3 − c))).

By the matrix determinant lemma, with g_j = 1ᵀM_j⁻¹1 and b_ij = a_i·R_jᵀM_j⁻¹1,

  V_ij² = h_j² · |s_ij²·(1 − 2·g_j) − 2·(1 − b_ij)²|."""

BLENDED_VOLUME = Score(_prepare_shifted, _blended_volume, {"alpha": 0.5})
"""−(1 − α)·sqrt|det(G − 2·11ᵀ)| − α·V_ij with a learned α that starts at ½: HyperGRAM's full score."""


def volume(anchor_ad: Array, clip_bmd: Array, present_bm: Array) -> Array:
    """Volume [A, B] of every anchor [A,D] with every clip [B,M,D], unit vectors; `VOLUME` negated."""
    return -VOLUME(anchor_ad, clip_bmd, present_bm)


def shifted_volume(
    anchor_ad: Array, clip_bmd: Array, present_bm: Array, shift: float = LORENTZ
) -> Array:
    """sqrt|det(G + shift·11ᵀ)| [A, B]; arguments as `volume`, see `SHIFTED_VOLUME`."""
    return _shifted_from(anchor_ad, _prepare_shifted(clip_bmd, present_bm), shift)


def gram_schmidt(clip_bmd: Array, present_bm: Array) -> tuple[Array, Array, list[list[Array]]]:
    """Orthonormal basis of each clip's present vectors, and the volume of those vectors.

    Returns:
      basis [B, M, D], zero rows for absent or linearly dependent vectors; volume [B], 1 for an empty
      set and 0 for a dependent one; the lower-triangular coefficients [m][l] → [B] with
      x_m = Σ_l coefficients[m][l] q_l (0 on the diagonal of an absent or dependent row).
    """
    floor = (8 * jnp.finfo(clip_bmd.dtype).eps) ** 2
    basis: list[Array] = []
    lower: list[list[Array]] = []
    base_b = jnp.ones_like(clip_bmd[:, 0, 0])
    for m in range(clip_bmd.shape[1]):
        present_b = present_bm[:, m]
        vector_bd = jnp.where(present_b[:, None], clip_bmd[:, m], 0.0)
        residual_bd = vector_bd
        for _ in range(2):  # once more, so that nearly collinear vectors keep full precision
            for q_bd in basis:
                residual_bd = residual_bd - _dot(residual_bd, q_bd)[:, None] * q_bd
        norm2_b = _dot(residual_bd, residual_bd)
        independent_b = norm2_b > floor * _dot(vector_bd, vector_bd)
        norm_b = jnp.sqrt(jnp.where(independent_b, norm2_b, 1.0))
        q_bd = jnp.where(independent_b[:, None], residual_bd / norm_b[:, None], 0.0)
        length_b = jnp.where(independent_b, norm_b, 0.0)
        lower.append([_dot(vector_bd, q) for q in basis] + [length_b])
        basis.append(q_bd)
        base_b = base_b * jnp.where(present_b, length_b, 1.0)
    return jnp.stack(basis, 1), base_b, lower


def _solve_ones(lower: list[list[Array]], present_bm: Array) -> Array:
    """Forward substitution L y = 1 over the present modalities: [B, M]."""
    y: list[Array] = []
    for m, row in enumerate(lower):
        rest = 1.0 - sum((c * y_l for c, y_l in zip(row[:-1], y, strict=True)), 0.0 * row[-1])
        usable = present_bm[:, m] & (row[-1] > 0)
        y.append(jnp.where(usable, rest / jnp.where(usable, row[-1], 1.0), 0.0))
    return jnp.stack(y, 1)


def _height_squared(anchor_ad: Array, basis_bmd: Array) -> tuple[Array, list[Array]]:
    """Squared distance of each anchor from each clip's span [A, B], and the products a·q."""
    products = [
        jnp.matmul(anchor_ad, basis_bmd[:, m].T, precision=HIGHEST)
        for m in range(basis_bmd.shape[1])
    ]
    inside_ab = sum((jnp.square(p) for p in products[1:]), jnp.square(products[0]))
    return jnp.maximum(_dot(anchor_ad, anchor_ad)[:, None] - inside_ab, 0.0), products


@jax.custom_vjp
def _base_times_height(anchor_ad: Array, basis_bmd: Array, base_b: Array) -> Array:
    height2_ab, _ = _height_squared(anchor_ad, basis_bmd)
    return base_b[None, :] * jnp.sqrt(height2_ab)


def _forward(
    anchor_ad: Array, basis_bmd: Array, base_b: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    # The A×B products are cheap to make again and dear to keep.
    return _base_times_height(anchor_ad, basis_bmd, base_b), (anchor_ad, basis_bmd, base_b)


def _backward(saved: tuple[Array, Array, Array], grad_ab: Array) -> tuple[Array, Array, Array]:
    anchor_ad, basis_bmd, base_b = saved
    height2_ab, products = _height_squared(anchor_ad, basis_bmd)
    sound_ab = height2_ab > 4 * jnp.finfo(height2_ab.dtype).eps
    inverse_ab = jnp.where(sound_ab, lax.rsqrt(jnp.where(sound_ab, height2_ab, 1.0)), 0.0)
    weight_ab = grad_ab * base_b[None, :] * inverse_ab
    anchor_bar = weight_ab.sum(1)[:, None] * anchor_ad
    basis_bar = []
    for m, product_ab in enumerate(products):
        pull_ab = weight_ab * product_ab
        anchor_bar = anchor_bar - jnp.matmul(pull_ab, basis_bmd[:, m], precision=HIGHEST)
        basis_bar.append(-jnp.matmul(pull_ab.T, anchor_ad, precision=HIGHEST))
    base_bar = (grad_ab * jnp.sqrt(height2_ab)).sum(0)
    return anchor_bar, jnp.stack(basis_bar, 1), base_bar


_base_times_height.defvjp(_forward, _backward)


def _dot(x_nd: Array, y_nd: Array) -> Array:
    return jnp.sum(x_nd * y_nd, axis=-1)


def _safe_sqrt(x: Array) -> Array:
    """sqrt with derivative 0 where x is at rounding level."""
    sound = x > 4 * jnp.finfo(x.dtype).eps
    return jnp.where(sound, jnp.sqrt(jnp.where(sound, x, 1.0)), 0.0)
