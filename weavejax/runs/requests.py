"""What a person asks of a clip: which files, how long it is, and the arrays that a system takes."""

import math
import os
import tempfile
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from weavejax.data.captions import find_table
from weavejax.data.clip import DecodeError
from weavejax.data.decode import Media, decode_audio
from weavejax.data.folder import open_folder
from weavejax.data.moments import MomentSpec
from weavejax.data.text import encode
from weavejax.data.writing import FORMS, check_film
from weavejax.dials.controls import Controls, When
from weavejax.dials.envelope import sample_count
from weavejax.errors import UserError
from weavejax.ops import log_mel
from weavejax.runs import assemble
from weavejax.runs.restore import Trained
from weavejax.systems.base import Generator

CONTROLS = ".controls.json"
SOUNDS = (".wav",)  # names of --out that ask for no film


@dataclass(frozen=True)
class Ask:
    """A clip that sound is asked for.

    Attributes:
      media: the file that is seen, and heard where `sound` names no other.
      out: name of the film that is made; the other files are named after it.
      controls: the controls file given; None where there is none.
      sound: the file whose sound the clip has.
      caption: from the caption file of a folder; "" without.
      seconds: exact length.
      film: whether there is a picture.
      heard: whether there is a sound.
    """

    media: Path
    out: Path
    controls: Path | None
    sound: Path
    caption: str
    seconds: Fraction
    film: bool
    heard: bool

    def beside(self, suffix: str) -> Path:
        """Another file of the same name."""
        return self.out.with_suffix(suffix)

    def samples(self, rate: int) -> int:
        """Exactly as many as the clip is long, rounded once."""
        return sample_count(1, 1 / self.seconds, rate)

    def own_sound(self, rate: int, *, stereo: bool) -> np.ndarray:
        """The clip's sound, cut or filled with silence to its length: float32 [S, channels].

        Raises:
          UserError: it cannot be read.
        """
        count = self.samples(rate)
        try:
            wave = decode_audio(self.sound, rate, stereo=stereo)
        except (DecodeError, OSError) as error:
            raise UserError(f"{self.sound}: its sound cannot be read: {error}") from error
        wave = wave[:count].reshape(-1, 2 if stereo else 1)
        return np.pad(wave, ((0, count - len(wave)), (0, 0)))


def find_asks(
    video: str, out: str, *, controls: str = "", sound: str = "", part: str = ""
) -> list[Ask]:
    """The clips of a command: one file, or those of a folder.

    Args:
      video: a media file, or a folder of them.
      out: name of the film to make, or for a folder the folder of the films.
      controls: a controls file, or a folder of files named after the clips.
      sound: a file whose sound stands for the clip's own; not for a folder.
      part: "K/N": every Nth clip of the folder, from the Kth on, so that N processes share it.

    Raises:
      UserError: whatever cannot be read, found or written. Broken files of a folder are named and left
        out.
    """
    root = Path(video)
    if not root.exists():
        raise UserError(f"--video {video}: there is no such file or folder")
    if not root.is_dir():
        if part:
            raise UserError("--part is for a folder of clips")
        ask = _ask(root, Path(out), Path(controls) if controls else None, sound or root, "")
        _check_places([ask])
        return [ask]
    if sound:
        raise UserError("--sound is for one clip, and --video is a folder")
    if controls and not Path(controls).is_dir():
        raise UserError("--controls must be a folder, as --video is")
    asks = []
    for media, given, caption, name in _shared(_listed(root), part):
        file = Path(controls) / f"{name}{CONTROLS}" if controls else None
        try:
            asks.append(_ask(media, Path(out) / f"{name}.mp4", file, given, caption))
        except _BrokenClip as broken:
            print(f"left out: {broken}", flush=True)
    if not asks:
        raise UserError(f"{video}: no clip is left to make sound for")
    _check_places(asks)
    return asks


class _BrokenClip(UserError):
    """A file that cannot be read; in a folder the others go on."""


def _listed(root: Path) -> list[tuple[Path, Path, str, str]]:
    """Of every clip: media, the file of its sound, caption, and name of its outputs."""
    source = open_folder(root, split="all", told=False)
    captioned = find_table(root, "") is not None
    found = {}
    for index in range(len(source)):
        video, audio = source.paths(index)
        media = video or audio
        assert media is not None  # `read_table` asks for one of the two
        captions, _ = source.text(index)
        found[media] = (audio or media, captions[0] if captioned and captions else "")
    names = {media: media.relative_to(root) for media in found}
    stems = Counter(name.with_suffix("") for name in names.values())
    return [
        # Two files that differ in their suffix alone keep it.
        (
            media,
            sound,
            caption,
            str(name if stems[name.with_suffix("")] > 1 else name.with_suffix("")),
        )
        for (media, (sound, caption)), name in zip(found.items(), names.values(), strict=True)
    ]


def _shared(clips: list[Any], part: str) -> list[Any]:
    if not part:
        return clips
    first, _, count = part.partition("/")
    if not (first.isdigit() and count.isdigit() and 0 <= int(first) < int(count)):
        raise UserError(f"--part {part!r} is not K/N, with K from 0 to N - 1")
    return clips[int(first) :: int(count)]


def _ask(media: Path, out: Path, controls: Path | None, sound: str | Path, caption: str) -> Ask:
    if controls is not None and not controls.is_file():
        raise UserError(f"there is no controls file {controls}")
    if not Path(sound).is_file():
        raise UserError(f"--sound {sound}: there is no such file")
    try:
        with Media(media) as opened:
            film = opened.has_video and not opened.still
            if not (film or opened.has_audio):
                raise DecodeError("nothing to see or hear")
            seconds, heard = opened.length(), opened.has_audio
    except (DecodeError, OSError) as error:
        raise _BrokenClip(f"{media} cannot be read: {error}") from error
    if seconds <= 0:
        raise _BrokenClip(f"{media} cannot be read: it has no length")
    heard = heard or Path(sound) != media
    return Ask(media, out, controls, Path(sound), caption, seconds, film, heard)


def _check_places(asks: list[Ask]) -> None:
    """That all outputs can be written, and overwrite nothing that was given."""
    for ask in asks:
        suffix = ask.out.suffix.lower()
        if suffix not in (*FORMS, *SOUNDS):
            raise UserError(f"--out {ask.out}: its name must end in {', '.join((*FORMS, *SOUNDS))}")
        given = {ask.media.resolve(), ask.sound.resolve()}
        for place in (ask.out, ask.beside(".wav")):
            if place.resolve() in given:
                raise UserError(
                    f"--out {ask.out} would overwrite {place} itself: give another name"
                )
        if ask.film and suffix in FORMS:
            check_film(ask.out, ask.media)
    for folder in {ask.out.parent for ask in asks}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(f"--out: nothing can be written to {folder}: {reason}") from error
    for ask in asks:
        if ask.out.is_dir() or (ask.out.exists() and not os.access(ask.out, os.W_OK)):
            raise UserError(f"--out {ask.out} cannot be written")


def request(
    trained: Trained,
    ask: Ask,
    controls: Controls,
    samples: int,
    tokenizer: Tokenizer | None,
    prompt_audio: str,
) -> dict[str, np.ndarray]:
    """The arrays that a `Generator` takes of one clip, without the leading dimension.

    Args:
      trained: with a generator.
      ask: the clip.
      controls: as edited.
      samples: that are made, as many as the clip has or more.
      tokenizer: of the run; None where the system reads nothing.
      prompt_audio: sound file whose meaning the sound is to have; "" for none.

    Raises:
      UserError: the frames cannot be read, or the controls are not such as the system follows.
    """
    maker, spec = trained.system.generator, trained.system.batch_spec
    assert maker is not None
    try:
        found = _condition(maker, controls.when or When(), ask.samples(maker.rate), samples)
    except UserError as error:
        raise UserError(f"{ask.media}: {error}") from error
    if "text" in spec:
        caption = (controls.what.caption if controls.what else None) or ""
        length = spec["text"].shape[1]
        found["text"] = np.zeros(length, np.int32)
        if caption.strip():
            assert tokenizer is not None
            found["text"] = encode(tokenizer, caption, length)
        found["text_mask"] = np.array(bool(caption.strip()))
    if "video" in spec:
        found["video"] = frames(ask, trained.config.inputs, samples / maker.rate)
        found["video_mask"] = np.array(ask.film)
    if prompt_audio:
        found |= _heard(trained, prompt_audio)
    return found


def _condition(maker: Generator, when: When, count: int, samples: int) -> dict[str, np.ndarray]:
    """The arrays of the controls of a clip of `count` samples, for `samples` of them."""
    if maker.when != "envelope":
        return dict(maker.condition(when, samples))
    # Silence comes after the clip, but not within the place of the state that holds its end.
    held = min(-count % maker.unit, samples - count)
    found = {}
    for name, curve in maker.condition(when, count).items():
        curve = np.pad(curve, ((0, held), (0, 0)), "edge")
        found[name] = np.pad(curve, ((0, samples - len(curve)), (0, 0)))
    return found


def frames(ask: Ask, inputs: Any, seconds: float) -> np.ndarray:
    """The clip at `inputs.fps`, as evaluation shows it: uint8 [T, size, size, 3]; T ≥ 1.

    After its end it stays on its last frame; zeros where there is no picture.
    """
    count = max(1, math.ceil(seconds * inputs.fps - 1e-6))
    if not ask.film:
        return np.zeros((count, inputs.size, inputs.size, 3), np.uint8)
    # In the middle of its span each frame is the one on display, whatever the rounding.
    times = [(k + 0.5) / inputs.fps for k in range(count)]
    try:
        with Media(ask.media) as media:
            found = media.frames(times, size=(inputs.side, inputs.side))
    except (DecodeError, OSError) as error:
        raise UserError(f"{ask.media}: its picture cannot be read: {error}") from error
    edge = (inputs.side - inputs.size) // 2
    return found[:, edge : edge + inputs.size, edge : edge + inputs.size]


def check_hears(trained: Trained, prompt_audio: str) -> None:
    """Raises UserError where the system takes no meaning from a sound, or there is no such file."""
    if prompt_audio and "heard" not in trained.system.batch_spec:
        raise UserError(
            f"--prompt_audio: this {trained.system.name} takes its meaning from words, "
            "not from a sound; give --prompt"
        )
    if prompt_audio and not Path(prompt_audio).is_file():
        raise UserError(f"--prompt_audio {prompt_audio}: there is no such file")


def _heard(trained: Trained, file: str) -> dict[str, np.ndarray]:
    """The arrays that say that the meaning is that of this sound, whatever the words are."""
    spec = assemble.recipe(trained.config)
    assert isinstance(spec, MomentSpec)
    try:
        wave = decode_audio(file, log_mel.RATE)
    except (DecodeError, OSError) as error:
        raise UserError(f"--prompt_audio {file} cannot be read: {error}") from error
    mel = spec.heard(wave, log_mel.RATE)
    if mel is None:
        raise UserError(f"--prompt_audio {file} is empty")
    return {"heard": mel, "heard_mask": np.array(True), "text_mask": np.array(False)}
