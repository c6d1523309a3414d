"""One measured number with what makes it comparable: its full variant, how it was taken, its noise.

"FAD" names at least seven numbers in the literature, "KL" four. So a result has a variant id that
says which one it is (`frechet_vggish_raw`, `onset_f1_sound_50ms`), and a name without its suffixes
is refused.
"""

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from weavejax.metrics.interval import bootstrap_mean, bootstrap_spread

FEATURES = r"[a-z0-9]+(_[a-z0-9]+)*"
# Family → what must follow it. <features> names the network, its layer and its front end.
FAMILIES: Mapping[str, tuple[str, str]] = {
    # "_predicted": of an envelope that a network gave itself, not measured on a sound.
    "e_l1": (r"(16k|44k)_rms512_128(_predicted)?", "<rate>_rms512_128"),
    "envelope_correlation": (r"(16k|44k)_rms512_128(_predicted)?", "<rate>_rms512_128"),
    "envelope_skill": (r"16k_rms512_128_predicted", "<rate>_rms512_128_predicted"),
    "envelope_class_acc": (
        r"mu\d+_\d+(_smoothed)?_within_\d+",
        "mu<μ>_<classes>_within_<classes away>",
    ),
    "envelope_class_mae": (r"mu\d+_\d+(_smoothed)?", "mu<μ>_<classes>"),
    "control_skill": (r"16k_rms512_128", "16k_rms512_128"),
    "gain_error": (r"\d+db", "<decibels asked for>db"),
    "lag_error": (r"\d+ms", "<delay asked for>ms"),
    "onset_count_acc": (r"(paper|syncfusion|sound)(_annotated)?", "<mode>"),
    "onset_acc": (r"(paper|syncfusion|sound)_\d+ms(_annotated)?", "<mode>_<tolerance>ms"),
    "onset_ap": (r"(paper|syncfusion|sound)_\d+ms(_annotated)?", "<mode>_<tolerance>ms"),
    "onset_f1": (r"(paper|syncfusion|sound)_\d+ms(_annotated)?", "<mode>_<tolerance>ms"),
    "detector_ap": (r"(clips|pooled)_\d+ms|balanced_frames", "clips_<tolerance>ms"),
    "detector_f1": (r"clips_\d+ms", "clips_<tolerance>ms"),
    "detector_count_acc": (r"candidates", "candidates"),
    "detector_bce": (r"balanced_frames", "balanced_frames"),
    "si_sdr": (r"mid|side", "<mid or side>"),
    "stft_distance": (r"mid(_\d+)+", "mid_<sizes of the transforms>"),
    "log_mel_distance": (r"mid_\d+_\d+", "mid_<bands>_<window>"),
    "frechet": (FEATURES, "<features>"),
    "fad_inf": (FEATURES, "<features>"),
    "kad": (FEATURES, "<features>"),
    "kl": (rf"(softmax|sigmoid|logspace|bernoulli|reverse)_{FEATURES}", "<formula>_<features>"),
    "isc": (rf"\d+_{FEATURES}", "<splits>_<features>"),
    "clap_score": (rf"(audio|text)_{FEATURES}", "<audio or text>_<features>"),
    "saliency_kl": (rf"(generated_first|truth_first)_{FEATURES}", "<order>_<features>"),
}


# Of the families' numbers, those that are better when higher; of the others the lower is better.
HIGHER = (
    "envelope_correlation",
    "envelope_skill",
    "envelope_class_acc",
    "control_skill",
    "onset_",
    "detector_ap",
    "detector_f1",
    "detector_count_acc",
    "si_sdr",
    "isc",
    "clap_score",
)


def direction(variant: str) -> int:
    """+1 where higher is better, −1 where lower is, 0 for what is no known metric."""
    if not any(variant.startswith(family) for family in FAMILIES):
        return 0
    return 1 if variant.startswith(HIGHER) else -1


def check_variant(name: str) -> str:
    """The name itself, when it says which variant of its metric it is.

    Raises:
      ValueError: it does not; the line says what has to follow.
    """
    for family, (rest, form) in FAMILIES.items():
        if name == family or name.startswith(f"{family}_"):
            if re.fullmatch(rest, name[len(family) + 1 :]):
                return name
            raise ValueError(f"{name!r} does not say which {family} it is: {family}_{form}")
    raise ValueError(f"{name!r} is of no known metric; known are {', '.join(FAMILIES)}")


def manifest_hash(ids: Iterable[str]) -> str:
    """16 hex digits that tell which clips were measured, whatever their order."""
    lines = "".join(f"{each}\n" for each in sorted(ids))
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Taken:
    """How a number was taken.

    Attributes:
      manifest: `manifest_hash` of the clips.
      rate: of the sound that was measured, Hz.
      resampler: that led to this rate, `none` when there was none; None where nothing has a rate.
    """

    manifest: str
    rate: int | None = None
    resampler: str | None = None


@dataclass(frozen=True)
class Measured:
    """A result.

    Attributes:
      variant: full id; see `check_variant`.
      value: the number.
      count: clips (or rows) it is of.
      interval: low and high end, 95 %, from drawing the clips again; None where it was not asked for.
      taken: how.
      skipped: why clips were left out → how many.
      beside: what to read it against: the value of silence, the number of points of a fit.
    """

    variant: str
    value: float
    count: int
    interval: tuple[float, float] | None
    taken: Taken
    skipped: Mapping[str, int] = field(default_factory=dict)
    beside: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_variant(self.variant)
        if not self.taken.manifest:
            raise ValueError(f"{self.variant}: a result needs the hash of its clips")

    def plain(self) -> dict[str, Any]:
        """For JSON; what is not a number is null."""
        return {
            "value": _finite(self.value),
            "interval": None if self.interval is None else [_finite(v) for v in self.interval],
            "n": self.count,
            "skipped": dict(self.skipped),
            "rate": self.taken.rate,
            "resampler": self.taken.resampler,
            "manifest": self.taken.manifest,
            "beside": {name: _finite(value) for name, value in self.beside.items()},
        }


def measure_mean(
    variant: str,
    values: Sequence[float] | np.ndarray,
    taken: Taken,
    *,
    undefined: str = "undefined",
    beside: Mapping[str, float] | None = None,
) -> Measured:
    """Mean over clips with its interval; clips of which the value is NaN are left out and counted.

    Args:
      variant: full id.
      values: [n], one a clip.
      taken: how they were taken.
      undefined: why a value may be NaN.
      beside: see `Measured`.
    """
    array = np.asarray(values, np.float64)
    known = array[~np.isnan(array)]
    missing = len(array) - len(known)
    return Measured(
        variant,
        float(known.mean()) if len(known) else math.nan,
        len(known),
        bootstrap_mean(known) if len(known) else None,
        taken,
        {undefined: missing} if missing else {},
        beside or {},
    )


def measure_set(
    variant: str,
    value: float,
    statistic: Callable[[np.ndarray], float],
    clips: int,
    taken: Taken,
    *,
    resamples: int,
    members: int | None = None,
    beside: Mapping[str, float] | None = None,
) -> Measured:
    """A statistic of a whole set of clips, with its interval (`interval.bootstrap_spread`).

    Args:
      variant: full id.
      value: the statistic of all clips.
      statistic: of the clips with the numbers it is given, int [n], some of them more than once.
      clips: how many there are.
      taken: how.
      resamples: draws for the interval; 0 for none.
      members: how many numbers to draw from; None for the clips.
      beside: see `Measured`.
    """
    interval = None
    if resamples:
        interval = bootstrap_spread(statistic, members or clips, value, resamples)
    return Measured(variant, float(value), clips, interval, taken, {}, beside or {})


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
