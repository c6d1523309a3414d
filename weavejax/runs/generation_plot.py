"""The picture of a clip with its sound: frames, waveform, envelope asked for and measured, onsets."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from weavejax.data.clip import DecodeError
from weavejax.data.decode import Media
from weavejax.data.writing import whole
from weavejax.dials.controls import ENVELOPE_CEILING_DB, ENVELOPE_FLOOR_DB, Controls, Envelope, When
from weavejax.runs.requests import Ask

THUMBNAILS, THUMBNAIL = 10, 128  # of the strip, and the height of one in pixels
COLUMNS = 1600  # that a waveform is drawn in
ASKED, HEARD, WAVE, SPAN = "#c8102e", "#1f5fa8", "#8a8f98", "#f2c14e"


def plot_generation(
    path: Path,
    ask: Ask,
    controls: Controls,
    wave: np.ndarray,
    rate: int,
    heard: When,
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
      span: what was made anew, seconds; None for all.
    """
    seconds, asked = float(ask.seconds), controls.when or When()
    strip = thumbnails(ask) if ask.film else None
    heights = [*([1.0] if strip is not None else []), 0.8, 1.5]
    figure = Figure(figsize=(10, 2.1 * sum(heights)), layout="constrained")
    rows = figure.subplots(len(heights), 1, height_ratios=heights, sharex=True)
    caption = controls.what.caption if controls.what else None
    rows[0].set_title(f"{ask.media.name}: “{caption}”" if caption else ask.media.name, fontsize=11)
    if strip is not None:
        _draw_frames(rows[0], strip, seconds)
    _draw_wave(rows[-2], wave, rate)
    _draw_envelopes(rows[-1], asked, heard)
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
    count = THUMBNAILS
    try:
        with Media(ask.media) as media:
            shown = media.info().video
            assert shown is not None
            # Narrow pictures get more places in the strip, which is about ten heights long.
            count = max(4, min(3 * THUMBNAILS, round(THUMBNAILS * shown.height / shown.width)))
            times = [(n + 0.5) / count * float(ask.seconds) for n in range(count)]
            width = max(1, round(THUMBNAIL * shown.width / shown.height))
            return media.frames(times, size=(THUMBNAIL, width))
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


def _draw_envelopes(axes: Any, asked: When, heard: When) -> None:
    low = ENVELOPE_FLOOR_DB
    for envelope, colour, name in (
        (heard.envelope, HEARD, "envelope measured"),
        (asked.envelope, ASKED, "envelope asked for"),
    ):
        if envelope is not None:
            axes.plot(*_curve(envelope), color=colour, lw=1.4, label=name)
    # Ticks in two rows under the curves: what was asked for above what is heard.
    for onsets, colour, name, top in (
        (asked.onsets, ASKED, "onsets asked for", low - 2),
        (heard.onsets, HEARD, "onsets heard", low - 10),
    ):
        times = [onset.time for onset in onsets or ()]
        if onsets is not None:
            axes.vlines(times, top - 6, top, color=colour, lw=1.6, label=f"{name} ({len(times)})")
    axes.set(ylabel="level (dBFS)", ylim=(low - 18, ENVELOPE_CEILING_DB))
    axes.set_yticks(np.arange(ENVELOPE_FLOOR_DB, 1, 20))


def _curve(envelope: Envelope) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(len(envelope.db)) / envelope.rate, np.asarray(envelope.db)
