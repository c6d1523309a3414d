"""How things look: procedural textures of grounds and materials, and the light on them.

Everything is a pure function of [H, W] arrays inside the ray-caster's program. Colours are linear
and become display values by a square root (a gamma of 2).
"""

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Vector = tuple[Array, Array, Array]

PLAIN = 0
MATERIALS = {"wood": 1, "metal": 2, "glass": 3, "plastic": 4, "stone": 5, "cloth": 6}
GROUNDS = {
    "planks": 0,
    "tiles": 1,
    "grass": 2,
    "gravel": 3,
    "snow": 4,
    "water": 5,
    "sand": 6,
    "carpet": 7,
}

# Display colours (squared below): dark and light shade of every ground.
_GROUND_COLOURS = np.array(
    [
        [[0.42, 0.26, 0.14], [0.68, 0.45, 0.26]],
        [[0.62, 0.60, 0.56], [0.90, 0.88, 0.82]],
        [[0.16, 0.36, 0.08], [0.36, 0.60, 0.18]],
        [[0.26, 0.26, 0.27], [0.66, 0.64, 0.62]],
        [[0.86, 0.89, 0.95], [0.98, 0.99, 1.00]],
        [[0.05, 0.25, 0.42], [0.30, 0.60, 0.72]],
        [[0.72, 0.56, 0.34], [0.90, 0.76, 0.52]],
        [[0.38, 0.08, 0.16], [0.58, 0.18, 0.26]],
    ],
    dtype=np.float32,
)


def _hash(x: Array, y: Array) -> Array:
    """White noise in [0, 1) of integer cells (a mix of odd multipliers and shifts)."""
    h = x.astype(jnp.int32).astype(jnp.uint32) * np.uint32(0x8DA6B343)
    h = h ^ (y.astype(jnp.int32).astype(jnp.uint32) * np.uint32(0xD8163841))
    h = (h ^ (h >> 15)) * np.uint32(0x2C1B3C6D)
    h = (h ^ (h >> 12)) * np.uint32(0x297A2D39)
    return ((h ^ (h >> 15)) >> 8).astype(jnp.float32) * (1.0 / 16777216.0)


def _smooth_noise(x: Array, y: Array) -> Array:
    u, v = x - jnp.floor(x), y - jnp.floor(y)
    u, v = u * u * (3.0 - 2.0 * u), v * v * (3.0 - 2.0 * v)
    x, y = jnp.floor(x), jnp.floor(y)
    near = _hash(x, y) * (1.0 - u) + _hash(x + 1.0, y) * u
    far = _hash(x, y + 1.0) * (1.0 - u) + _hash(x + 1.0, y + 1.0) * u
    return near * (1.0 - v) + far * v


def _line(x: Array, width: float, soft: Array) -> Array:
    """1 on the integer lines of x, fading out over `soft` (grows with distance: no shimmer)."""
    gap = jnp.abs(x - jnp.round(x))
    return jnp.clip((width + soft - gap) / jnp.maximum(soft, 1e-3), 0.0, 1.0)


def _planks(x: Array, y: Array, soft: Array, fade: Array, noise: Vector) -> Array:
    row = jnp.floor(y / 0.24)
    board = _hash(jnp.floor(x / 1.7 + 0.37 * row), row)
    level = 0.25 + 0.5 * board + 0.25 * _smooth_noise(x * 2.0, y * 40.0)
    return level * (1.0 - 0.85 * _line(y / 0.24, 0.03, soft * 3.0))


def _tiles(x: Array, y: Array, soft: Array, fade: Array, noise: Vector) -> Array:
    odd = (jnp.floor(x / 0.5) + jnp.floor(y / 0.5)) * 0.5
    joints = jnp.maximum(_line(x / 0.5, 0.015, soft), _line(y / 0.5, 0.015, soft))
    return (0.15 + 1.6 * (odd - jnp.floor(odd))) * (1.0 - 0.6 * joints)


def _grass(x: Array, y: Array, soft: Array, fade: Array, noise: Vector) -> Array:
    blades = _hash(jnp.floor(x * 40.0), jnp.floor(y * 14.0))
    return 0.35 * noise[0] + 0.65 * (0.5 + fade * (blades - 0.5))


def _gravel(x: Array, y: Array, soft: Array, fade: Array, noise: Vector) -> Array:
    return 0.5 + fade * (0.75 * noise[1] + 0.55 * noise[2] - 0.65)


def _snow(x: Array, y: Array, soft: Array, fade: Array, noise: Vector) -> Array:
    return 0.25 + 0.6 * noise[0] + 0.15 * noise[1]


def _water(x: Array, y: Array, soft: Array, fade: Array, noise: Vector) -> Array:
    waves = jnp.sin(9.0 * x + 5.0 * noise[0] + 3.0 * y)
    return 0.5 + 0.3 * waves + 0.25 * fade * (noise[1] - 0.5)


def _sand(x: Array, y: Array, soft: Array, fade: Array, noise: Vector) -> Array:
    ripples = jnp.sin(14.0 * y + 7.0 * noise[0])
    return 0.5 + fade * (0.35 * ripples + 0.3 * (noise[2] - 0.5))


def _carpet(x: Array, y: Array, soft: Array, fade: Array, noise: Vector) -> Array:
    return 0.45 + 0.5 * _line(y / 0.4 + 0.5, 0.12, soft) + fade * 0.3 * (noise[2] - 0.5)


_GROUNDS = (_planks, _tiles, _grass, _gravel, _snow, _water, _sand, _carpet)


def ground(
    point: Vector, distance: Array, codes: Array, change: Array
) -> tuple[Array, Array, Array]:
    """Texture of the ground plane at `point`.

    Returns:
      Whether a pixel lies before the change, the texture's level in [0, 1] (both [H, W]), and the
      four linear colours that it mixes, [3, 4] (dark and light, before and after the change).
    """
    x, y = point[0], point[1]
    soft, fade = 0.012 * distance, 1.0 / (1.0 + (distance / 7.0) ** 2)
    noise = (
        _smooth_noise(x * 2.3, y * 2.3),
        _smooth_noise(x * 13.0, y * 13.0),
        _hash(jnp.floor(x * 28.0), jnp.floor(y * 28.0)),
    )
    # A switch computes one texture where a select would compute all of them.
    first = jax.lax.switch(codes[0], _GROUNDS, x, y, soft, fade, noise)
    second = jax.lax.cond(
        codes[1] == codes[0],
        lambda: first,
        lambda: jax.lax.switch(codes[1], _GROUNDS, x, y, soft, fade, noise),
    )
    before = x + 0.06 * jnp.sin(y * 17.0) < change
    colours = jnp.concatenate([jnp.asarray(_GROUND_COLOURS**2)[codes[k]] for k in range(2)])
    return before, jnp.clip(jnp.where(before, first, second), 0.0, 1.0), colours.T


def _plain(local: Vector, normal: Vector, d: Vector) -> Array:
    return jnp.ones_like(local[0])


def _wood(local: Vector, normal: Vector, d: Vector) -> Array:
    rings = _smooth_noise((local[0] + local[1]) * 5.0, local[2] * 14.0)
    return 0.72 + 0.28 * jnp.sin(42.0 * local[2] + 9.0 * rings)


def _metal(local: Vector, normal: Vector, d: Vector) -> Array:
    # Mirrors a made-up room: bright above, bands at the horizon.
    facing = normal[0] * d[0] + normal[1] * d[1] + normal[2] * d[2]
    up = d[2] - 2.0 * facing * normal[2]
    brushed = _smooth_noise((local[0] - local[1]) * 3.0, local[2] * 55.0)
    return 0.3 + 0.9 * jnp.clip(up, 0.0, 1.0) + 0.35 * jnp.sin(14.0 * up) + 0.4 * brushed


def _glass(local: Vector, normal: Vector, d: Vector) -> Array:
    facing = normal[0] * d[0] + normal[1] * d[1] + normal[2] * d[2]
    return 0.7 + 0.5 * (1.0 - jnp.clip(-facing, 0.0, 1.0)) ** 2


def _stone(local: Vector, normal: Vector, d: Vector) -> Array:
    x, y, z = (jnp.floor(c * 26.0) for c in local)
    return 0.45 + 0.75 * _hash(x + 7.0 * y, z)


def _cloth(local: Vector, normal: Vector, d: Vector) -> Array:
    odd = sum(jnp.floor(c * 11.0) for c in local) * 0.5
    return 0.6 + 0.8 * (odd - jnp.floor(odd))


_MATERIALS = (_plain, _wood, _metal, _glass, _plain, _stone, _cloth)


def solid_level(local: Vector, normal: Vector, d: Vector, code: Array, used: Array) -> Array:
    """Texture of the solids, a factor on their colour, [H, W].

    Args:
      local: points relative to the anchor of their solid.
      normal: unit normals.
      d: viewing directions.
      code: [H, W] surface codes.
      used: [1 + n] how many codes the scene has, then the codes.
    """

    def paint(k: Array, level: Array) -> Array:
        mine = jax.lax.switch(used[k], _MATERIALS, local, normal, d)
        return jnp.where(code == used[k].astype(jnp.float32), mine, level)

    return jax.lax.fori_loop(1, used[0] + 1, paint, jnp.ones_like(code))


def shade(
    on_ground: Array,
    sky: Array,
    ground: tuple[Array, Array, Array],
    level: Array,
    looks: list[Array],
    normal: Vector,
    d: Vector,
    distance: Array,
    free: Array,
    light: Array,
) -> Array:
    """Puts the light on everything: [H, W, 3] uint8."""
    before, ground_level, ground_colours = ground
    sun, haze, halo = light[0], light[5, 0], light[5, 1]
    towards = d[0] * sun[0] + d[1] * sun[1] + d[2] * sun[2]
    lit = normal[0] * sun[0] + normal[1] * sun[1] + normal[2] * sun[2]
    facing = normal[0] * d[0] + normal[1] * d[1] + normal[2] * d[2]
    direct = jnp.where(free, jnp.maximum(lit, 0.0), 0.0)
    around = 0.65 + 0.35 * normal[2]
    clear = jnp.exp(-haze * distance)
    mirrored = jnp.maximum(towards - 2.0 * facing * lit, 0.0) ** 32
    gloss = jnp.where(free & ~on_ground, looks[4] * mirrored, 0.0)
    glow = halo * jnp.maximum(towards, 0.0) ** 24
    height = jnp.clip(d[2] * 2.2, 0.0, 1.0)
    rim = (1.0 - jnp.clip(-facing, 0.0, 1.0)) ** 2
    # Glass lets light through: whitish, more so at its rim.
    white = jnp.where(looks[3] == float(MATERIALS["glass"]), 0.2 + 0.45 * rim, 0.0)

    # A loop over the channels, because XLA would compute the shared terms again for each.
    def channel(of: tuple[Array, Array, Array]) -> Array:
        surface, lights, shades = of
        dark = jnp.where(before, shades[0], shades[2])
        bright = jnp.where(before, shades[1], shades[3])
        below = dark + (bright - dark) * ground_level
        own = jnp.where(on_ground, below, surface * surface * level * (1.0 - white) + white)
        seen = own * (lights[2] * around + lights[1] * direct) + gloss * lights[1]
        air = lights[4] + (lights[3] - lights[4]) * height + glow * lights[1]
        linear = jnp.where(sky, air, seen * clear + lights[4] * (1.0 - clear))
        return jnp.sqrt(jnp.clip(linear, 0.0, 1.0)) * 255.0 + 0.5

    channels = jax.lax.map(channel, (jnp.stack(looks[:3]), light.T, ground_colours))
    return jnp.moveaxis(channels, 0, -1).astype(jnp.uint8)
