"""Scene kind `walk`: a figure walks over changing ground and the camera follows.

As in Walking The Maps. The figure walks along +x at y = 0. A foot lands exactly at its onset, stays
where it is until it lifts, and swings two steps on; hips and knees follow from the feet.
"""

import numpy as np

from .hits import COLOURS
from .scene import Event, Light, Look, Options, Solids, Take
from .surfaces import MATERIALS

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "colour": tuple(COLOURS),
    "first": ("grass", "gravel", "snow", "planks", "tiles", "water"),
    "second": ("grass", "gravel", "snow", "planks", "tiles", "water"),
    "pace": ("stroll", "walk", "run"),
    "sky": ("noon", "sunset", "night", "fog"),
    "roadside": ("trees", "posts", "houses", "nothing"),
    "heading": ("leftward", "rightward", "away"),
    "side": ("left", "middle", "right"),
}
GAITS = {  # speed m/s, steps a second, share of the step cycle on the ground, arm swing, strength
    "stroll": (0.9, 1.35, 0.56, 0.35, 0.35),
    "walk": (1.35, 1.95, 0.54, 0.55, 0.55),
    "run": (2.9, 2.95, 0.30, 0.95, 0.85),
}
# The sun stands behind the camera: directions are those of a camera that looks along x.
LIGHTS = {
    "noon": Light(
        (-0.4, 0.5, 1.0),
        (0.80, 0.78, 0.70),
        (0.30, 0.34, 0.40),
        (0.08, 0.28, 0.78),
        (0.45, 0.68, 0.92),
        0.006,
        0.1,
    ),
    "sunset": Light(
        (-0.6, 0.7, 0.5),
        (0.95, 0.55, 0.26),
        (0.30, 0.22, 0.24),
        (0.30, 0.12, 0.28),
        (1.00, 0.42, 0.10),
        0.012,
        0.8,
    ),
    "night": Light(
        (-0.4, -0.5, 0.8),
        (0.22, 0.24, 0.34),
        (0.09, 0.10, 0.14),
        (0.002, 0.003, 0.015),
        (0.010, 0.016, 0.055),
        0.015,
        0.0,
    ),
    "fog": Light(
        (-0.2, 0.3, 1.0),
        (0.16, 0.16, 0.16),
        (0.46, 0.47, 0.48),
        (0.66, 0.68, 0.70),
        (0.70, 0.72, 0.74),
        0.085,
        0.0,
    ),
}
HEADINGS = {"rightward": np.pi / 2, "leftward": -np.pi / 2, "away": 0.0}  # yaw of the camera
SIDES = {"left": 13.0, "middle": 0.0, "right": -13.0}
ANKLE = 0.09  # height of the ankle over the ground when the sole is flat on it
_SOLE = 0.06  # radius of the shoe
_THIGH = _SHIN = 0.46
_SPREAD = 0.11  # metres of each foot beside the line of walking


def allowed(attributes: dict[str, str]) -> bool:
    """A walk needs two different grounds."""
    return attributes["first"] != attributes["second"]


def plan(attributes: dict[str, str], rng: np.random.Generator, options: Options) -> Take:
    """Plans one clip of these attributes; `rng` gives everything they leave open."""
    times = options.times
    gait = Gait(attributes["pace"], rng, options.duration)
    crossing = options.duration * rng.uniform(0.42, 0.58)
    change = gait.body(np.array([crossing]))[0]
    grounds = attributes["first"], attributes["second"]
    events = tuple(
        Event(round(t, 4), round(t, 4), round(s, 3), grounds[int(x >= change)], "step")
        for t, s, x in gait.landings(rng)
        if 0.02 <= t <= options.duration - 0.08
    )

    solids = Solids(len(times))
    _figure(solids, gait, times, COLOURS[attributes["colour"]])
    eye, yaw, pitch = _camera(attributes, rng, gait, times)
    _roadside(solids, attributes, eye, yaw, int(rng.integers(1 << 30)))
    light = LIGHTS[attributes["sky"]].turned(HEADINGS[attributes["heading"]])
    scene = solids.scene(eye, yaw, pitch, np.radians(60.0), light, grounds, change)
    sections = (
        (0.0, round(crossing, 4), grounds[0]),
        (round(crossing, 4), options.duration, grounds[1]),
    )
    x = gait.body(times)
    source = np.stack([x, np.zeros_like(x), np.full_like(x, 0.05)], axis=-1)
    return Take(scene, "pinhole", {1: "person"}, events, sections, source, "person", "outdoors")


class Gait:
    """Where body and feet are at any time."""

    def __init__(self, pace: str, rng: np.random.Generator, duration: float) -> None:
        speed, cadence, self.ground_share, self.arms, self.strength = GAITS[pace]
        scale = rng.uniform(0.93, 1.07)
        self.speed, self.step = speed * scale, 1.0 / (cadence * scale)
        count = int(duration / self.step) + 6
        jitter = rng.uniform(-0.04, 0.04, count) * self.step
        self.landing_times = (np.arange(count) - 3 + rng.uniform(0, 1)) * self.step + jitter
        self.running = pace == "run"

    def body(self, times: np.ndarray) -> np.ndarray:
        """Metres along x of the hips."""
        return self.speed * times

    def hip_height(self, times: np.ndarray) -> np.ndarray:
        phase = np.interp(times, self.landing_times, np.arange(len(self.landing_times)))
        bob = 0.035 if self.running else 0.018
        return 0.86 - bob * np.cos(2 * np.pi * phase)

    def stance(self) -> float:
        """Seconds that a foot stays down."""
        return 2.0 * self.step * self.ground_share

    def plants(self) -> np.ndarray:
        """Metres along x of every landing: half a stance ahead of the hips."""
        return self.body(self.landing_times) + 0.5 * self.speed * self.stance()

    def landings(self, rng: np.random.Generator) -> list[tuple[float, float, float]]:
        """(time, strength, metres along x) of every landing."""
        strengths = np.clip(self.strength + rng.uniform(-0.12, 0.12, len(self.landing_times)), 0, 1)
        return [
            (float(t), float(s), float(x))
            for t, s, x in zip(self.landing_times, strengths, self.plants(), strict=True)
        ]

    def foot(self, side: int, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Metres along x of the ankle of foot `side` (0, 1), and height of its sole."""
        landing, plants = self.landing_times[side::2], self.plants()[side::2]
        k = np.clip(np.searchsorted(landing, times, side="right") - 1, 0, len(landing) - 2)
        lift = landing[k] + self.stance()
        u = np.clip((times - lift) / (landing[k + 1] - lift), 0.0, 1.0)
        smooth = u * u * (3 - 2 * u)
        height = (0.22 if self.running else 0.10) * np.sin(np.pi * u) ** 1.5
        return plants[k] * (1 - smooth) + plants[k + 1] * smooth, height


def _figure(
    solids: Solids, gait: Gait, times: np.ndarray, colour: tuple[float, float, float]
) -> None:
    x, hip = gait.body(times), gait.hip_height(times)
    lean = 0.12 if gait.running else 0.03
    coat = Look(colour, shine=0.03, track=1)
    dark = Look((0.16, 0.16, 0.20), track=1)
    skin = Look((0.87, 0.67, 0.55), track=1)
    zero = np.zeros_like(x)
    for side, y in ((0, _SPREAD), (1, -_SPREAD)):
        foot, sole = gait.foot(side, times)
        ankle = np.stack([foot, zero + y, ANKLE + sole])
        top = np.stack([x, zero + y, hip])
        knee = _knee(top, ankle)
        solids.capsule(dark, top, knee, 0.095)
        solids.capsule(dark, knee, ankle, 0.075)
        toe = ankle + np.array([[0.17], [0.0], [_SOLE - ANKLE]])
        heel = ankle + np.array([[-0.05], [0.0], [_SOLE - ANKLE]])
        solids.capsule(Look((0.10, 0.07, 0.05), track=1), heel, toe, _SOLE)
        other, _ = gait.foot(1 - side, times)  # an arm swings with the opposite leg
        swing = gait.arms * np.clip((other - x) / 0.4, -1.0, 1.0)
        shoulder = np.stack([x + lean, zero + y * 2.4, hip + 0.52])
        bend = 0.5 * gait.arms
        elbow = shoulder + 0.29 * np.stack([np.sin(swing), zero + y, -np.cos(swing)])
        hand = elbow + 0.27 * np.stack([np.sin(swing + bend), zero, -np.cos(swing + bend)])
        solids.capsule(coat, shoulder, elbow, 0.08)
        solids.capsule(coat, elbow, hand, 0.07)
    solids.cone(coat, x, 0.0, hip - 0.22, hip + 0.12, 0.29, 0.23)
    solids.capsule(
        coat, np.stack([x, zero, hip + 0.10]), np.stack([x + lean, zero, hip + 0.46]), 0.23
    )
    solids.sphere(skin, x + 1.3 * lean + 0.02, 0.0, hip + 0.84, 0.145)
    solids.sphere(Look((0.24, 0.15, 0.08), track=1), x + 1.3 * lean - 0.025, 0.0, hip + 0.875, 0.15)


def _knee(hip: np.ndarray, ankle: np.ndarray) -> np.ndarray:
    """The joint of two bones of fixed length, bent forwards (towards +x); [3, T]."""
    down = ankle - hip
    reach = np.minimum(np.linalg.norm(down, axis=0), _THIGH + _SHIN - 1e-3)
    out = np.sqrt(_THIGH**2 - (reach / 2) ** 2)
    forward = np.stack([-down[2], np.zeros_like(reach), down[0]])
    return hip + down / 2 + out * forward / np.linalg.norm(forward, axis=0)


def _camera(
    attributes: dict[str, str], rng: np.random.Generator, gait: Gait, times: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Position [T, 3], yaw and pitch [T]: keeps the figure at its side of the frame."""
    distance = rng.uniform(2.5, 2.8)
    yaw = HEADINGS[attributes["heading"]]
    azimuth = yaw + np.radians(SIDES[attributes["side"]] + rng.uniform(-2.0, 2.0))
    bob = gait.hip_height(times) - 0.86
    eye = np.stack(
        [
            gait.body(times) - distance * np.cos(azimuth),
            np.full(len(times), -distance * np.sin(azimuth)),
            1.25 + 0.5 * bob,
        ],
        axis=-1,
    )
    sway = np.radians(0.6) * np.sin(2 * np.pi * times / 2.7 + rng.uniform(0, 6.28))
    return eye, yaw + sway, np.full(len(times), -0.13)


def _roadside(
    solids: Solids, attributes: dict[str, str], eye: np.ndarray, yaw: np.ndarray, seed: int
) -> None:
    """A row of like things that never ends: slot j shows the j-th that is near the camera."""
    thing = attributes["roadside"]
    if thing == "nothing":
        return
    spacing = {"trees": 2.6, "posts": 1.9, "houses": 4.6}[thing]
    away = attributes["heading"] == "away"
    rows = (1.0, -1.0) if away else (np.sign(yaw[0]),)
    count = 5 if away else 6
    if thing == "houses":
        count = 3 if away else 4
    behind = 0.5 if away else count / 2
    first = np.ceil(eye[:, 0] / spacing - behind)
    for row in rows:
        for j in range(count):
            number = first + j
            x = number * spacing
            size = (
                0.85 + 0.3 * np.modf(np.abs(np.sin(number * 12.9898 + seed % 97 + row)) * 437.5)[0]
            )
            _THINGS[thing](
                solids, x, row * {"trees": 2.4, "posts": 1.5, "houses": 4.2}[thing], size
            )


def _tree(solids: Solids, x: np.ndarray, y: float, size: np.ndarray) -> None:
    solids.cone(Look((0.36, 0.22, 0.12), MATERIALS["wood"]), x, y, 0.0, 1.3, 0.16, 0.11)
    solids.sphere(Look((0.13, 0.42, 0.14), MATERIALS["stone"], 0.0), x, y, 1.9, 0.85 * size)


def _post(solids: Solids, x: np.ndarray, y: float, size: np.ndarray) -> None:
    solids.cone(Look((0.93, 0.93, 0.93)), x, y, 0.0, 0.75, 0.075, 0.075)
    solids.sphere(Look((0.85, 0.12, 0.10)), x, y, 0.85, 0.14)


def _house(solids: Solids, x: np.ndarray, y: float, size: np.ndarray) -> None:
    solids.box(Look((0.93, 0.80, 0.58), shine=0.0), (x, y, 1.3), (1.5, 1.2, 1.3))
    solids.box(Look((0.58, 0.20, 0.14), shine=0.0), (x, y, 2.7), (1.7, 1.4, 0.14))
    inward = y - np.sign(y) * 1.2
    solids.box(Look((0.25, 0.40, 0.60), shine=0.6), (x, inward, 1.45), (0.45, 0.02, 0.4))


_THINGS = {"trees": _tree, "posts": _post, "houses": _house}
