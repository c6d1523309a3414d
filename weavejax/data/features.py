"""What frozen networks gave for every clip, kept on disk: records, reading them, learning from them.

A directory holds one split: ArrayRecord shards that any TFDS reader opens, and `manifest.json` that
says by what they were made and of what. Record k belongs to record k of the source. `FeatureClips` and
`FeatureSpec` put them into the pipeline in the place of clips: same order, same replacements.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tokenizers import Tokenizer

from weavejax.data.clip import Clip, DecodeError
from weavejax.data.recipe import Example, Field
from weavejax.errors import UserError

NAME, SPLIT, MANIFEST = "features", "clips", "manifest.json"  # "all" means something to TFDS
RAW = tfds.core.decode.DeserializeMethod.RAW_BYTES
TEXTS = ("id", "captions", "subtitle")


def feature_record(arrays: Mapping[str, tuple[int, ...]]) -> tfds.features.FeaturesDict:
    """Of one clip's record: its texts, `valid`, and float32 arrays of these shapes with masks."""
    text, flag = tfds.features.Text, tfds.features.Scalar(np.bool_)
    fields: dict[str, Any] = {
        "id": text(),
        "captions": tfds.features.Sequence(text()),
        "subtitle": text(),
        "valid": flag,
    }
    for name, shape in arrays.items():
        fields[name] = tfds.features.Tensor(shape=shape, dtype=np.float32)
        fields[f"{name}_mask"] = flag
    return tfds.features.FeaturesDict(fields)


@dataclass(frozen=True)
class FeatureClip(Clip):
    """A clip of which only its features are at hand.

    Attributes:
      arrays: as `FeatureSource` gives them.
    """

    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


class FeatureSource:
    """The features of one split; see `open_features`. Picklable.

    Attributes:
      manifest: what they were made by, and of what.
      fingerprint: changes with the weights, the clips and what of them was kept.
    """

    def __init__(self, records: Sequence[bytes], features: Any, manifest: dict[str, Any]) -> None:
        self._records, self._all = records, features
        self._texts = tfds.features.FeaturesDict({name: features[name] for name in TEXTS})
        self.manifest = manifest
        self.fingerprint = str(manifest["fingerprint"])

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """`<name>` float32, `<name>_mask` bool and `valid` bool of record `index`."""
        return dict(self.clip(index).arrays)

    def clip(self, index: int) -> FeatureClip:
        """Record `index` with its id and texts."""
        record = self._all.deserialize_example_np(self._records[index])
        name, captions, subtitle = (record.pop(each) for each in TEXTS)
        return FeatureClip(
            name.decode(),
            captions=tuple(caption.decode() for caption in captions),
            subtitle=subtitle.decode(),
            arrays={each: np.asarray(value) for each, value in record.items()},
        )

    def id(self, index: int) -> str:
        """The id of the clip of record `index`."""
        return str(self._text(index)["id"].decode())

    def text(self, index: int) -> tuple[tuple[str, ...], str]:
        """Captions and subtitle of the clip of record `index`."""
        record = self._text(index)
        captions = tuple(caption.decode() for caption in record["captions"])
        return captions, record["subtitle"].decode()

    def captions(self) -> Sequence[str]:
        """Every caption, in order."""
        return [caption for index in range(len(self)) for caption in self.text(index)[0]]

    def _text(self, index: int) -> Any:
        return self._texts.deserialize_example_np(self._records[index])


def open_features(directory: str | Path) -> FeatureSource:
    """Opens what `weavejax.extract` wrote.

    Raises:
      UserError: nothing finished is there.
    """
    directory = Path(directory)
    if not (directory / "dataset_info.json").is_file():
        begun = (directory / MANIFEST).is_file()
        rest = "they are not finished: start the same command again" if begun else "there are none"
        raise UserError(f"{directory} holds no features to read: {rest}")
    builder = tfds.builder_from_directory(str(directory))
    records = builder.as_data_source(SPLIT, deserialize_method=RAW)
    manifest = json.loads((directory / MANIFEST).read_bytes())
    return FeatureSource(records, builder.info.features, manifest)


class FeatureClips:
    """Features as a source of clips (`weavejax.data.clip.Source`), for `FeatureSpec`.

    Attributes:
      networks: first name of parameters → digest, of what made them.
    """

    def __init__(self, source: FeatureSource) -> None:
        self._source = source
        self.networks: dict[str, str] = source.manifest["networks"]
        self.fingerprint = source.fingerprint

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Clip:
        """Reads the features of clip `index`."""
        return self._source.clip(index)

    def id(self, index: int) -> str:
        """The id of the clip."""
        return self._source.id(index)

    def text(self, index: int) -> tuple[tuple[str, ...], str]:
        """The captions and the subtitle of the clip."""
        return self._source.text(index)

    def captions(self) -> Sequence[str]:
        """Every caption, in order."""
        return self._source.captions()


@dataclass(frozen=True)
class FeatureSpec:
    """From a record of features to an example; nothing is drawn (`weavejax.data.recipe`).

    Attributes:
      arrays: name and shape of each.
    """

    arrays: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def stored(self) -> dict[str, Field]:
        """Nothing: they are on disk as they are."""
        return {}

    @property
    def key(self) -> dict[str, Any]:
        """See `weavejax.data.recipe`."""
        return {"arrays": self.arrays}

    def decode(self, clip: Clip) -> dict[str, Any]:
        """`<name>` float32 and `<name>_mask` bool; raises DecodeError of a clip that was unreadable."""
        assert isinstance(clip, FeatureClip)
        if not clip.arrays["valid"]:
            raise DecodeError("it could not be read when its features were made")
        return {name: clip.arrays[name] for name in self.empty()}

    def sample(
        self,
        decoded: Mapping[str, Any],
        captions: tuple[str, ...],
        subtitle: str,
        tokenizer: Tokenizer | None,
        rng: np.random.Generator | None,
    ) -> Example:
        """What was decoded, whatever the chance."""
        del captions, subtitle, tokenizer, rng
        return dict(decoded)

    def wear(self, example: Example, record: int) -> Example:
        """As it is."""
        del record
        return example

    def empty(self) -> Example:
        """An example with everything missing."""
        arrays = {name: np.zeros(shape, np.float32) for name, shape in self.arrays}
        return {**arrays, **{f"{name}_mask": np.array(False) for name in arrays}}
