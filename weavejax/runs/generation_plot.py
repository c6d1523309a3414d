"""The picture of a clip with its sound: frames, waveform, envelope asked for and measured, onsets."""

from pathlib import Path
from typing import Any

import numpy as np

from weavejax.data.clip import DecodeError
from weavejax.data.decode import Media
from weavejax.data.writing import whole
from weavejax.dials.controls import ENVELOPE_CEILING_DB, ENVELOPE_FLOOR_DB, Controls, Envelope, When
from weavejax.runs.requests import Ask
from weavejax.runtime.plots import new_figure

WIDTH, STRIP = 10.0, 9.0  # inches, of the figure and of the strip of frames in it
FEWEST, MOST, THUMBNAIL = 6, 14, 160  # frames of the strip, and pixels of their longer side
COLUMNS = 1600  # that a waveform is drawn in
ASKED, HEARD, WAVE, SPAN = "#c8102e", "#1f5fa8", "#8a8f98", "#f2c14e"


def plot_generation(
    path: Path,
    ask: Ask,
    controls: Controls,
    wave: np.ndarray,
    rate: int,
    heard: When,
    followed: str,
    span: tuple[float, float] | None,
) -> None:
    """Writes the PNG.

    Args:
      path: of the file.
      ask: the clip.
      controls: asked for.
      wave: the sound, float32 [S, channels].
      rate: Hz.
      heard: onsets and envelope measured in it.
      followed: the part of the controls that the system follows, "onsets" or "envelope".
      span: what was made anew, seconds; None for all.
    """
    seconds, asked = float(ask.seconds), controls.when or When()
    strip = thumbnails(ask) if ask.film else None
    heights = [1.7, 3.2]
    if strip is not None:
        heights = [STRIP / len(strip) * strip.shape[1] / strip.shape[2], *heights]
    figure = new_figure(WIDTH, sum(heights) + 0.8)
    rows = figure.subplots(len(heights), 1, height_ratios=heights, sharex=True)
    caption = controls.what.caption if controls.what else None
    rows[0].set_title(f"{ask.media.name}: “{caption}”" if caption else ask.media.name, fontsize=11)
    if strip is not None:
        _draw_frames(rows[0], strip, seconds)
    _draw_wave(rows[-2], wave, rate)
    _draw_envelopes(rows[-1], asked, heard, followed)
    for axes in rows[-2:]:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        if span:
            axes.axvspan(*span, color=SPAN, alpha=0.25, lw=0, label="made anew")
    rows[-1].legend(
        loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=5, frameon=False, fontsize=9
    )
    rows[-1].set(xlabel="time (s)", xlim=(0, seconds))
    with whole(path) as partial:
        figure.savefig(partial, dpi=120, format="png")


def thumbnails(ask: Ask) -> np.ndarray | None:
    """Frames from the middles of equal parts of the clip, uint8 [N, h, w, 3]; None if unreadable."""
    try:
        with Media(ask.media) as media:
            shown = media.info().video
            assert shown is not None
            tall = shown.height / shown.width
            count = min(max(round(FEWEST * 16 / 9 * tall), FEWEST), MOST)
            times = [(n + 0.5) / count * float(ask.seconds) for n in range(count)]
            height, width = (max(1, round(THUMBNAIL * part / max(tall, 1))) for part in (tall, 1))
            return media.frames(times, size=(height, width))
    except DecodeError:
        return None


def _draw_frames(axes: Any, strip: np.ndarray, seconds: float) -> None:
    joined = np.concatenate(list(strip), axis=1)
    axes.imshow(joined, extent=(0, seconds, 0, 1), aspect="auto", interpolation="antialiased")
    axes.set(yticks=[])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _draw_wave(axes: Any, wave: np.ndarray, rate: int) -> None:
    mono = wave.mean(axis=1)
    size = max(1, len(mono) // COLUMNS)
    parts = mono[: len(mono) // size * size].reshape(-1, size)
    time = (np.arange(len(parts)) + 0.5) * size / rate
    axes.fill_between(time, parts.min(1), parts.max(1), color=WAVE, lw=0.5, edgecolor=WAVE)
    peak = max(float(np.abs(mono).max(initial=0.0)), 1e-3)
    axes.set(ylabel="waveform", ylim=(-1.1 * peak, 1.1 * peak))


def _draw_envelopes(axes: Any, asked: When, heard: When, followed: str) -> None:
    low = ENVELOPE_FLOOR_DB
    # What the system does not look at is drawn, but not as if it had been asked for.
    words = {part: "asked for" for part in ("onsets", "envelope")}
    style: dict[str, dict[str, Any]] = {part: {"lw": 1.6} for part in words}
    for part in words.keys() - {followed}:
        words[part], style[part] = "not followed", {"lw": 1.0, "alpha": 0.5, "ls": ":"}
    curves = (
        (heard.envelope, HEARD, "envelope measured", {"lw": 1.6}),
        (asked.envelope, ASKED, f"envelope {words['envelope']}", style["envelope"]),
    )
    for envelope, colour, name, how in curves:
        if envelope is not None:
            axes.plot(*_curve(envelope), color=colour, label=name, **how)
    # Ticks in two rows under the curves: what was asked for above what is heard.
    ticks = (
        (asked.onsets, ASKED, f"onsets {words['onsets']}", low - 2, style["onsets"]),
        (heard.onsets, HEARD, "onsets heard", low - 10, {"lw": 1.6}),
    )
    for onsets, colour, name, top, how in ticks:
        times = [onset.time for onset in onsets or ()]
        if onsets is not None:
            axes.vlines(times, top - 6, top, color=colour, label=f"{name} ({len(times)})", **how)
    axes.set(ylabel="level (dBFS)", ylim=(low - 18, ENVELOPE_CEILING_DB))
    axes.set_yticks(np.arange(ENVELOPE_FLOOR_DB, 1, 20))


def _curve(envelope: Envelope) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(len(envelope.db)) / envelope.rate, np.asarray(envelope.db)
