"""What a kind of scene hands to the renderer: solids over time, events, and who sounds where."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from . import raycast, surfaces

Value = float | np.ndarray  # for all frames, or [T]
Values = Sequence[Value] | np.ndarray  # x, y, z

SLOTS = {"spheres": (12, 4), "boxes": (18, 7), "cones": (12, 6), "capsules": (12, 7)}


@dataclass(frozen=True)
class Options:
    """What every clip of a data set shares."""

    seed: int = 0
    duration: float = 4.0
    size: int = 112
    fps: int = 15
    rate: int = 44100

    @property
    def times(self) -> np.ndarray:
        """Seconds of the video's frames."""
        return np.arange(round(self.duration * self.fps)) / self.fps


@dataclass(frozen=True)
class Event:
    """Something sounds: a hit, a scrape or a step. `end` equals `time` for a blow."""

    time: float
    end: float
    strength: float
    material: str
    action: str


@dataclass(frozen=True)
class Look:
    """Display colour (0 to 1), surface texture, strength of the highlight, and track id (0: none)."""

    colour: tuple[float, float, float]
    surface: int = surfaces.PLAIN
    shine: float = 0.05
    track: int = 0


@dataclass(frozen=True)
class Light:
    """Sun direction (towards it) and colours; haze per metre; glow of the sky around the sun."""

    sun: tuple[float, float, float]
    sun_colour: tuple[float, float, float]
    ambient: tuple[float, float, float]
    zenith: tuple[float, float, float]
    horizon: tuple[float, float, float]
    haze: float = 0.0
    glow: float = 0.0

    def turned(self, yaw: float) -> "Light":
        """The same light with the sun turned about the vertical, left-positive."""
        x, y, z = self.sun
        cos, sin = float(np.cos(yaw)), float(np.sin(yaw))
        return replace(self, sun=(x * cos - y * sin, x * sin + y * cos, z))

    def rows(self) -> np.ndarray:
        sun = np.array(self.sun) / np.linalg.norm(self.sun)
        return np.array(
            [
                sun,
                self.sun_colour,
                self.ambient,
                self.zenith,
                self.horizon,
                (self.haze, self.glow, 0.0),
            ],
            np.float32,
        )


@dataclass
class Solids:
    """Collects solids; a parameter is a number or one value a frame."""

    frames: int
    _rows: dict[str, list[np.ndarray]] = field(default_factory=lambda: {kind: [] for kind in SLOTS})
    _looks: dict[str, list[Look]] = field(default_factory=lambda: {kind: [] for kind in SLOTS})

    def sphere(self, look: Look, x: Value, y: Value, z: Value, radius: Value) -> None:
        self._add("spheres", look, x, y, z, radius)

    def box(self, look: Look, centre: Values, half: Values, yaw: Value = 0.0) -> None:
        self._add("boxes", look, *centre, *half, yaw)

    def cone(
        self, look: Look, x: Value, y: Value, bottom: Value, top: Value, wide: Value, narrow: Value
    ) -> None:
        self._add("cones", look, x, y, bottom, top, wide, narrow)

    def capsule(self, look: Look, start: Values, end: Values, radius: Value) -> None:
        self._add("capsules", look, *start, *end, radius)

    def _add(self, kind: str, look: Look, *values: Value) -> None:
        columns = [np.broadcast_to(np.asarray(v, np.float32), (self.frames,)) for v in values]
        self._rows[kind].append(np.stack(columns, axis=-1))
        self._looks[kind].append(look)

    def scene(
        self,
        position: np.ndarray,
        yaw: np.ndarray,
        pitch: np.ndarray,
        fov: float,
        light: Light,
        ground: tuple[str, str],
        change: float,
    ) -> raycast.Scene:
        """Packs everything; angles in radians, `position` [T, 3]."""
        packed, looks = {}, []
        for kind, (slots, width) in SLOTS.items():
            rows = self._rows[kind]
            if len(rows) > slots:
                raise ValueError(f"{len(rows)} {kind} in a scene of {slots} slots")
            values = np.ones((self.frames, slots, width), np.float32)
            values[:, : len(rows)] = np.stack(rows, axis=1) if rows else 1.0
            packed[kind] = values
            padded = self._looks[kind] + [Look((0.0, 0.0, 0.0))] * (slots - len(rows))
            looks += [(*k.colour, k.surface, k.shine, k.track) for k in padded]
        used = sorted({look.surface for each in self._looks.values() for look in each} - {0})
        textures = np.zeros(1 + len(surfaces.MATERIALS), np.int32)
        textures[: 1 + len(used)] = [len(used), *used]
        f32 = np.float32
        return raycast.Scene(
            position.astype(f32),
            yaw.astype(f32),
            pitch.astype(f32),
            f32(fov),
            **packed,
            counts=np.array([len(self._rows[kind]) for kind in SLOTS], np.int32),
            looks=np.array(looks, f32),
            textures=textures,
            ground=np.array([surfaces.GROUNDS[g] for g in ground], np.int32),
            change=f32(change),
            light=light.rows(),
        )


@dataclass(frozen=True)
class Take:
    """One clip, planned: all that rendering, sound and ground truth need.

    Attributes:
      scene: for the ray-caster.
      projection: of the camera.
      tracks: object id → label of its box track.
      events: in order of time.
      sections: (start, end, label).
      source: [T, 3] world position of what sounds.
      source_label: its name.
      room: name of the room in `sound`.
    """

    scene: raycast.Scene
    projection: str
    tracks: dict[int, str]
    events: tuple[Event, ...]
    sections: tuple[tuple[float, float, str], ...]
    source: np.ndarray
    source_label: str
    room: str


def directions(scene: raycast.Scene, points: np.ndarray) -> tuple[np.ndarray, ...]:
    """Azimuth (left-positive), elevation (degrees) and distance (m) of world points [T, 3].

    Relative to the camera's view, yaw and pitch included.
    """
    x, y, z = (points.astype(np.float64) - scene.position).T
    cos, sin = np.cos(scene.yaw), np.sin(scene.yaw)
    forward, left = x * cos + y * sin, y * cos - x * sin
    cos, sin = np.cos(scene.pitch), np.sin(scene.pitch)
    forward, up = forward * cos + z * sin, z * cos - forward * sin
    distance = np.sqrt(forward**2 + left**2 + up**2)
    azimuth = np.degrees(np.arctan2(left, forward))
    return azimuth, np.degrees(np.arcsin(up / distance)), distance
