"""Scene kind `hits`: a stick strikes and scrapes one object, as in Greatest Hits.

The camera stands still at the origin of x and y and looks along x. The stick turns about the hand:
its tip is down on the object at an onset, exactly, and nowhere else but in a scrape.
"""

import numpy as np

from .scene import Event, Light, Look, Options, Solids, Take
from .surfaces import MATERIALS

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": ("box", "ball", "cylinder", "cone"),
    "colour": ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "white"),
    "material": ("metal", "wood", "glass", "plastic", "stone", "cloth"),
    "floor": ("planks", "tiles", "sand", "carpet"),
    "wall": ("black", "grey", "pink", "brown", "lime", "navy"),
    "side": ("left", "middle", "right"),
    "pattern": ("hit", "scrape", "both"),
    "tempo": ("slow", "steady", "fast"),
}
COLOURS = {
    "red": (0.88, 0.12, 0.10),
    "orange": (1.00, 0.52, 0.05),
    "yellow": (0.98, 0.88, 0.10),
    "green": (0.10, 0.62, 0.18),
    "cyan": (0.10, 0.82, 0.86),
    "blue": (0.12, 0.26, 0.90),
    "purple": (0.58, 0.16, 0.78),
    "white": (0.97, 0.97, 0.97),
}
WALLS = {
    "black": (0.10, 0.10, 0.11),
    "grey": (0.55, 0.56, 0.58),
    "pink": (0.96, 0.62, 0.72),
    "brown": (0.46, 0.29, 0.17),
    "lime": (0.66, 0.86, 0.36),
    "navy": (0.10, 0.14, 0.36),
}
SHINE = {"metal": 0.9, "wood": 0.08, "glass": 1.0, "plastic": 0.5, "stone": 0.03, "cloth": 0.0}
REBOUND = {"metal": 0.9, "wood": 0.6, "glass": 0.8, "plastic": 0.7, "stone": 0.75, "cloth": 0.25}
HOP = {"metal": 0.0, "wood": 0.012, "glass": 0.0, "plastic": 0.03, "stone": 0.0, "cloth": 0.0}
COUNTS = {"slow": 2, "steady": 4, "fast": 8}
SIDES = {"left": 14.0, "middle": 0.0, "right": -14.0}  # degrees of azimuth
STICK_RADIUS = 0.022
SWING = 0.16  # seconds that a blow takes to come down
_REACH = 0.85  # metres of stick between hand and tip


def plan(attributes: dict[str, str], rng: np.random.Generator, options: Options) -> Take:
    """Plans one clip of these attributes; `rng` gives everything they leave open."""
    times = options.times
    material = attributes["material"]
    size = rng.uniform(0.33, 0.39)
    azimuth = np.radians(SIDES[attributes["side"]] + rng.uniform(-2.0, 2.0))
    distance = rng.uniform(1.5, 1.6)
    centre = np.array([distance * np.cos(azimuth), distance * np.sin(azimuth)])
    turn = rng.uniform(-0.5, 0.5)
    events = _events(attributes, rng, options.duration)
    # The arm reaches in from the side with more room.
    hand = {"left": -1.0, "middle": float(rng.choice([-1.0, 1.0])), "right": 1.0}
    strokes = Strokes(
        events, attributes["shape"], size, REBOUND[material], hand[attributes["side"]]
    )

    solids = Solids(len(times))
    look = Look(COLOURS[attributes["colour"]], MATERIALS[material], SHINE[material], track=1)
    hop = hops(times, events, HOP[material])
    _object(solids, look, attributes["shape"], centre, size, turn, hop)
    tip, grip = strokes.stick(times, centre)
    solids.capsule(
        Look((0.80, 0.62, 0.38), MATERIALS["wood"], 0.1, track=2), tip.T, grip.T, STICK_RADIUS
    )
    _arm(solids, grip, strokes.side)
    _wall(solids, WALLS[attributes["wall"]])

    still = np.zeros(len(times))
    eye = np.array([0.0, 0.0, rng.uniform(0.95, 1.1)])
    light = Light(
        (-0.6, rng.uniform(-0.7, 0.7), 1.0),
        (0.85, 0.80, 0.72),
        (0.34, 0.35, 0.38),
        (0.5, 0.6, 0.8),
        (0.5, 0.6, 0.8),
    )
    floor = attributes["floor"]
    scene = solids.scene(
        np.tile(eye, (len(times), 1)),
        still + rng.uniform(-0.02, 0.02),
        still - rng.uniform(0.20, 0.25),
        np.radians(60.0),
        light,
        (floor, floor),
        1e3,
    )
    source = np.tile([*centre, 0.6 * 2 * size], (len(times), 1))
    return Take(
        scene,
        "pinhole",
        {1: attributes["shape"], 2: "stick"},
        tuple(events),
        (),
        source,
        attributes["shape"],
        "studio",
    )


def _events(attributes: dict[str, str], rng: np.random.Generator, duration: float) -> list[Event]:
    """Evenly spread with a little human jitter; scrapes fill 60 % of the gap to the next."""
    count = COUNTS[attributes["tempo"]]
    gap = (duration - 0.5) / count
    starts = 0.3 + gap * (np.arange(count) + rng.uniform(0.0, 0.4))
    starts += rng.uniform(-0.06, 0.06, count) * min(gap, 0.8)
    strengths = np.clip(rng.uniform(0.35, 0.9) + rng.uniform(-0.25, 0.25, count), 0.15, 1.0)
    scrapes = {"hit": count, "scrape": 0, "both": count // 2}[attributes["pattern"]]
    events = []
    for k, (start, strength) in enumerate(zip(starts, strengths, strict=True)):
        action = "hit" if k < scrapes else "scrape"
        end = start if action == "hit" else min(start + 0.6 * min(gap, 1.0), duration - 0.02)
        events.append(
            Event(
                round(float(start), 4),
                round(float(end), 4),
                round(float(strength), 3),
                attributes["material"],
                action,
            )
        )
    return events


def hops(times: np.ndarray, events: list[Event], height: float) -> np.ndarray:
    """How far a light object leaves the floor after a blow: one small parabola each, [T]."""
    hop = np.zeros(len(times))
    for event in events:
        phase = (times - event.time) / 0.15
        if event.action == "hit":
            hop += np.where((phase > 0) & (phase < 1), phase * (1 - phase), 0) * event.strength
    return 4 * height * hop


def _object(
    solids: Solids,
    look: Look,
    shape: str,
    centre: np.ndarray,
    size: float,
    turn: float,
    hop: np.ndarray,
) -> None:
    x, y = centre
    if shape == "box":
        solids.box(look, (x, y, size * 0.85 + hop), (size * 0.8, size * 0.8, size * 0.85), turn)
    elif shape == "ball":
        solids.sphere(look, x, y, size + hop, size)
    elif shape == "cylinder":
        solids.cone(look, x, y, hop, 1.9 * size + hop, 0.78 * size, 0.78 * size)
    else:
        solids.cone(look, x, y, hop, 2.0 * size + hop, 1.15 * size, 0.3 * size)


def surface(shape: str, size: float, along: np.ndarray) -> np.ndarray:
    """Where the stick's tip centre is when it touches, `along` metres left of the middle.

    Returns [..., 2]: metres left of the object's middle, and height.
    """
    if shape == "ball":
        angle, reach = along / size, size + STICK_RADIUS
        return np.stack([reach * np.sin(angle), size + reach * np.cos(angle)], axis=-1)
    top = {"box": 1.7, "cylinder": 1.9, "cone": 2.0}[shape] * size + STICK_RADIUS
    return np.stack([along, np.full_like(along, top)], axis=-1)


class Strokes:
    """The stick's movement: lift angle over the surface and place along it, for any times."""

    def __init__(
        self, events: list[Event], shape: str, size: float, rebound: float, side: float
    ) -> None:
        """`side`: the hand is to the left (1) or to the right (-1) of the object."""
        self.events, self.shape, self.size = events, shape, size
        self.rebound, self.side = rebound, side
        self.width = size * (0.24 if shape == "cone" else 0.6)

    def lift(self, times: np.ndarray) -> np.ndarray:
        """Radians between the stick and its contact pose, [T]; 0 exactly while touching."""
        first = self.events[0]
        lift = np.full(len(times), self._height(first))
        for k, event in enumerate(self.events):
            height = self._height(event)
            down = np.clip((times - (event.time - SWING)) / SWING, 0.0, 1.0)
            lift = np.where(times > event.time - SWING, height * (1.0 - down**2), lift)
            after = self._height(self.events[min(k + 1, len(self.events) - 1)])
            rest = self.events[k + 1].time - SWING if k + 1 < len(self.events) else event.end + 0.5
            s = np.clip((times - event.end) / max(rest - event.end, 1e-3), 0.0, 1.0)
            # Rises fast at first, by the material's rebound, and arrives at rest at the top.
            speed = self.rebound if event.action == "hit" else 0.2
            rise = (3 - 2 * s) * s**2 + 3 * speed * s * (1 - s) ** 2
            lift = np.where(times > event.end, after * rise, lift)
        return lift

    def along(self, times: np.ndarray) -> np.ndarray:
        """Metres left of the object's middle, along its surface, [T]."""
        marks, places, side = [0.0], [0.0], -1.0
        for event in self.events:
            if event.action == "scrape":
                side = -side
            start = -side * self.width if event.action == "scrape" else 0.0
            marks += [event.time, event.end + 1e-6]
            places += [start, -start]
        s = np.clip(np.searchsorted(marks, times, side="right") - 1, 0, len(marks) - 2)
        lower, upper = np.take(marks, s), np.take(marks, s + 1)
        u = np.clip((times - lower) / (upper - lower), 0.0, 1.0)
        u = u * u * (3 - 2 * u)
        return np.take(places, s) * (1 - u) + np.take(places, s + 1) * u

    def stick(self, times: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """World positions of the tip's and the hand's end, two [T, 3]."""
        left, height = surface(self.shape, self.size, self.along(times)).T
        touch = np.stack([np.full_like(left, centre[0]), centre[1] + left, height], axis=-1)
        level = np.array([-0.45, 0.89 * self.side, 0.0])  # towards us and to its side
        hand = touch + _REACH * (level * np.cos(0.35) + np.array([0, 0, np.sin(0.35)]))
        angle = (self.lift(times) - 0.35)[:, None]
        tip = hand + _REACH * (-level * np.cos(angle) + np.array([0, 0, 1.0]) * np.sin(angle))
        return tip, hand

    @staticmethod
    def _height(event: Event) -> float:
        return 0.25 + 0.6 * event.strength if event.action == "hit" else 0.15


def _arm(solids: Solids, hand: np.ndarray, side: float) -> None:
    solids.sphere(Look((0.86, 0.66, 0.54)), hand[:, 0], hand[:, 1], hand[:, 2], 0.065)
    elbow = hand + np.array([-0.5, 0.45 * side, -0.1])
    solids.capsule(
        Look((0.25, 0.27, 0.33)), (hand + np.array([-0.05, 0.05 * side, -0.01])).T, elbow.T, 0.06
    )


def _wall(solids: Solids, colour: tuple[float, float, float]) -> None:
    solids.box(Look(colour, shine=0.0), (3.6, 0.0, 2.0), (0.1, 8.0, 2.0))
    solids.box(Look((0.85, 0.85, 0.83), shine=0.0), (3.48, 0.0, 0.05), (0.02, 8.0, 0.05))
