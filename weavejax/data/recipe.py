"""What the pipeline and the cache need to know of the examples they make."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from tokenizers import Tokenizer

from weavejax.data.clip import Clip

Example = dict[str, np.ndarray]


class Field(NamedTuple):
    """An array of a decoded clip as it is kept on disk.

    Attributes:
      shape: of one clip's array; it may have fewer rows if `ragged`.
      dtype: as kept.
      ragged: whether the first axis may be shorter; else the array is whole or missing.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    ragged: bool = False


class Recipe(Protocol):
    """From a clip to one example, in two pure steps. Picklable, and without device arrays.

    `decode` is expensive and free of chance, so its result can be kept; `sample` is cheap and draws
    everything random.
    """

    @property
    def stored(self) -> Mapping[str, Field]:
        """The arrays that `decode` gives, by name; each has a bool `<name>_mask` beside it.

        None where what it gives is on disk as it is: nothing is kept again.
        """
        ...

    @property
    def key(self) -> Mapping[str, Any]:
        """What decoding depends on."""
        ...

    def decode(self, clip: Clip) -> dict[str, Any]:
        """Everything an example can be drawn from. Raises DecodeError when the media is broken."""
        ...

    def sample(
        self,
        decoded: Mapping[str, Any],
        captions: tuple[str, ...],
        subtitle: str,
        tokenizer: Tokenizer | None,
        rng: np.random.Generator | None,
    ) -> Example:
        """Draws one example; without `rng`, as evaluation takes it."""
        ...

    def wear(self, example: Example, record: int) -> Example:
        """A training example as it is given to the system; what it has lost hangs on the record."""
        ...

    def empty(self) -> Example:
        """An example of the right shapes with everything missing."""
        ...
