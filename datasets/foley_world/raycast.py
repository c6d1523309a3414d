"""A small ray-caster for clips: pictures, depth and object ids of a scene of simple solids.

One code path for every camera: `camera_rays` turns pixels into directions (pinhole or
equirectangular) and the rest never asks where a ray came from. World axes are x forward, y left,
z up (as in AmbiX); lengths are metres, angles radians, azimuth left-positive. The ground is the
plane z = 0. Intersections are closed-form (quadratics and slabs); one hard shadow ray per pixel.

Frames are cast one after another (`lax.map`): a frame's arrays then stay in the processor's cache.
Solids are visited in loops of dynamic length, so one compiled program serves all scenes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from . import surfaces

Array = jax.Array
Vector = tuple[Array, Array, Array]
Hit = Callable[[Vector, Vector, Array], Array]
NormalOf = Callable[[Vector, Vector, list[Array]], Vector]

FAR = 1e6  # stands for "no hit"
_NEAR = 1e-3
_SLOTS = 63  # bits that number the slots of all kinds


class Scene(NamedTuple):
    """One clip, ready to cast. T frames; S, B, C, K slots of solids, of which `counts` are used.

    Attributes:
      position: [T, 3] of the camera.
      yaw: [T], left-positive.
      pitch: [T], up-positive.
      fov: [] horizontal field of view of a pinhole camera (not used by equirectangular).
      spheres: [T, S, 4] centre, radius.
      boxes: [T, B, 7] centre, half sizes, yaw.
      cones: [T, C, 6] upright frusta: x, y, bottom z, top z, bottom radius, top radius.
      capsules: [T, K, 7] both ends, radius.
      counts: [4] int32, solids in use of each kind, in the order above.
      looks: [S+B+C+K, 6] for every slot in that order: red, green, blue, surface code, shine, id.
      textures: [1 + materials] int32, how many surface codes are in use, then those codes.
      ground: [2] surface codes before and after x = `change`.
      change: [] where along x the ground changes.
      light: [6, 3] towards the sun (unit), sun, ambient, zenith, horizon colours,
        and (haze per metre, sky brightness of the sun's halo, 0).
    """

    position: Any
    yaw: Any
    pitch: Any
    fov: Any
    spheres: Any
    boxes: Any
    cones: Any
    capsules: Any
    counts: Any
    looks: Any
    textures: Any
    ground: Any
    change: Any
    light: Any


def camera_rays(
    projection: str, size: tuple[int, int], yaw: Array, pitch: Array, reach: Array
) -> Vector:
    """Unit directions in the world of all pixels, three [H, W] arrays.

    Args:
      projection: "pinhole", or "equirectangular" (column 0 looks to azimuth +180°).
      size: (H, W) in pixels.
      yaw: [2] cosine and sine of the camera's.
      pitch: [2] cosine and sine of the camera's.
      reach: [] tangent of half the horizontal field of view, pinhole only.
    """
    height, width = size
    rows = jnp.broadcast_to(((jnp.arange(height, dtype=jnp.float32) + 0.5) / height)[:, None], size)
    columns = jnp.broadcast_to(
        ((jnp.arange(width, dtype=jnp.float32) + 0.5) / width)[None, :], size
    )
    if projection == "pinhole":
        left, up = reach * (1.0 - 2.0 * columns), reach * height / width * (1.0 - 2.0 * rows)
        length = jnp.sqrt(1.0 + left * left + up * up)
        forward, left, up = 1.0 / length, left / length, up / length
    else:
        azimuth, elevation = jnp.pi * (1.0 - 2.0 * columns), jnp.pi * (0.5 - rows)
        forward = jnp.cos(elevation) * jnp.cos(azimuth)
        left = jnp.cos(elevation) * jnp.sin(azimuth)
        up = jnp.sin(elevation)
    level = forward * pitch[0] - up * pitch[1]
    up = forward * pitch[1] + up * pitch[0]
    return (
        level * yaw[0] - left * yaw[1],
        level * yaw[1] + left * yaw[0],
        up,
    )


def _dot(a: Vector, b: Vector) -> Array:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _minus(a: Vector, b: Vector) -> Vector:
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


def _nearest(t: Array, hit: Array) -> Array:
    return jnp.where(hit & (t > _NEAR), t, FAR)


def _root(square: Array) -> Array:
    return jnp.sqrt(jnp.maximum(square, 0.0))


def _sphere(o: Vector, d: Vector, p: Array) -> Array:
    from_centre = _minus(o, (p[0], p[1], p[2]))
    b = _dot(from_centre, d)
    inside = b * b - _dot(from_centre, from_centre) + p[3] * p[3]
    return _nearest(-b - _root(inside), inside > 0.0)


def _turn(v: Vector, cos: Array, sin: Array) -> Vector:
    return v[0] * cos + v[1] * sin, v[1] * cos - v[0] * sin, v[2]


def _box(o: Vector, d: Vector, p: Array) -> Array:
    origin = _turn(_minus(o, (p[0], p[1], p[2])), p[6], p[7])
    enter, leave = jnp.float32(-FAR), jnp.float32(FAR)
    for axis, along in enumerate(_turn(d, p[6], p[7])):
        inverse = 1.0 / jnp.where(jnp.abs(along) < 1e-7, 1e-7, along)
        middle, half = -origin[axis] * inverse, p[3 + axis] * jnp.abs(inverse)
        enter, leave = jnp.maximum(enter, middle - half), jnp.minimum(leave, middle + half)
    return _nearest(enter, enter < leave)


def _cone(o: Vector, d: Vector, p: Array) -> Array:
    x, y, low, high, wide, top = (p[k] for k in range(6))
    slope = (top - wide) / (high - low)
    ox, oy, radius = o[0] - x, o[1] - y, wide + slope * (o[2] - low)
    a = d[0] * d[0] + d[1] * d[1] - slope * slope * d[2] * d[2]
    a = jnp.where(jnp.abs(a) < 1e-6, 1e-6, a)
    b = ox * d[0] + oy * d[1] - slope * d[2] * radius
    inside = b * b - a * (ox * ox + oy * oy - radius * radius)
    t = (-b - _root(inside)) / a
    z = o[2] + t * d[2]
    side = _nearest(t, (inside > 0.0) & (z > low) & (z < high))
    # Only the top cap: nothing looks at one of these from below.
    cap = (high - o[2]) / jnp.where(jnp.abs(d[2]) < 1e-7, 1e-7, d[2])
    u, v = ox + cap * d[0], oy + cap * d[1]
    return jnp.minimum(side, _nearest(cap, u * u + v * v < top * top))


def _capsule(o: Vector, d: Vector, p: Array) -> Array:
    axis = (p[3] - p[0], p[4] - p[1], p[5] - p[2])
    from_a, square = _minus(o, (p[0], p[1], p[2])), p[6] * p[6]
    length, along = _dot(axis, axis), _dot(axis, d)
    start, b = _dot(axis, from_a), _dot(d, from_a)
    a = length - along * along
    half = length * b - start * along
    inside = half * half - a * (length * (_dot(from_a, from_a) - square) - start * start)
    t = (-half - _root(inside)) / jnp.maximum(a, 1e-9)
    place = start + t * along
    body = _nearest(t, (inside > 0.0) & (place > 0.0) & (place < length))
    ends = jnp.minimum(
        _sphere(o, d, p[jnp.array([0, 1, 2, 6])]), _sphere(o, d, p[jnp.array([3, 4, 5, 6])])
    )
    return jnp.minimum(body, ends)


_KINDS: tuple[Hit, ...] = (_sphere, _box, _cone, _capsule)


def _solids(frame: Scene) -> tuple[Array, ...]:
    return frame.spheres, frame.boxes, frame.cones, frame.capsules


def _first_hit(o: Vector, d: Vector, frame: Scene) -> tuple[Array, Array]:
    """Distance to the nearest solid (FAR for none) and its slot, both [H, W].

    Positive floats sort as their bits do, so the slot rides in the distance's lowest bits (2⁻¹⁷ of
    the distance): one array to keep, where two would make XLA intersect every solid twice.
    """
    best = jnp.full(d[0].shape, _bits(jnp.float32(FAR)) | _SLOTS, jnp.int32)
    first = 0
    for kind, (hit, solids) in enumerate(zip(_KINDS, _solids(frame), strict=True)):

        def visit(
            k: Array, best: Array, hit: Hit = hit, solids: Array = solids, first: int = first
        ) -> Array:
            return jnp.minimum(best, (_bits(hit(o, d, solids[k])) & ~_SLOTS) | (first + k))

        best = jax.lax.fori_loop(0, frame.counts[kind], visit, best)
        first += solids.shape[0]
    t = jax.lax.bitcast_convert_type(best & ~_SLOTS, jnp.float32)
    return jnp.where(t < 0.99 * FAR, t, FAR), best & _SLOTS


def _bits(t: Array) -> Array:
    return jax.lax.bitcast_convert_type(t, jnp.int32)


def _lit(o: Vector, sun: Vector, frame: Scene) -> Array:
    """[H, W] true where nothing stands between the points `o` and the sun."""
    nearest = jnp.full(o[0].shape, FAR, jnp.float32)
    for kind, (hit, solids) in enumerate(zip(_KINDS, _solids(frame), strict=True)):

        def visit(k: Array, nearest: Array, hit: Hit = hit, solids: Array = solids) -> Array:
            return jnp.minimum(nearest, hit(o, sun, solids[k]))

        nearest = jax.lax.fori_loop(0, frame.counts[kind], visit, nearest)
    return nearest >= FAR


def _sphere_normal(point: Vector, local: Vector, p: list[Array]) -> Vector:
    return local[0] / p[3], local[1] / p[3], local[2] / p[3]


def _box_normal(point: Vector, local: Vector, p: list[Array]) -> Vector:
    x, y, z = _turn(local, p[6], p[7])
    ax, ay, az = jnp.abs(x / p[3]), jnp.abs(y / p[4]), jnp.abs(z / p[5])
    level = az >= jnp.maximum(ax, ay)
    across = ax > ay
    facing = (
        jnp.where(~level & across, jnp.sign(x), 0.0),
        jnp.where(~level & ~across, jnp.sign(y), 0.0),
        jnp.where(level, jnp.sign(z), 0.0),
    )
    return _turn(facing, p[6], -p[7])


def _cone_normal(point: Vector, local: Vector, p: list[Array]) -> Vector:
    slope = (p[5] - p[4]) / (p[3] - p[2])
    lean = jax.lax.rsqrt(1.0 + slope * slope)
    on_top = point[2] > p[3] - 1e-3
    out = lean / jnp.maximum(p[4] + slope * (point[2] - p[2]), 1e-3)
    return (
        jnp.where(on_top, 0.0, local[0] * out),
        jnp.where(on_top, 0.0, local[1] * out),
        jnp.where(on_top, 1.0, -slope * lean),
    )


def _capsule_normal(point: Vector, local: Vector, p: list[Array]) -> Vector:
    axis = (p[3] - p[0], p[4] - p[1], p[5] - p[2])
    place = jnp.clip(_dot(local, axis) / jnp.maximum(_dot(axis, axis), 1e-9), 0.0, 1.0)
    return (
        (local[0] - place * axis[0]) / p[6],
        (local[1] - place * axis[1]) / p[6],
        (local[2] - place * axis[2]) / p[6],
    )


_NORMALS = (_sphere_normal, _box_normal, _cone_normal, _capsule_normal)


def _normals(point: Vector, slot: Array, frame: Scene) -> tuple[Vector, Vector]:
    """Unit normals at the hit points, and the points relative to their solid's anchor."""
    solids = _solids(frame)
    rows = jnp.concatenate([jnp.pad(s, ((0, 0), (0, 8 - s.shape[1]))) for s in solids])
    p = [rows[:, k][slot] for k in range(8)]
    local = _minus(point, (p[0], p[1], p[2]))
    normal: Vector = (jnp.zeros_like(local[0]), jnp.zeros_like(local[0]), jnp.ones_like(local[0]))
    first = 0
    for kind, (normal_of, its) in enumerate(zip(_NORMALS, solids, strict=True)):
        mine = (slot >= first) & (slot < first + its.shape[0])

        def choose(normal: Vector, mine: Array = mine, normal_of: NormalOf = normal_of) -> Vector:
            found = normal_of(point, local, p)
            x, y, z = (jnp.where(mine, f, n) for f, n in zip(found, normal, strict=True))
            return x, y, z

        normal = jax.lax.cond(frame.counts[kind] > 0, choose, lambda normal: normal, normal)
        first += its.shape[0]
    return normal, local


def _frame(frame: Scene, projection: str, size: tuple[int, int]) -> tuple[Array, Array, Array]:
    eye: Vector = (frame.position[0], frame.position[1], frame.position[2])
    d = camera_rays(projection, size, frame.yaw, frame.pitch, frame.fov)
    sun: Vector = (frame.light[0, 0], frame.light[0, 1], frame.light[0, 2])

    t, slot = _first_hit(eye, d, frame)
    ground = jnp.where(d[2] < -1e-5, -eye[2] / jnp.minimum(d[2], -1e-5), FAR)
    on_ground = ground < t
    t = jnp.minimum(t, ground)
    sky = t >= FAR
    reach = jnp.where(sky, 1.0, t)  # keeps the sky's numbers small and finite
    point = (eye[0] + reach * d[0], eye[1] + reach * d[1], eye[2] + reach * d[2])
    normal, local = _normals(point, slot, frame)
    normal = (
        jnp.where(on_ground, 0.0, normal[0]),
        jnp.where(on_ground, 0.0, normal[1]),
        jnp.where(on_ground, 1.0, normal[2]),
    )
    x, y, z = (p + 2e-3 * n for p, n in zip(point, normal, strict=True))
    free = _lit((x, y, z), sun, frame)

    looks = [frame.looks[:, k][slot] for k in range(6)]
    own = surfaces.ground(point, reach, frame.ground, frame.change)
    upper = surfaces.solid_level(local, normal, d, looks[3], frame.textures)
    rgb = surfaces.shade(on_ground, sky, own, upper, looks, normal, d, reach, free, frame.light)
    ids = jnp.where(on_ground | sky, 0.0, looks[5]).astype(jnp.uint8)
    return rgb, jnp.where(sky, jnp.inf, t), ids


@partial(jax.jit, static_argnames=("projection", "size"))
def _cast(scene: Scene, projection: str, size: tuple[int, int]) -> tuple[Array, Array, Array]:
    # Angles become cosines and sines out here: XLA would compute them again for every pixel.
    yaw, pitch, turn = (
        jnp.stack([jnp.cos(a), jnp.sin(a)], axis=-1)
        for a in (scene.yaw, scene.pitch, scene.boxes[..., 6])
    )
    boxes = jnp.concatenate([scene.boxes[..., :6], turn], axis=-1)
    moving = {
        "position": scene.position,
        "yaw": yaw,
        "pitch": pitch,
        "spheres": scene.spheres,
        "boxes": boxes,
        "cones": scene.cones,
        "capsules": scene.capsules,
    }
    still = scene._replace(fov=jnp.tan(scene.fov / 2.0))
    return jax.lax.map(lambda now: _frame(still._replace(**now), projection, size), moving)


def cast(
    scene: Scene, projection: str, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Casts all frames of a clip.

    Args:
      scene: what is where.
      projection: "pinhole" or "equirectangular".
      size: (H, W) in pixels.

    Returns:
      rgb: [T, H, W, 3] uint8.
      depth: [T, H, W] float32, metres along the ray (not z); infinite for the sky.
      ids: [T, H, W] uint8, the id of the nearest solid; 0 is ground or sky.
    """
    rgb, depth, ids = _cast(scene, projection, size)
    return np.asarray(rgb), np.asarray(depth), np.asarray(ids)
