"""The files that are written for a clip, and a line about them."""

import json
import re

import numpy as np

from weavejax.data.writing import FORMS, write_film, write_sound
from weavejax.dials.controls import Controls, Onset, When, dump
from weavejax.dials.when import extract_when
from weavejax.metrics.onsets import match
from weavejax.runs.generation_plot import plot_generation
from weavejax.runs.requests import CONTROLS, Ask
from weavejax.storage import write_text

HEARD_SECONDS = 0.05  # an onset within this is the one asked for


def write_controls(ask: Ask, controls: Controls) -> str:
    """The controls as a person would like to find them: indented, a list of numbers in one line.

    Returns:
      a line: where, and what they hold.
    """
    text = json.dumps(json.loads(dump(controls)), indent=2, ensure_ascii=False)
    text = re.sub(r"\[[-+.\deE,\s]+\]", lambda found: " ".join(found[0].split()), text)
    path, when = ask.beside(CONTROLS), controls.when or When()
    write_text(path, text + "\n")
    words = []
    if when.onsets is not None:
        words.append(f"{len(when.onsets)} onsets")
    if when.envelope is not None:
        words.append(f"an envelope of {len(when.envelope.db)} values")
    return f"{path}: {' and '.join(words) or 'nothing of when'}"


def write_clip(
    ask: Ask,
    controls: Controls,
    wave: np.ndarray,
    rate: int,
    span: tuple[float, float] | None,
) -> str:
    """All files of a clip.

    Args:
      ask: the clip.
      controls: asked for.
      wave: the sound that was made, float32 [S, channels].
      rate: Hz.
      span: what was made anew, seconds; None for all.

    Returns:
      a line: where, how long, how many onsets are heard where they were asked for, and a warning of
      a sound beyond full scale.
    """
    write_sound(ask.beside(".wav"), wave, rate)
    if ask.out.suffix.lower() in FORMS:
        write_film(ask.out, wave, rate, ask.media if ask.film else None)
    write_controls(ask, controls)
    heard = extract_when(wave, rate)
    plot_generation(ask.beside(".png"), ask, controls, wave, rate, heard, span)
    words = [f"{ask.out}: {len(wave) / rate:.3f} s"]
    asked = _times(controls.when.onsets if controls.when else None)
    if len(asked):
        met, _ = match(asked, _times(heard.onsets), HEARD_SECONDS)
        words.append(f"{len(met)} of {len(asked)} onsets heard within {1000 * HEARD_SECONDS:g} ms")
    peak = float(np.abs(wave).max(initial=0.0))
    if peak > 1:
        words.append(f"peaks {20 * np.log10(peak):.1f} dB above full scale: a player cuts them off")
    return "; ".join(words)


def _times(onsets: tuple[Onset, ...] | None) -> np.ndarray:
    return np.array([onset.time for onset in onsets or ()])
