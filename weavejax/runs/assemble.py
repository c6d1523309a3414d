"""What the doors share: from a config to data, tokenizer and evaluation."""

import hashlib
import inspect
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from weavejax.data.clip import Source
from weavejax.data.example import ExampleSpec
from weavejax.data.folder import FolderSource, open_folder
from weavejax.data.moments import MomentSpec
from weavejax.data.recipe import Recipe
from weavejax.data.sources import TfdsSource, open_tfds, prepare_tfds
from weavejax.data.text import load_tokenizer, marks, train_tokenizer
from weavejax.data.windows import WindowedSource
from weavejax.errors import UserError
from weavejax.storage import Storage, download, is_remote, storage, upload, write_text

TOKENIZER = "tokenizer.json"
TRAINED_ON_CAPTIONS = "captions"
PRINTED_STREAMS = 20  # of more clips, the streams are written to a file


@dataclass(frozen=True)
class Data:
    """The opened data of a run.

    Attributes:
      train: clips to learn from.
      test: clips to evaluate on.
      held_out: whether the two are disjoint.
      spec: how a clip becomes an example.
      tokenizer: of captions and subtitles; None where the examples have no text.
      cache: directory of decoded clips; "" = none.
      learnt: how a training clip becomes one, where not as `spec` says (`runs.learning`).
    """

    train: Source
    test: Source
    held_out: bool
    spec: Recipe
    tokenizer: Tokenizer | None
    cache: str
    learnt: Recipe | None = None

    @property
    def train_spec(self) -> Recipe:
        """How a training clip becomes an example."""
        return self.learnt or self.spec

    @property
    def vocabulary(self) -> str:
        """The tokenizer as text; "" without one."""
        return "" if self.tokenizer is None else self.tokenizer.to_str()

    def describe(self) -> str:
        """Two lines for people."""
        gallery = "held out" if self.held_out else "the training clips themselves, not held out"
        words = (
            f"{len(self.train):,} training clips, {len(self.test):,} evaluation clips ({gallery})"
        )
        if self.tokenizer is not None:
            words += f"; vocabulary of {self.tokenizer.get_vocab_size():,}"
        return words

    def missing(self) -> str:
        """What was missing when the set was prepared: a table; empty where nobody counted."""
        source = self.train.source if isinstance(self.train, WindowedSource) else self.train
        return source.report.rstrip() if isinstance(source, TfdsSource) else ""


def gallery_facts(source: Source) -> dict[str, Any]:
    """What tells one evaluation gallery from another: its size, and a hash of its clips' ids."""
    ids = sorted(source.id(number) for number in range(len(source)))
    digest = hashlib.sha256("\n".join(ids).encode()).hexdigest()
    return {"evaluation clips": len(ids), "sha256 of the evaluation clips' ids": digest}


RECIPES: dict[str, Callable[..., Recipe]] = {
    "clips": ExampleSpec,
    "moments": MomentSpec,
    "latents": MomentSpec,  # of clips: what training learns from is the affair of `runs.learning`
}


def recipe(config: Any) -> Recipe:
    """How a clip becomes an example, by `config.inputs`.

    Raises:
      UserError: `inputs.kind` names none that there is.
    """
    kind = config.inputs.get("kind", "clips")
    if kind not in RECIPES:
        raise UserError(f"inputs.kind {kind!r} is none of {', '.join(RECIPES)}")
    made = RECIPES[kind]
    names = inspect.signature(made).parameters.keys()
    return made(**{name: config.inputs[name] for name in names & set(config.inputs)})


def example_spec(config: Any) -> ExampleSpec:
    """The shapes of a system that embeds clips.

    Raises:
      UserError: the config's system does not.
    """
    made = recipe(config)
    if not isinstance(made, ExampleSpec):
        raise UserError(f"the system {config.system} does not embed clips")
    return made


def windowed(source: Source, config: Any) -> Source:
    """The source, cut into `inputs.windows` where the examples are moments of a clip."""
    count = config.inputs.get("windows", 1)
    if count < 1:
        raise UserError(f"inputs.windows is {count}: it must be at least 1")
    return source if count == 1 else WindowedSource(source, count, config.inputs.seconds)


def open_data(config: Any, workdir: Path) -> Data:
    """Prepares (once) and opens the data that `config.data` names; trains or loads the tokenizer.

    Raises:
      UserError: unknown source, nothing to train on, fewer clips than a batch, and everything that
        the sources themselves find wrong.
    """
    data = config.data
    if data.source == "dataset":
        directory = _prepared(data)
        train, test, held_out = open_tfds(directory, "train"), open_tfds(directory, "test"), True
    elif data.source == "files":
        if not data.root:
            raise UserError("data.root is empty: give the folder of clips, --config.data.root=DIR")
        root = fetched(data.root, data.local)
        train, test = (
            open_folder(root, data.captions, split=split, holdout=data.holdout)
            for split in ("train", "test")
        )
        held_out = not {train.id(i) for i in range(len(train))} & {
            test.id(i) for i in range(len(test))
        }
    else:
        raise UserError(f"data.source {data.source!r} is neither 'dataset' nor 'files'")
    train, test = windowed(train, config), windowed(test, config)
    if len(train) < config.batch:
        raise UserError(
            f"{len(train)} training clips do not fill a batch of {config.batch}; "
            f"give --config.batch={max(len(train), 1)} or less"
        )
    return Data(
        train, test, held_out, recipe(config), _tokenizer(config, train, workdir), data.cache
    )


def fetched(place: str, local: str) -> Path:
    """A folder of data on this machine: itself, or of an object store the copy below `local`."""
    source = storage(place)
    if not is_remote(source):
        return source
    copy = Path(local) / re.sub(r"[^A-Za-z0-9._-]+", "_", place)
    download(source, copy, title=f"copying {place}")
    return copy


def _prepared(data: Any) -> Path:
    """The prepared data set; one on an object store is copied from there, or there once made."""
    place, options = storage(data.directory), data.options.to_dict()
    if not is_remote(place):
        return prepare_tfds(data.dataset, data.directory, options)
    here = fetched(data.directory, data.local) if place.exists() else None
    copy = here or Path(data.local) / re.sub(r"[^A-Za-z0-9._-]+", "_", data.directory)
    directory = prepare_tfds(data.dataset, copy, options)
    there = place / directory.relative_to(copy).as_posix()
    if not (there / "dataset_info.json").exists():
        upload(directory, there)
    return directory


def keep_tokenizer(data: Data, workdir: Storage) -> None:
    """Writes it where the run's doors look for it."""
    if data.vocabulary:
        write_text(workdir / TOKENIZER, data.vocabulary)


def say_streams(source: Source, workdir: Path | None = None) -> None:
    """Says which streams of a folder's files are used: here when few, else in streams.jsonl."""
    source = source.source if isinstance(source, WindowedSource) else source
    if not isinstance(source, FolderSource):
        return
    if len(source) <= PRINTED_STREAMS:
        print("\n".join(source.describe()), flush=True)
    elif workdir is not None:
        rows = (json.dumps(row, ensure_ascii=False) for row in source.streams())
        write_text(workdir / "streams.jsonl", "\n".join(rows) + "\n")
        print(f"which streams are used: {workdir}/streams.jsonl", flush=True)


def _tokenizer(config: Any, train: Source, workdir: Path) -> Tokenizer | None:
    """Of this run: as kept in its working directory, else made now; None without any text."""
    if not config.inputs.text_length:
        return None
    kept = workdir / TOKENIZER
    if not kept.exists() and config.inputs.tokenizer == TRAINED_ON_CAPTIONS:
        return _checked(train_tokenizer(train.captions(), config.model.text.vocab), config)
    return find_tokenizer(config, workdir)


def find_tokenizer(config: Any, workdir: Path | None) -> Tokenizer:
    """As kept in a run's working directory, else the one that the config names.

    Raises:
      UserError: it is neither kept nor named, of another kind than the text encoder, or too large.
    """
    if workdir is not None and (workdir / TOKENIZER).exists():
        return _checked(load_tokenizer(str(workdir / TOKENIZER)), config)
    if config.inputs.tokenizer == TRAINED_ON_CAPTIONS:
        raise UserError(
            "the vocabulary is that of a run's captions: give its file, "
            "--config.inputs.tokenizer=RUN/tokenizer.json"
        )
    return _checked(load_tokenizer(config.inputs.tokenizer), config)


def _checked(tokenizer: Tokenizer, config: Any) -> Tokenizer:
    kind, wanted = marks(tokenizer).kind, config.model.text.get("kind", "bert")
    if kind != wanted:
        raise UserError(
            f"inputs.tokenizer {config.inputs.tokenizer!r} is of the kind {kind!r}, "
            f"model.text.kind is {wanted!r}"
        )
    if tokenizer.get_vocab_size() > config.model.text.vocab:
        raise UserError(
            f"the tokenizer has {tokenizer.get_vocab_size():,} entries, the text encoder "
            f"{config.model.text.vocab:,}; set --config.model.text.vocab"
        )
    return tokenizer
