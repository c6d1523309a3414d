"""The files that are written for a clip, and a line about them."""

import json
from typing import Any

import numpy as np

from weavejax.data.writing import FORMS, write_film, write_sound
from weavejax.dials.controls import Controls, Onset, When, dump
from weavejax.dials.when import extract_when
from weavejax.metrics.onsets import match
from weavejax.runs.generation_plot import plot_generation
from weavejax.runs.requests import CONTROLS, Ask
from weavejax.storage import write_text
from weavejax.systems.base import Generator

HEARD_SECONDS = 0.05  # an onset within this is the one asked for


def write_controls(ask: Ask, controls: Controls) -> str:
    """The controls as a person would like to find them: indented, an onset or a curve a line.

    Returns:
      a line: where, and what they hold.
    """
    text = laid_out(json.loads(dump(controls)))
    path, when = ask.beside(CONTROLS), controls.when or When()
    write_text(path, text + "\n")
    words = []
    if when.onsets is not None:
        words.append(f"{len(when.onsets)} onsets")
    if when.envelope is not None:
        words.append(f"an envelope of {len(when.envelope.db)} values")
    return f"{path}: {' and '.join(words) or 'nothing of when'}"


def laid_out(value: Any, indent: str = "") -> str:
    """JSON, indented; what holds no further list or object stands in one line."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if not any(isinstance(each, dict | list) for each in inner):
        return json.dumps(value, ensure_ascii=False)
    marks, further = "{}" if isinstance(value, dict) else "[]", indent + "  "
    lines = [laid_out(each, further) for each in inner]
    if isinstance(value, dict):
        lines = [f"{json.dumps(key)}: {line}" for key, line in zip(value, lines, strict=True)]
    body = ",\n".join(further + line for line in lines)
    return f"{marks[0]}\n{body}\n{indent}{marks[1]}"


def write_clip(
    ask: Ask,
    controls: Controls,
    wave: np.ndarray,
    maker: Generator,
    span: tuple[float, float] | None,
) -> str:
    """All files of a clip.

    Args:
      ask: the clip.
      controls: asked for.
      wave: the sound that was made, float32 [S, channels].
      maker: that made it.
      span: what was made anew, seconds; None for all.

    Returns:
      a line: where, how long, how many onsets are heard where they were asked for, and a warning of
      a sound beyond full scale.
    """
    rate = maker.rate
    write_sound(ask.beside(".wav"), wave, rate)
    if ask.out.suffix.lower() in FORMS:
        write_film(ask.out, wave, rate, ask.media if ask.film else None)
    write_controls(ask, controls)
    heard = extract_when(wave, rate)
    plot_generation(ask.beside(".png"), ask, controls, wave, rate, heard, maker.when, span)
    words = [f"{ask.out}: {len(wave) / rate:.3f} s"]
    asked = _times(controls.when.onsets if controls.when else None)
    if len(asked):
        met, _ = match(asked, _times(heard.onsets), HEARD_SECONDS)
        found = len(heard.onsets or ())
        words.append(
            f"{len(met)} of {len(asked)} onsets heard within {1000 * HEARD_SECONDS:g} ms "
            f"({found} heard in all)"
        )
    peak = float(np.abs(wave).max(initial=0.0))
    if peak > 1:
        words.append(f"peaks {20 * np.log10(peak):.1f} dB above full scale: a player cuts them off")
    return "; ".join(words)


def _times(onsets: tuple[Onset, ...] | None) -> np.ndarray:
    return np.array([onset.time for onset in onsets or ()])
