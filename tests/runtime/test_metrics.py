"""Metrics merge exactly: never an average of averages."""

import jax.numpy as jnp
import numpy as np

from weavejax.runtime.metrics import merge, per_step, values


def test_unequal_parts_merge_to_the_mean_of_all():
    numbers = np.arange(10.0)
    parts = [numbers[:1], numbers[1:4], numbers[4:]]
    merged = None
    for part in parts:
        merged = merge(merged, {"x": (part.sum(), float(len(part)))})
    assert values(merged) == {"x": numbers.mean()}
    assert np.mean([part.mean() for part in parts]) != numbers.mean()


def test_a_quantity_per_step_averages_over_steps_and_nothing_counted_is_nan():
    merged = merge(
        merge(None, {"rate": per_step(jnp.float32(1))}), {"rate": per_step(jnp.float32(3))}
    )
    assert values(merged) == {"rate": 2.0}
    assert np.isnan(values({"x": (0.0, 0.0)})["x"])
