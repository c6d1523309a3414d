"""Bring published weights in as safetensors, and write them back as they were.

  python -m weavejax.convert --from vast/ckpt/model_step_459.pt --out weights/gram
  python -m weavejax.convert --from weights/gram --back --out gram.pt
  python -m weavejax.convert --from runs/gram-published --back --out tuned.pt
  python -m weavejax.train --config configs/gram.py:published --config.init.weights=weights/gram

Takes GRAM's, TRIANGLE's, PMRL's and VAST's checkpoints (the file, or the directory with log/ and
ckpt/), EVA-CLIP's and timm's image towers, BEATs, Stable Audio Open (its one file, or each of
diffusers'), T5, SyncFusion's two checkpoints (onset network and diffusion), CAVP, and transformers'
BERT, CLIP, SigLIP and CLAP (the last three with the config.json beside them; they are only read).
Says of every key what became of it; a key that nothing knows, a missing one and one of another shape
stop it, all named at once. Writes params.safetensors and coverage.md. PyTorch's own files need the
`torch` extra; they are read without running what is in them. With --back, also of a run that started
from converted weights.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from weavejax.errors import UserError
from weavejax.models import hugging_face
from weavejax.models.torch_names import separate_blocks
from weavejax.runs import restore
from weavejax.runtime import cli, tree
from weavejax.runtime.workdir import CONFIG
from weavejax.storage import write_text
from weavejax.weights import cavp, gram, published, stable_audio, syncfusion
from weavejax.weights.converted import NAME, Origin, open_converted, origin_of, write_converted
from weavejax.weights.coverage import Coverage, Group
from weavejax.weights.published import Format, convert_file, restore_file
from weavejax.weights.safe import save_safetensors
from weavejax.weights.sources import Source, open_source
from weavejax.weights.torch_files import has_torch, write_torch

# In this order they are tried on a file's keys.
FORMATS: dict[str, Format] = {
    "gram": gram.GRAM,
    "vast": gram.VAST,
    "eva": published.EVA,
    "beats": published.BEATS,
    "bert": published.BERT,
    "stable_audio": stable_audio.STABLE_AUDIO,
    "stable_audio_dit": stable_audio.STABLE_AUDIO_DIT,
    "oobleck": stable_audio.OOBLECK,
    "seconds": stable_audio.SECONDS,
    "t5": stable_audio.T5,
    "onset": syncfusion.ONSET,
    "syncfusion": syncfusion.SYNCFUSION,
    "cavp": cavp.CAVP,
}
FLAGS = {
    "from": "file or directory to read",
    "out": "directory, or file, to write",
    "format": f"{', '.join(FORMATS)}; default: told by the keys",
    "partial": "regex of keys that may be missing, or be there unknown (they are then kept)",
    "back": "no value; write the published layout again: .pt with PyTorch, else .safetensors",
    "step": "with --back of a run: latest (default), best, or a step",
}
SWITCHES = ("back",)


def main(argv: Sequence[str]) -> None:
    """Opens, converts, says, writes."""
    # The command line takes flags with values only; this one has none.
    given = [f"{a}=yes" if a.lstrip("-") in SWITCHES and a.startswith("-") else a for a in argv]
    values = cli.parse(given, __doc__ or "", FLAGS, takes_config=False).values
    for name in ("from", "out"):
        if not values[name]:
            raise UserError(f"--{name} is missing; see --help")
    if values["format"] and values["format"] not in FORMATS:
        raise UserError(f"--format {values['format']!r} is none of {', '.join(FORMATS)}")
    out = Path(values["out"])
    if values["back"]:
        _back(Path(values["from"]), values["step"], out)
        return
    source = open_source(values["from"])
    towers = hugging_face.detect(source.arrays)
    if towers and not values["format"]:
        _convert_towers(source, out, towers)
    else:
        _convert(source, out, values["format"], values["partial"])


def _convert_towers(source: Source, out: Path, name: str) -> None:
    """The towers of a CLIP, SigLIP or CLAP model, whose sizes stand in config.json beside it."""
    settings = source.path.parent / "config.json"
    try:
        config = json.loads(settings.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{settings}, which tells the sizes, cannot be read: {error}") from error
    params, became = hugging_face.convert(name, source.arrays, config)
    arrays = source.arrays
    groups = {
        **became.used,
        "buffers": became.buffers,
        "kept": became.kept,
    }
    counted = {n: Group(n, len(k), sum(arrays[x].size for x in k)) for n, k in groups.items() if k}
    rest = [counted.pop(n) for n in ("buffers", "kept") if n in counted]
    coverage = Coverage(list(counted.values()), rest, [], [], [])
    leaves = tree.flatten(params) | {published.KEPT + key: arrays[key] for key in became.kept}
    sizes = {t: asdict(c) for t, c in hugging_face.sizes(name, config).items() if t in params}
    _write(source, out, name, hugging_face.FORMATS[name].about, leaves, sizes, coverage)


def _convert(source: Source, out: Path, format_name: str, allow: str) -> None:
    name = format_name or detect(source.arrays, source.path)
    kind = FORMATS[name]
    converted = convert_file(source.arrays, kind, allow=allow)
    if converted.coverage.problems:
        print(converted.coverage.page(), flush=True)
        raise UserError(
            f"{source.path} does not fit: {_counts(converted.coverage)} (named above); "
            "--partial REGEX lets keys be missing or unknown"
        )
    extra = (converted.spellings, converted.ties)
    _write(
        source, out, name, kind.about, converted.leaves, converted.sizes, converted.coverage, *extra
    )


def _write(
    source: Source,
    out: Path,
    name: str,
    about: str,
    leaves: Mapping[str, np.ndarray],
    sizes: Mapping[str, Mapping[str, Any]],
    coverage: Coverage,
    spellings: Mapping[str, str] = MappingProxyType({}),
    ties: Mapping[str, str] = MappingProxyType({}),
) -> None:
    target = out if out.suffix == ".safetensors" else out / NAME
    if target.exists() and target.samefile(source.path):
        raise UserError(f"--out would write over {source.path}")
    print(f"{source.path}: {about}\n{coverage.page()}", flush=True)
    origin = Origin(
        name,
        source.path.name,
        source.sha256(),
        dict(sizes),
        dict(spellings),
        dict(ties),
        source.entry,
        source.beside,
        source.metadata,
        source.files,
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    write_converted(target, leaves, origin)
    head = f"# {origin.source}\n\n{about} ({name}), SHA-256 `{origin.sha256}`.\n\n"
    write_text(target.parent / "coverage.md", f"{head}{coverage.page()}\n\n{_sizes(origin)}\n")
    print(f"written to {target} and coverage.md beside it")


def detect(arrays: Mapping[str, np.ndarray], path: Path) -> str:
    """The name of the format whose keys these are.

    Raises:
        UserError: of none; what each would need to have.
    """
    for name, kind in FORMATS.items():
        if kind.recognises(arrays):
            return name
    wanted = "; ".join(
        f"{name} would have {', '.join(sorted(kind.lacks(arrays)))}"
        for name, kind in FORMATS.items()
    )
    first = ", ".join(sorted(arrays)[:3])
    raise UserError(f"{path} is of no known format (its keys are {first}, …): {wanted}")


def _counts(coverage: Coverage) -> str:
    kinds = {"unused": coverage.unused, "missing": coverage.missing, "misfit": coverage.misfits}
    return ", ".join(f"{len(lines)} {name}" for name, lines in kinds.items() if lines)


def _sizes(origin: Origin) -> str:
    lines = [f"- {part}: {json.dumps(sizes)}" for part, sizes in origin.sizes.items()]
    return "\n".join(["Sizes, as the arrays tell them:", "", *lines])


def _back(place: Path, step: str, out: Path) -> None:
    leaves, origin = _of_run(place, step) if (place / CONFIG).exists() else _of_file(place)
    if origin.format in hugging_face.FORMATS:
        raise UserError(f"{place} is of the format {origin.format!r}, which is only read")
    if origin.format not in FORMATS:
        raise UserError(f"{place} is of the unknown format {origin.format!r}")
    kind = FORMATS[origin.format]
    state = restore_file(leaves, kind, origin.sizes, origin.spellings, origin.ties)
    target = out if out.suffix else out / _published_name(origin)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix == ".safetensors":
        save_safetensors(target, state, origin.metadata)
    else:
        write_torch(target, state, entry=origin.entry, beside=origin.beside)
    for name, text in ({} if out.suffix else origin.files).items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        write_text(out / name, text)
    print(f"{len(state):,} keys written to {target}")


def _of_file(place: Path) -> tuple[Mapping[str, np.ndarray], Origin]:
    file = open_converted(place)
    return file, origin_of(file)


def _of_run(workdir: Path, step: str) -> tuple[Mapping[str, np.ndarray], Origin]:
    """What a run made of the weights that it started from; what it had no use for is as it was."""
    trained = restore.restore(workdir, step)
    start = trained.config.init.weights
    if not start:
        raise UserError(f"{workdir} started at random, not from a published file to write again")
    leaves, origin = _of_file(Path(start))
    # What came from other files, and has no place in this one, stays out of it.
    starts = [f"{part}/" for part, place in trained.config.init.get("parts", {}).items() if place]
    elsewhere = tuple(x for x in starts if not any(path.startswith(x) for path in leaves))
    learnt = {
        path: leaf
        for path, leaf in separate_blocks(tree.flatten(trained.params)).items()
        if not path.startswith(elsewhere)
    }
    return {**leaves, **{path: np.asarray(leaf) for path, leaf in learnt.items()}}, origin


def _published_name(origin: Origin) -> str:
    """Where in a directory the file stood; a safetensors file where there is no PyTorch."""
    name = f"ckpt/{origin.source}" if origin.files else origin.source
    return name if has_torch() else str(Path(name).with_suffix(".safetensors"))


if __name__ == "__main__":
    cli.launch(main)
