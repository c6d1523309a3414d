"""Prepare a data set: check its media, write its records; in any number of processes.

  python -m weavejax.prepare --dataset datasets/vggsound --options root=DIR --check true
  python -m weavejax.prepare --dataset datasets/vggsound --options root=DIR,missing=skip
  srun -n 64 python -m weavejax.prepare --dataset datasets/vast27m --options root=DIR
  python -m weavejax.prepare --config configs/gram.py

Says how many clips have no file, no sound or no subtitle, with the first names of each, and writes
all of them to missing.jsonl before anything else. Processes share the work by number, without talking
to one another, over a directory that all of them see: under SLURM, in a JobSet or on a TPU pod by
themselves, elsewhere with --process and --processes. Started again, it goes on with the shards that
are not there; whoever finds all of them there writes the metadata. It uses no device and no system.

Training prepares, too, when a set is not there: this door is for sets that would take one process days.
"""

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weavejax.data.clip_set import ClipSet
from weavejax.data.clip_tasks import write_task
from weavejax.data.sources import make_builder, prepare_tfds
from weavejax.errors import UserError
from weavejax.runtime import cli, cluster
from weavejax.storage import is_remote, storage

FLAGS = {
    "dataset": "folder of the data set, as in datasets/msrvtt; default that of --config",
    "options": "of its builder: key=value,key=value; default those of --config",
    "directory": "where prepared sets are kept; default data, or that of --config",
    "check": "true: only say what is missing, write no record",
    "process": "number of this process; default as the cluster says",
    "processes": "how many there are; default as the cluster says",
    "cluster": f"who says so: {', '.join(cluster.KINDS)}; default auto",
    "beam": "instead of --process: let Apache Beam share out the shards, with these of its options",
}


def main(argv: Sequence[str]) -> None:
    """Finds out what to prepare and which part of it, and does it."""
    takes_config = any(argument.lstrip("-").startswith("config") for argument in argv)
    arguments = cli.parse(argv, __doc__ or "", FLAGS, takes_config=takes_config)
    values = arguments.values
    folder, options, directory = _what(values, arguments.config)
    process, processes = _part(values)
    builder = make_builder(folder, directory, options)
    if not isinstance(builder, ClipSet):
        if values["check"] or processes > 1:
            raise UserError(f"{folder} prepares itself, in one process, without --check")
        print(f"prepared: {prepare_tfds(folder, directory, options)}")
        return
    if builder.is_prepared():
        print(f"already prepared: {builder.data_dir}")
    elif values["check"]:
        builder.inventory()
        print(f"all that is missing: {builder.staging}/missing.jsonl")
    elif values["beam"]:
        _through_beam(builder, values["beam"].split())
        print(f"prepared: {builder.data_dir}")
    elif builder.prepare(process, processes):
        print(f"prepared: {builder.data_dir}")
    else:
        print(f"process {process} of {processes} has done its part; others have not yet")


def _what(values: Any, config: Any) -> tuple[str, dict[str, Any], Path]:
    """Folder of the set, options of its builder, directory of prepared sets."""
    data = config.data if config else None
    folder = values["dataset"] or (data.dataset if data else "")
    if not folder:
        raise UserError("give --dataset, as in --dataset datasets/msrvtt, or --config; see --help")
    options = data.options.to_dict() if data and not values["dataset"] else {}
    place = storage(values["directory"] or (data.directory if data else "data"))
    if is_remote(place):
        raise UserError(f"{place}: prepare into a directory that is mounted, then copy it there")
    return folder, options | _parsed(values["options"]), place


def _parsed(text: str) -> dict[str, Any]:
    """ "root=x,side=256" → {"root": "x", "side": 256}."""
    out: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if not equals:
            raise UserError(f"--options {text!r}: {part!r} is not key=value")
        try:
            out[name.strip()] = json.loads(value)
        except ValueError:
            out[name.strip()] = value
    return out


def _part(values: Any) -> tuple[int, int]:
    """Which process this is, of how many."""
    given = (values["process"], values["processes"])
    if not any(given):
        place = cluster.find_place(values["cluster"] or "auto")
        return (place.number, place.processes) if place else (0, 1)
    if not all(part.isdigit() for part in given) or int(given[0]) >= int(given[1]):
        raise UserError("give both --process and --processes, 0 ≤ process < processes")
    return int(given[0]), int(given[1])


def _through_beam(builder: ClipSet, arguments: Sequence[str]) -> None:
    """The same shards, shared out by Beam: TFDS's own use of it cannot go on after a stop."""
    try:
        beam = importlib.import_module("apache_beam")
        options = importlib.import_module("apache_beam.options.pipeline_options")
    except ImportError as error:
        raise UserError("--beam needs a package: pip install 'weavejax[beam]'") from error
    inventory = builder.inventory()
    tasks = builder.tasks(inventory)
    with beam.Pipeline(options=options.PipelineOptions(list(arguments))) as pipeline:
        missing = pipeline | beam.Create([task for task in tasks if not task.path.exists()])
        _ = missing | beam.Reshuffle() | beam.Map(write_task)
    builder.finish(inventory, tasks)


if __name__ == "__main__":
    cli.launch(main)
