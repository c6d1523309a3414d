"""Published layouts of weights: from a whole file's state dict to parameters, and back exactly.

A `Format` says how the keys of a kind of file are spelt and which `Part` of a model stands where.
Sizes are read off the arrays. What no model here uses is kept beside the parameters, under
``published/<key>``, so that the same file can be written again.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from weavejax.errors import UserError
from weavejax.models import bert, spectrogram, vit
from weavejax.models.torch_names import Arrays, Shapes, Table, keys_of, read, under, write
from weavejax.weights.coverage import Coverage, Group

KEPT = "published/"  # where the keys stand that nothing here uses
ALLOWED = "not known, kept as asked"


class Part(NamedTuple):
    """One model in a published file.

    Attributes:
        path: prefix of its leaves.
        key: prefix of its keys.
        config: class of its sizes.
        sizes: state dict → config.
        table: config → where each leaf comes from.
        shapes: config → shape of each leaf.
    """

    path: str
    key: str
    config: type
    sizes: Callable[[Arrays], Any]
    table: Callable[[Any], Table]
    shapes: Callable[[Any], Shapes]


def same(key: str) -> str:
    """The key itself."""
    return key


@dataclass(frozen=True)
class Format:
    """A published layout.

    Attributes:
        about: what it is, in a few words.
        marks: official keys that, all together, no other format has.
        parts: of the parameters.
        official: a key of a file → its official spelling.
        kept: what is kept without being used: group → regex of official keys.
        ties: official key → the key of a parameter whose tensor it shares, where a file does not
            say otherwise: it follows that parameter through training.
    """

    about: str
    marks: tuple[str, ...]
    parts: tuple[Part, ...]
    official: Callable[[str], str] = same
    kept: Mapping[str, str] = field(default_factory=dict)
    ties: Mapping[str, str] = field(default_factory=dict)

    def recognises(self, keys: Mapping[str, Any]) -> bool:
        """Whether a file with these keys is of this format."""
        return not self.lacks(keys)

    def lacks(self, keys: Mapping[str, Any]) -> set[str]:
        """The marks that are not among a file's keys."""
        return set(self.marks) - {self.official(key) for key in keys}


class Converted(NamedTuple):
    """A published file as parameters.

    Attributes:
        leaves: path → array, views in the file's types; ``published/<key>`` what is only kept.
        sizes: config of each part by its path's first name.
        spellings: official key → the file's, where they differ.
        ties: those of the format's that hold in this file.
        coverage: what became of every key.
    """

    leaves: dict[str, np.ndarray]
    sizes: dict[str, dict[str, Any]]
    spellings: dict[str, str]
    ties: dict[str, str]
    coverage: Coverage


def convert_file(state: Arrays, kind: Format, *, allow: str = "") -> Converted:
    """Reads a published file's state dict.

    Args:
        state: as in the file.
        kind: its format.
        allow: regex of official keys that may be missing, or be there without use; "" is none.

    Raises:
        UserError: the arrays that tell the sizes are missing or absurd, arrays are empty, or two
            keys are one.
    """
    spelt = {kind.official(key): key for key in state}
    if len(spelt) < len(state):
        twice = sorted(set(state) - set(spelt.values()))
        raise UserError(f"these keys stand twice, in two spellings: {', '.join(twice)}")
    arrays = {key: state[there] for key, there in spelt.items()}
    # Without numbers a shape may be any, and a model of it too large even to describe.
    if empty := [key for key, array in arrays.items() if not array.size]:
        raise UserError(f"these arrays hold no numbers: {', '.join(sorted(empty))}")
    tables: dict[str, Table] = {}
    shapes: Shapes = {}
    sizes: dict[str, dict[str, Any]] = {}
    for part in kind.parts:
        try:
            config = part.sizes(_under(arrays, part.key))
            shapes |= {part.path + path: shape for path, shape in part.shapes(config).items()}
        except KeyError as error:
            missing = f"{part.key}{error.args[0]}"
            raise UserError(
                f"{kind.about} tells its sizes by {missing}, which is missing"
            ) from error
        except (ValueError, IndexError, TypeError, ArithmeticError) as error:
            raise UserError(
                f"{kind.about} tells its sizes by the shapes of {part.key}*, of which no model "
                f"can be: {str(error).splitlines()[0]}"
            ) from error
        sizes[_name(part)] = asdict(config)
        tables[_name(part)] = under(part.path, part.key, part.table(config))
    table = {path: source for part in tables.values() for path, source in part.items()}
    if table.keys() != shapes.keys():
        raise AssertionError(f"table and models differ: {table.keys() ^ shapes.keys()}")
    found = read(arrays, table, shapes)
    known = keys_of(table)
    rest = [key for key in arrays if key not in known]
    groups = {name: [k for k in rest if re.search(p, k)] for name, p in kind.kept.items()}
    left = sorted(set(rest) - {key for keys in groups.values() for key in keys})
    if allow:
        groups[ALLOWED] = [key for key in left if re.search(allow, key)]
    kept = {key for keys in groups.values() for key in keys}
    coverage = Coverage(
        used=[_used(name, part, arrays) for name, part in tables.items()],
        kept=[Group(n, len(k), sum(arrays[x].size for x in k)) for n, k in groups.items() if k],
        unused=[key for key in left if key not in kept],
        missing=[key for key in found.missing if not (allow and re.search(allow, key))],
        misfits=found.misfits,
    )
    ties = {
        key: to
        for key, to in kind.ties.items()
        if key in kept and to in arrays and np.array_equal(arrays[key], arrays[to])
    }
    return Converted(
        leaves=found.leaves
        | {KEPT + key: arrays[key] for key in arrays if key in kept - set(ties)},
        sizes=sizes,
        spellings={key: there for key, there in spelt.items() if key != there},
        ties=ties,
        coverage=coverage,
    )


def restore_file(
    leaves: Arrays,
    kind: Format,
    sizes: Mapping[str, Mapping[str, Any]],
    spellings: Mapping[str, str],
    ties: Mapping[str, str],
) -> dict[str, np.ndarray]:
    """The inverse of `convert_file`: a state dict in the spelling of the file that was read.

    Raises:
        UserError: the sizes are not this format's, or a leaf is of none of its keys.
    """
    table: Table = {}
    for part in kind.parts:
        try:
            config = part.config(**sizes[_name(part)])
        except (KeyError, TypeError) as error:
            raise UserError(f"the sizes of {_name(part)} are not those of {kind.about}") from error
        if getattr(config, "layers", 0) > len(leaves):
            raise UserError(f"{config.layers} blocks of {_name(part)} in {len(leaves)} arrays")
        table |= under(part.path, part.key, part.table(config))
    kept = {path.removeprefix(KEPT): leaves[path] for path in leaves if path.startswith(KEPT)}
    strange = [path for path in leaves if path not in table and not path.startswith(KEPT)]
    if strange:
        raise UserError(f"{kind.about} has no place for {', '.join(sorted(strange))}")
    state = write(leaves, {path: source for path, source in table.items() if path in leaves}) | kept
    state |= {key: state[to] for key, to in ties.items() if to in state}
    return {spellings.get(key, key): array for key, array in state.items()}


def _name(part: Part) -> str:
    return part.path.rstrip("/") or part.config.__name__.removesuffix("Config").lower()


def _under(arrays: Arrays, prefix: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): x for k, x in arrays.items() if k.startswith(prefix)}


def _used(name: str, table: Table, arrays: Arrays) -> Group:
    keys = keys_of(table) & arrays.keys()
    first = {source.key for source in table.values()} & keys
    return Group(name, len(keys), sum(arrays[key].size for key in first))


def vision(key: str) -> Part:
    """The image tower, its keys below ``key``."""
    return Part("vision/", key, vit.ViTConfig, vit.sizes, vit.table, vit.shapes)


def audio(key: str) -> Part:
    """The audio tower."""
    module = spectrogram
    return Part("audio/", key, module.SpectrogramConfig, module.sizes, module.table, module.shapes)


def text(key: str) -> Part:
    """The text tower."""
    return Part("text/", key, bert.BertConfig, bert.sizes, bert.table, bert.shapes)


def _hugging_face(key: str) -> str:
    """BERT's keys without the prefix that pre-training models have, norms spelt as today."""
    key = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", key.removeprefix("bert."))
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", key)


EVA = Format(
    about="an EVA-CLIP image tower (EVA-CLIP's file or timm's)",
    marks=("patch_embed.proj.weight", "blocks.0.attn.q_bias", "blocks.0.mlp.fc1.weight"),
    parts=(vision(""),),
    official=lambda key: key.removeprefix("visual."),
    kept={"EVA-CLIP's text tower": r"^text\.", "EVA-CLIP's temperature": r"^logit_scale$"},
)
BEATS = Format(
    about="a BEATs audio tower",
    marks=("patch_embedding.weight", "encoder.layers.0.self_attn.grep_a"),
    parts=(audio(""),),
    official=spectrogram.official,
    kept={"classifier": r"^predictor\."},
)
BERT = Format(
    about="a BERT (transformers' layout)",
    marks=("embeddings.word_embeddings.weight", "encoder.layer.0.attention.self.query.weight"),
    parts=(text(""),),
    official=_hugging_face,
    kept={
        "pooler": r"^pooler\.",
        "pre-training heads": r"^cls\.",
        "buffer of positions": r"^embeddings\.position_ids$",
    },
)
