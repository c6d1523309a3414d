"""GRAM by score: every score of `weavejax.losses.SCORES` alone, other objectives, views and anchors.

Three seeds each, all with the matching loss and its second stage, all from one initialisation: 300
steps of the objective that GRAM's own starting point was trained by (VAST's). Some of them learn from
clips of which half have lost a stream.

Command: python -m weavejax.train --config configs/gram.py:small --sweep configs/sweeps/gram_scores.py
         after python -m weavejax.train --config configs/gram.py:small --config.data.options.test=512
         python -m weavejax.evaluate --compare runs/gram_scores --metrics stages
         (a SLURM job array: --array=0-95 launch/slurm.sbatch --sweep configs/sweeps/gram_scores.py)
Hardware: 2 CPU cores, 6 GB; data of `configs/gram.py`, rendered once
Time:    two runs at a time, each on one core of an AMD EPYC with --config.runtime.workers=0: 135 s a
         run, 155 s the first of a setting (other seeds are the same program)
Result:  runs/gram_scores/compare.md, with intervals; table and picture in the README
"""

SHARED = {
    "init.weights": "runs/gram-small",
    "init.partial": (
        r"^head/fused/",
        r"^score/",
        r"^bias$",
    ),  # what one score has and another has not
    "steps": 150,
    "data.options.test": 512,
    "loss.views": "whole",
    "runtime.evaluate_every": 150,
}
ALONE = {"loss.warmup_steps": 0}
RUNS = {
    "volume-after-cosine": {"loss.warmup_steps": 60},
    **{
        score: {**ALONE, "loss.score": score}
        for score in (
            "cosine",
            "sum_cosine",
            "fused_cosine",
            "volume",
            "normalised_volume",
            "log_volume",
            "shifted_volume",
            "blended_volume",
            "triangle",
            "triangle_cosine",
            "multilinear",
            "singular_value",
            "centroid",
            "weighted_centroid",
            "hybrid",
        )
    },
    "sigmoid": {**ALONE, "loss.score": "cosine", "loss.objective": "sigmoid"},
    # It trains no fused vector, by which it is searched as published: here by what it does train.
    "pmrl": {
        **ALONE,
        "loss.objective": "pmrl",
        "loss.score": "singular_value",
        "loss.temperature": 0.05,  # as published
        "loss.matching": 0.0,
        "loss.candidates": 0,
    },
    "each-anchor": {**ALONE, "loss.score": "shifted_volume", "loss.anchor": "each"},
    "subsets": {**ALONE, "loss.score": "shifted_volume", "loss.views": "subsets"},
    "random-views": {**ALONE, "loss.score": "shifted_volume", "loss.views": "random"},
    "half-gradient": {**ALONE, "loss.score": "shifted_volume", "loss.gradient": "half"},
    "mean-imputed": {**ALONE, "loss.score": "shifted_volume", "loss.missing": "mean"},
    "ppca-imputed": {**ALONE, "loss.score": "shifted_volume", "loss.missing": "ppca"},
    "volume-unclipped": {**ALONE, "loss.score": "volume", "optim.clip": 0.0},
}
WORN = {
    f"{name}-worn": {**RUNS[name], "inputs.lacking": 0.5}
    for name in ("cosine", "volume", "shifted_volume", "hybrid", "mean-imputed", "ppca-imputed")
}
WORN["dropped-worn"] = {**WORN["shifted_volume-worn"], "loss.missing": "drop"}
SEEDS = (0, 1, 2)


def get_sweep():
    """(name, overrides) of every run."""
    for name, overrides in {**RUNS, **WORN}.items():
        for seed in SEEDS:
            yield f"{name}-{seed}", {**SHARED, **overrides, "seed": seed}
