"""Sound of the events: modal synthesis, grains and noise, then distance, panning and a room.

Objects ring in modes: two-pole resonators, tuned by material, that a force signal drives. A blow
is a short pulse of force, shorter (brighter) when harder; a scrape is noise that follows the
stick's speed. Steps are grains and noise of the ground, over a thump of the heel. From there the
sound falls off with 1/distance, arrives distance/343 s late (7 ms at 2.5 m: the ground truth says
when things happen in the picture), is panned with constant power, and gets a room.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.fft

from .scene import Event

SPEED_OF_SOUND = 343.0
BASE_ANGLE = 30.0  # degrees to a loudspeaker: sound from there or beyond is in one channel only
PEAK = 0.97
_GAIN = 0.42  # puts the hardest blows near -3 dBFS


@dataclass(frozen=True)
class Modes:
    """How a material rings and rubs.

    Attributes:
      base: Hz of the first mode.
      ratios: of the modes to the first.
      decay: seconds in which the first mode falls by 60 dB; higher ones fall faster.
      contact: seconds that a blow of middling strength touches; harder ones are shorter.
      level: of a blow.
      click: share of the blow that is heard directly, as a click.
      rub: band of the direct noise of a scrape, Hz.
      rub_level: of that noise.
    """

    base: float
    ratios: tuple[float, ...]
    decay: float
    contact: float
    level: float
    click: float
    rub: tuple[float, float]
    rub_level: float


MODES = {
    "metal": Modes(
        620.0, (1.0, 2.76, 4.1, 5.4, 7.2, 8.93), 1.6, 5e-4, 0.92, 0.05, (3000, 9000), 0.9
    ),
    "wood": Modes(240.0, (1.0, 2.3, 3.7), 0.22, 1.4e-3, 1.3, 0.02, (300, 900), 2.1),
    "glass": Modes(2350.0, (1.0, 1.9, 2.8, 4.1), 0.75, 2e-4, 1.0, 0.05, (8000, 14000), 1.2),
    "plastic": Modes(1150.0, (1.0, 1.35, 1.8), 0.08, 6e-4, 1.4, 0.20, (1000, 2400), 3.0),
    "stone": Modes(3300.0, (1.0, 1.4, 2.1, 2.9), 0.045, 1.5e-4, 1.2, 0.45, (3500, 8000), 2.8),
    "cloth": Modes(85.0, (1.0, 1.6), 0.11, 5e-3, 1.7, 0.0, (150, 700), 3.1),
}


@dataclass(frozen=True)
class Ground:
    """How a step sounds.

    Attributes:
      band: of the noise, Hz.
      length: seconds of it.
      attack: seconds until it is loudest.
      grains: share of samples that carry noise (1: smooth, small: crackling).
      level: of the noise.
      thump: level of the heel's thud.
      tones: (Hz, decay s, level) of resonances, driven by the landing.
    """

    band: tuple[float, float]
    length: float
    attack: float
    grains: float
    level: float
    thump: float
    tones: tuple[tuple[float, float, float], ...] = ()


STEPS = {
    "grass": Ground((1500, 4000), 0.16, 0.04, 1.0, 4.0, 2.7),
    "gravel": Ground((2500, 9000), 0.20, 0.02, 0.012, 19.0, 1.7),
    "snow": Ground((400, 1300), 0.26, 0.09, 0.10, 31.0, 2.6),
    "planks": Ground(
        (100, 800),
        0.03,
        0.002,
        1.0,
        0.52,
        0.88,
        ((165, 0.22, 1.8), (310, 0.15, 1.1), (540, 0.09, 0.52)),
    ),
    "tiles": Ground(
        (2000, 7000), 0.02, 0.001, 1.0, 4.8, 0.53, ((1450, 0.05, 2.7), (2600, 0.04, 2.1))
    ),
    "water": Ground((600, 3000), 0.28, 0.03, 1.0, 3.4, 0.49, ((480, 0.12, 2.5),)),
}

# Room: level and delay (s) of early reflections per side, seconds of 60 dB decay, level of the tail.
ROOMS = {
    "studio": ((0.0071, 0.0113, 0.0178), (0.0083, 0.0129, 0.0161), 0.28, 0.10),
    "outdoors": ((0.0093,), (0.0101,), 0.12, 0.03),
}


def render(
    events: tuple[Event, ...],
    times: np.ndarray,
    azimuth: np.ndarray,
    distance: np.ndarray,
    room: str,
    duration: float,
    rate: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Synthesises a clip.

    Args:
      events: what sounds, and when.
      times: [T] of the two tracks that follow.
      azimuth: [T] degrees, left-positive, relative to the view.
      distance: [T] metres.
      room: name in `ROOMS`.
      duration: seconds.
      rate: samples a second.
      rng: for grains, noise and small variations.

    Returns:
      [N, 2] float32, left and right, within ±`PEAK`.
    """
    count = round(duration * rate)
    dry = np.zeros(count)
    for name in dict.fromkeys(event.material for event in events):
        its = [event for event in events if event.material == name]
        synthesise = _steps if name in STEPS else _object
        dry += synthesise(its, name, count, rate, rng)
    now = np.arange(count) / rate
    metres = _at(now, times, distance)
    heard = np.interp(now - metres / SPEED_OF_SOUND, now, dry, left=0.0)
    heard *= _GAIN / np.maximum(metres, 0.3)
    left, right = (_at(now, times, gain) for gain in pan_gains(azimuth))
    stereo = _reverb(heard, room, rate)
    stereo[:, 0] += left * heard
    stereo[:, 1] += right * heard
    peak = np.abs(stereo).max()
    return (stereo * min(1.0, PEAK / max(peak, 1e-9))).astype(np.float32)


def pan_gains(azimuth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Constant-power gains, left and right: p = -sin(azimuth)/sin(30°), within [-1, 1].

    Args:
      azimuth: degrees, left-positive.
    """
    place = -np.sin(np.radians(azimuth)) / np.sin(np.radians(BASE_ANGLE))
    angle = (np.clip(place, -1.0, 1.0) + 1.0) * (np.pi / 4)
    return np.cos(angle), np.sin(angle)


def _at(now: np.ndarray, times: np.ndarray, track: np.ndarray) -> np.ndarray:
    """A track at the samples' times; a scalar where it never changes."""
    return track[:1] if np.ptp(track) < 1e-9 else np.interp(now, times, track)


def envelope(audio: np.ndarray, rate: int, per_second: float) -> np.ndarray:
    """RMS of the mono mix as the controls file defines it: dBFS, floor -80.

    Args:
      audio: [N, channels] in [-1, 1].
      rate: samples a second.
      per_second: values a second; each covers 2/per_second s, centred on k/per_second.
    """
    energy = np.concatenate([[0.0], np.cumsum(audio.astype(np.float64).mean(axis=1) ** 2)])
    centres = np.arange(round(len(audio) / rate * per_second)) * (rate / per_second)
    half = rate / per_second
    first = np.clip(np.rint(centres - half), 0, len(audio)).astype(int)
    last = np.clip(np.rint(centres + half), 0, len(audio)).astype(int)
    rms = np.sqrt(np.maximum(energy[last] - energy[first], 0.0) / (2 * half))
    return np.maximum(20 * np.log10(np.maximum(rms, 1e-6)), -80.0)


def _resonate(force: np.ndarray, hertz: float, decay: float, rate: int) -> np.ndarray:
    """A two-pole resonator whose impulse response is a sine, 60 dB down after `decay` seconds."""
    radius = 10.0 ** (-3.0 / (decay * rate))
    turn = 2 * np.pi * hertz / rate
    poles = [1.0, -2 * radius * np.cos(turn), radius**2]
    import scipy.signal  # costs the start of every run half a second, and few of them render

    return np.asarray(scipy.signal.lfilter([radius * np.sin(turn)], poles, force))


def _object(
    events: list[Event], name: str, count: int, rate: int, rng: np.random.Generator
) -> np.ndarray:
    modes = MODES[name]
    base = modes.base * rng.uniform(0.9, 1.1)
    force, rub = np.zeros(count), np.zeros(count)
    for event in events:
        start = round(event.time * rate)
        if event.action == "hit":
            # A half sine of force; its area is the momentum.
            length = max(round(rate * modes.contact * (1.5 - event.strength)), 3)
            pulse = np.sin(np.pi * (np.arange(length) + 0.5) / length)
            _add(force, start, pulse * (2.0 * event.strength**1.5 / pulse.sum()))
        else:
            length = round((event.end - event.time) * rate)
            along = np.arange(length) / length
            # The speed of a smooth stroke, with a quick bite at its start.
            speed = np.maximum(np.sqrt(4 * along * (1 - along)), 0.7 * np.exp(-along * 12.0))
            _add(rub, start, speed * event.strength * rng.standard_normal(length))
    force, rub = modes.level * force, modes.rub_level * rub
    sound = np.zeros(count)
    for k, ratio in enumerate(modes.ratios):
        level = rng.uniform(0.6, 1.0) / (1.0 + 0.5 * k)
        sound += _resonate(
            level * (force + 0.01 * rub), base * ratio, modes.decay / ratio**0.6, rate
        )
    if modes.click:
        sound += _band(6.0 * modes.click * force, modes.rub, rate)
    if rub.any():
        sound += _band(0.35 * rub, modes.rub, rate)
    return sound


def _steps(
    events: list[Event], name: str, count: int, rate: int, rng: np.random.Generator
) -> np.ndarray:
    ground = STEPS[name]
    force, noise, thump = np.zeros(count), np.zeros(count), np.zeros(count)
    for event in events:
        start, length = round(event.time * rate), round(ground.length * rate)
        along = np.arange(length) / rate
        shape = np.minimum(along / ground.attack, 1.0) * np.exp(-4.0 * along / ground.length)
        burst = rng.standard_normal(length) * (rng.random(length) < ground.grains)
        burst[: round(2e-3 * rate)] += rng.standard_normal(min(length, round(2e-3 * rate)))
        _add(noise, start, event.strength * np.maximum(shape, 0.25 * np.exp(-along / 4e-3)) * burst)
        _add(force, start, np.full(20, 0.05 * event.strength))
        heel = np.sin(2 * np.pi * 75.0 * along[: round(0.05 * rate)])
        _add(thump, start, event.strength * heel * np.exp(-along[: len(heel)] / 0.015))
    sound = ground.level * _band(noise, ground.band, rate) + ground.thump * thump
    for hertz, decay, level in ground.tones:
        sound += level * _resonate(force, hertz * rng.uniform(0.93, 1.07), decay, rate)
    return sound


def _add(track: np.ndarray, start: int, values: np.ndarray) -> None:
    end = min(start + len(values), len(track))
    track[start:end] += values[: end - start]


def _band(signal: np.ndarray, band: tuple[float, float], rate: int) -> np.ndarray:
    high = min(band[1], 0.45 * rate)
    import scipy.signal

    sections = scipy.signal.butter(
        2, (min(band[0], 0.5 * high), high), "bandpass", fs=rate, output="sos"
    )
    return np.asarray(scipy.signal.sosfilt(sections, signal))


@lru_cache(maxsize=8)
def _room(name: str, rate: int) -> np.ndarray:
    """Impulse responses [n, 2] of a room, the direct sound left out; the same in every clip."""
    left, right, decay, level = ROOMS[name]
    rng = np.random.default_rng(len(name))
    count = round(decay * rate)
    seconds = np.arange(count) / rate
    tail = rng.standard_normal((count, 2)) * 10.0 ** (-3.0 * seconds / decay)[:, None]
    tail[: round(0.012 * rate)] = 0.0
    response = level * tail / np.sqrt((tail**2).sum(axis=0))
    for side, delays in enumerate((left, right)):
        for k, delay in enumerate(delays):
            response[round(delay * rate), side] += 2.0 * level / (k + 1.5)
    return response


@lru_cache(maxsize=8)
def _room_spectrum(name: str, rate: int, size: int) -> np.ndarray:
    return np.asarray(scipy.fft.rfft(_room(name, rate).astype(np.float32), size, axis=0))


def _reverb(mono: np.ndarray, name: str, rate: int) -> np.ndarray:
    size = scipy.fft.next_fast_len(len(mono) + len(_room(name, rate)), real=True)
    spectrum = scipy.fft.rfft(mono.astype(np.float32), size)
    wet = [
        scipy.fft.irfft(spectrum * side, size)[: len(mono)]
        for side in _room_spectrum(name, rate, size).T
    ]
    return np.stack(wet, axis=-1)
