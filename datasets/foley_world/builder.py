"""The TFDS builder: stages all clips, then writes ArrayRecord files, without TensorFlow."""

import contextlib
import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from weavejax.errors import UserError

from . import captions, staging
from .scene import Options


@dataclass(eq=False)
class WorldConfig(tfds.core.BuilderConfig):
    """One size and make of the world; its name says all that changes its content."""

    train: int = 2048
    test: int = 256
    kinds: tuple[str, ...] = ("hits", "walk")
    options: Options = field(default_factory=Options)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without TFDS's chatter (stdout and log) and bars; ours and all errors are on stderr."""
    level = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    tfds.display_progress_bar(False)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.display_progress_bar(True)
        logging.set_verbosity(level)


with tfds.core.registered.skip_registration():

    class FoleyWorld(tfds.core.GeneratorBasedBuilder):
        """Rendered clips with exact ground truth."""

        VERSION = tfds.core.Version("1.0.1")
        code_path = None  # not part of a package, so there is no checksums file to look for
        processes = 0

        def _info(self) -> tfds.core.DatasetInfo:
            text = tfds.features.Text
            return tfds.core.DatasetInfo(
                builder=self,
                description="Rendered scenes that sound, with exact ground truth of when, what "
                "and where.",
                features=tfds.features.FeaturesDict(
                    {
                        "id": text(),
                        "video": tfds.features.Scalar(np.object_),
                        "audio": tfds.features.Scalar(np.object_),
                        "captions": tfds.features.Sequence(text()),
                        "subtitle": text(),
                        "controls": text(),
                    }
                ),
                disable_shuffling=True,  # record k is clip k
            )

        @property
        def staging(self) -> Path:
            """Where clips wait until the data set is written."""
            config = f"{self.builder_config.name}-{self.version}"
            return Path(self._data_dir_root) / f".{self.name}-staging" / config

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Any]]:
            config = self.builder_config
            splits = {"train": config.train, "test": config.test}
            staging.fill(self.staging, splits, config.kinds, config.options, self.processes)
            return {split: self._generate_examples(split, count) for split, count in splits.items()}

        def _generate_examples(self, split: str, count: int) -> Iterator[Any]:
            yield from staging.examples(self.staging, split, count)

        def download_and_prepare(self, **options: Any) -> None:
            """Makes the data set unless it is there; goes on where an earlier run was ended."""
            with _quiet():
                super().download_and_prepare(**options)
            shutil.rmtree(self.staging, ignore_errors=True)


def builder(data_dir: str, **options: Any) -> tfds.core.GeneratorBasedBuilder:
    """The builder of one size and make of the world.

    Args:
      data_dir: folder of prepared data sets.
      **options: train (2048) and test (256), clips; seed (0); kinds (("hits", "walk")), scenes
        that take turns; duration (4.0 s); size (112 pixels); fps (15); rate (44100 Hz);
        processes (0: one per usable core), which changes nothing in the bytes.

    Raises:
      UserError: an option is unknown or impossible.
    """
    processes = int(options.pop("processes", 0))
    kinds = options.pop("kinds", ("hits", "walk"))
    kinds = tuple(kinds.split(",")) if isinstance(kinds, str) else tuple(kinds)
    train, test = int(options.pop("train", 2048)), int(options.pop("test", 256))
    try:
        shared = Options(**options)
    except TypeError:
        known = "train, test, kinds, processes, " + ", ".join(Options.__dataclass_fields__)
        unknown = ", ".join(sorted(set(options) - set(Options.__dataclass_fields__)))
        raise UserError(f"foley_world: unknown option {unknown} (known: {known})") from None
    _check(train, test, kinds, shared)
    config = WorldConfig(
        name=_name(train, test, kinds, shared), train=train, test=test, kinds=kinds, options=shared
    )
    with _quiet():
        made = FoleyWorld(data_dir=data_dir, config=config, file_format="array_record")
    made.processes = processes
    return made


def _check(train: int, test: int, kinds: tuple[str, ...], options: Options) -> None:
    for kind in kinds:
        if kind not in captions.KINDS:
            known = ", ".join(captions.KINDS)
            raise UserError(f"foley_world: unknown kind of scene '{kind}' (known: {known})")
    if not kinds or len(set(kinds)) != len(kinds):
        raise UserError("foley_world: kinds must name each kind of scene once")
    for split, count in (("train", train), ("test", test)):
        most = len(kinds) * min(captions.capacity(kind, split == "test") for kind in kinds)
        if not 1 <= count <= most:
            raise UserError(f"foley_world: {split} must be from 1 to {most} clips, is {count}")
    if options.size % 28 or not 28 <= options.size <= 1120:
        raise UserError(f"foley_world: size must be a multiple of 28 up to 1120, is {options.size}")
    for name, low, high in (
        ("duration", 2.0, 30.0),
        ("fps", 4, 60),
        ("rate", 8000, 96000),
        ("seed", 0, 2**31),
    ):
        value = getattr(options, name)
        if not low <= value <= high:
            raise UserError(f"foley_world: {name} must be from {low} to {high}, is {value}")


def _name(train: int, test: int, kinds: tuple[str, ...], options: Options) -> str:
    parts = ["_".join(kinds), f"{train}x{test}", f"s{options.seed}", f"{options.size}px"]
    usual = Options()
    parts += [
        f"{value:g}{unit}"
        for value, unit, same in (
            (options.duration, "s", options.duration == usual.duration),
            (options.fps, "fps", options.fps == usual.fps),
            (options.rate, "hz", options.rate == usual.rate),
        )
        if not same
    ]
    return "-".join(parts)
