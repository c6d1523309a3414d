"""First parameters of small systems, made once for all that have the same ones: they compile slowly."""

import jax

from weavejax.runtime import tree

_made = {}


def initial(system):
    """Parameters of seed 0."""
    shapes = jax.eval_shape(system.init, jax.random.key(0))
    kind = (system.name, str(sorted(tree.flatten(shapes).items())))
    if kind not in _made:
        _made[kind] = jax.jit(system.init)(jax.random.key(0))
    return _made[kind]
