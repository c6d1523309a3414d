"""What to do about a modality that a clip lacks.

Each way is a function (vectors [B,M,D], present bool [B,M]) → (vectors, present) on unit vectors; a
clip without any modality stays as it is. "phantom" is the default: scores leave absent modalities out,
which for a volume is an orthonormal phantom axis.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import jax
import jax.numpy as jnp
from jax import Array, lax

from weavejax.losses.score import Score

HIGHEST = lax.Precision.HIGHEST
LATENT = 16  # dimensions of the probabilistic PCA
FITTED = 512  # complete clips it is fitted to, at most
EPSILON = 1e-6


def phantom(vectors_bmd: Array, present_bm: Array) -> tuple[Array, Array]:
    """Leave absent modalities out."""
    return vectors_bmd, present_bm


def drop(vectors_bmd: Array, present_bm: Array) -> tuple[Array, Array]:
    """Leave out every clip that is not complete, as published evaluations do."""
    return vectors_bmd, present_bm & present_bm.all(1, keepdims=True)


def mean(vectors_bmd: Array, present_bm: Array) -> tuple[Array, Array]:
    """The mean direction of that modality in the batch stands in."""
    seen_bmd = jnp.where(present_bm[..., None], vectors_bmd, 0.0)
    centre_md = lax.stop_gradient(_unit(seen_bmd.sum(0)))
    known_m = present_bm.any(0)
    return _filled(
        vectors_bmd, present_bm, jnp.broadcast_to(centre_md[None], seen_bmd.shape), known_m
    )


def ppca(vectors_bmd: Array, present_bm: Array) -> tuple[Array, Array]:
    """What the present modalities let expect of the absent one, by probabilistic PCA.

    Tipping and Bishop (1999): x = W z + μ + noise over a clip's vectors side by side, fitted in closed
    form to the batch's complete clips, E[x_absent | x_present] made a unit vector; CalMRL (ICML 2026)
    imputes so, with its EM over incomplete clips as well. No gradient passes through what is made up.
    """
    _, modalities, dim = vectors_bmd.shape
    seen_bmd = lax.stop_gradient(jnp.where(present_bm[..., None], vectors_bmd, 0.0))
    complete_b = present_bm.all(1)
    # The complete clips first; the others among those taken weigh nothing.
    chosen = jnp.argsort(~complete_b, stable=True)[:FITTED]
    weight_n = complete_b[chosen].astype(vectors_bmd.dtype)
    count = jnp.maximum(weight_n.sum(), 1.0)
    rows_nx = seen_bmd[chosen].reshape(len(chosen), modalities * dim)
    centre_x = (weight_n[:, None] * rows_nx).sum(0) / count
    rows_nx = weight_n[:, None] * (rows_nx - centre_x[None])
    # Eigenvectors of the covariance from those of the smaller n×n matrix of products.
    values_n, left_nn = jnp.linalg.eigh(jnp.matmul(rows_nx, rows_nx.T, precision=HIGHEST) / count)
    latent = min(LATENT, len(chosen))
    top_q = jnp.maximum(values_n[::-1][:latent], EPSILON)
    axes_xq = jnp.matmul(rows_nx.T, left_nn[:, ::-1][:, :latent], precision=HIGHEST)
    axes_xq = axes_xq * lax.rsqrt(top_q * count)[None, :]
    rest = jnp.maximum(values_n.sum() - top_q.sum(), 0.0) / max(modalities * dim - latent, 1)
    noise = jnp.maximum(rest, EPSILON)
    loads_mdq = (axes_xq * jnp.sqrt(jnp.maximum(top_q - noise, 0.0))[None, :]).reshape(
        modalities, dim, latent
    )
    centre_md = centre_x.reshape(modalities, dim)
    known_bm = present_bm.astype(vectors_bmd.dtype)
    inner_mqr = jnp.einsum("mdq,mdr->mqr", loads_mdq, loads_mdq, precision=HIGHEST)
    inner_bqr = jnp.einsum("bm,mqr->bqr", known_bm, inner_mqr, precision=HIGHEST)
    inner_bqr = inner_bqr + noise * jnp.eye(latent, dtype=inner_bqr.dtype)[None]
    off_bmd = known_bm[..., None] * (seen_bmd - centre_md[None])
    pull_bq = jnp.einsum("mdq,bmd->bq", loads_mdq, off_bmd, precision=HIGHEST)
    latent_bq = jnp.linalg.solve(inner_bqr, pull_bq[..., None])[..., 0]
    made_bmd = jnp.einsum("mdq,bq->bmd", loads_mdq, latent_bq, precision=HIGHEST) + centre_md[None]
    known_m = jnp.broadcast_to(complete_b.any(), (modalities,))
    return _filled(vectors_bmd, present_bm, lax.stop_gradient(_unit(made_bmd)), known_m)


MISSING: dict[str, Callable[[Array, Array], tuple[Array, Array]]] = {
    "phantom": phantom,
    "drop": drop,
    "mean": mean,
    "ppca": ppca,
}


def standing_in(scores: Mapping[str, Score], missing: str) -> dict[str, Score]:
    """The scores as a model is searched with that learnt with `missing`.

    Under "mean" and "ppca" something of the gallery stands in for what a clip lacks, as something of
    the batch did in training. "drop" is about which clips are learnt from; like "phantom", it leaves
    absent modalities out here. Scores of a fused vector stay as they are: that has its own way.
    """
    if missing not in ("mean", "ppca"):
        return dict(scores)

    def filled(score: Score) -> Score:
        fill, prepare = MISSING[missing], score.prepare
        return replace(score, prepare=lambda clip, present: prepare(*fill(clip, present)))

    return {n: filled(s) if s.sees == "modalities" else s for n, s in scores.items()}


def _filled(
    vectors_bmd: Array, present_bm: Array, made_bmd: Array, known_m: Array
) -> tuple[Array, Array]:
    """With what was made where a modality is absent from a clip that has another."""
    fill_bm = ~present_bm & present_bm.any(1, keepdims=True) & known_m[None]
    return jnp.where(fill_bm[..., None], made_bmd, vectors_bmd), present_bm | fill_bm


def _unit(x: Array) -> Array:
    norm2 = jnp.square(x).sum(-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(norm2, EPSILON**2))
