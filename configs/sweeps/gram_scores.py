"""GRAM by score: each score of `weavejax.losses.SCORES` trained alone and blended, three seeds each.

Command:   python -m weavejax.train --config configs/gram.py --sweep configs/sweeps/gram_scores.py
           python -m weavejax.evaluate --compare runs/gram_scores
           (a SLURM job array: --array=0-11 launch/slurm.sbatch --sweep configs/sweeps/gram_scores.py)
Hardware:  2 CPU cores, 6 GB; data of `configs/gram.py`, rendered once
Time:      about 4 min 30 s a run on 2 cores of an AMD EPYC, so 55 min in all (not run as a whole yet)
Result:    runs/gram_scores/compare.md; one seed of each score stands in `configs/gram.py`
"""

SCORES = {
    "volume": {"loss.score": "volume", "loss.warmup_steps": 0},
    "volume-after-cosine": {"loss.score": "volume", "loss.warmup_steps": 60},
    "shifted_volume": {"loss.score": "shifted_volume", "loss.warmup_steps": 0},
    "cosine": {"loss.score": "cosine", "loss.warmup_steps": 0},
}
SEEDS = (0, 1, 2)


def get_sweep():
    """(name, overrides) of every run."""
    for score, overrides in SCORES.items():
        for seed in SEEDS:
            yield f"{score}-{seed}", {**overrides, "seed": seed}
