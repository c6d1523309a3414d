"""The TFDS builder that the adapters in `datasets/` share: rows and media in, ArrayRecord shards out.

A shard is a pure function of the plan (rows, files, options), so any number of processes may share
the work by shard number without talking to one another, and a run that was ended at any moment goes
on with the shards that are not there. Whoever finds all of them there writes the metadata.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from weavejax.data import clip_tasks, shards
from weavejax.data.annotations import Splits
from weavejax.data.clip_options import MediaOptions
from weavejax.data.clip_records import record_features
from weavejax.data.clip_tasks import Task
from weavejax.data.inventory import UNREADABLE, Inventory, take_inventory
from weavejax.data.media_index import MediaIndex
from weavejax.errors import UserError
from weavejax.storage import write_text

PLAN = "plan.json"
HASHED_WHOLE = 2**27  # bytes of each end of an annotation file


with tfds.core.registered.skip_registration():

    class ClipSet(tfds.core.dataset_builder.FileReaderBuilder):
        """A data set of annotated clips; each adapter has a subclass of its own, for the name.

        Args:
          data_dir: folder of prepared sets.
          label: what the adapter's own options change in the records.
          files: the annotation files.
          read: them → rows by split.
          options: of the media.
        """

        VERSION = tfds.core.Version("1.0.0")
        code_path = None  # not part of a package, so there is no checksums file to look for

        def __init__(
            self,
            data_dir: str,
            label: str,
            files: Sequence[Path],
            read: Callable[[], Splits],
            options: MediaOptions,
        ) -> None:
            name = "-".join(part for part in (label, options.label) if part)
            config = tfds.core.BuilderConfig(name=name)
            super().__init__(data_dir=data_dir, config=config, file_format="array_record")
            self._files, self._read, self._options = tuple(files), read, options
            self._refuse_stale()

        def _info(self) -> tfds.core.DatasetInfo:
            return tfds.core.DatasetInfo(
                builder=self,
                description=(type(self).__doc__ or "").strip(),
                features=record_features(),
                disable_shuffling=True,  # in the order of the annotations
            )

        @property
        def staging(self) -> Path:
            """Where shards wait until all of them are there."""
            config = f"{self.builder_config.name}-{self.version}"
            return Path(self._data_dir_root) / f".{self.name}-staging" / config

        def _refuse_stale(self) -> None:
            """A prepared set of annotations that were changed since must not pass for the new ones."""
            plan = Path(self.data_dir) / PLAN
            if not plan.is_file() or not all(file.is_file() for file in self._files):
                return  # not prepared; or prepared elsewhere, and copied here without the annotations
            if json.loads(plan.read_bytes())["annotations"] != _digests(self._files):
                raise UserError(
                    f"the annotations have changed since {self.data_dir} was prepared: remove it, "
                    "or choose another folder of prepared sets (data.directory)"
                )

        def inventory(self) -> Inventory:
            """Reads the annotations, looks for media, says and writes (to `staging`) what is missing.

            Raises:
              UserError: annotations that cannot be read, no media folder, two files of one name.
            """
            self._options.check(self.name)
            root = Path(self._options.root)
            if not root.is_dir():
                raise UserError(f"{self.name}: the folder {root} does not exist")
            splits = _chosen(self.name, self._read(), self._options.splits)
            _check(self.name, splits, self._options)
            videos, audios = (
                MediaIndex(root / folder) if folder else None
                for folder in (self._options.videos, self._options.audios)
            )
            found = take_inventory(splits, videos, audios)
            found.write(self.staging)
            print(f"{self.name}:\n{found.report()}", file=sys.stderr, end="", flush=True)
            return found

        def tasks(self, inventory: Inventory) -> list[Task]:
            """All shards, of all splits.

            Raises:
              UserError: too much is missing; or `staging` holds shards of another plan.
            """
            options = self._options
            inventory.check(options.missing, options.limit, self.staging)
            self._keep_plan(inventory)
            out = []
            for split, items in inventory.items.items():
                starts = range(0, len(items), options.shard)
                for number, start in enumerate(starts):
                    name = shards.shard_name(self.name, split, number, len(starts))
                    chosen = items[start : start + options.shard]
                    cut = options.media == "sources"
                    out.append(Task(self.staging / name, split, chosen, cut, options.side))
            return out

        def _keep_plan(self, inventory: Inventory) -> None:
            digest = hashlib.sha256(f"{self._options.label} {self._options.shard}".encode())
            for split, items in inventory.items.items():
                digest.update(json.dumps([split, [asdict(item) for item in items]]).encode())
            plan = {"annotations": _digests(self._files), "plan": digest.hexdigest()}
            path = self.staging / PLAN
            if not path.exists():
                write_text(path, json.dumps(plan, indent=1) + "\n")
            if json.loads(path.read_bytes()) != plan:
                raise UserError(
                    f"{self.staging} was begun with other annotations, media or options: remove it to "
                    "begin anew"
                )

        def prepare(self, process: int = 0, processes: int = 1) -> bool:
            """Writes this process's share of the missing shards; the metadata too when it is the last.

            Returns:
              Whether the set is complete now.

            Raises:
              UserError: as `inventory`, `tasks` and `finish`.
            """
            if self.is_prepared():
                return True
            try:
                inventory = self.inventory()
                tasks = self.tasks(inventory)
                mine = [task for task in tasks[process::processes] if not task.path.exists()]
                if not self.is_prepared():
                    clip_tasks.run_tasks(mine, self._options.threads, self.name)
                done = self.finish(inventory, tasks)
            except OSError:
                if not self.is_prepared():
                    raise
                done = True  # another process was last and has moved the finished set to its place
            if done:  # what this process had begun when the set was moved, or began anew after that
                shards.remove_parts(Path(self.data_dir))
                shutil.rmtree(self.staging, ignore_errors=True)
            return done

        def finish(self, inventory: Inventory, tasks: Sequence[Task]) -> bool:
            """Writes the metadata when all shards are there; False when some are still missing.

            Raises:
              UserError: more clips turned out unreadable than may be left out.
            """
            if self.is_prepared() or not all(task.path.exists() for task in tasks):
                return self.is_prepared()
            full = inventory.with_lacks(
                lack for task in tasks for lack in clip_tasks.read_lacks(task.path)
            )
            full.write(self.staging)
            try:
                full.check(self._options.missing, self._options.limit, self.staging)
            except UserError:
                for task in tasks:  # their files may be mended before the next start
                    if any(lack.kind == UNREADABLE for lack in clip_tasks.read_lacks(task.path)):
                        task.path.unlink()
                raise
            counts = {split: 0 for split in inventory.items}
            for task in tasks:
                counts[task.split] += 1
            shards.write_info(
                self.staging,
                self.name,
                record_features(),
                counts,
                config=self.builder_config.name,
                version=str(self.version),
                description=(type(self).__doc__ or "").strip(),
            )
            place = Path(self.data_dir)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self.staging, place)
            # Not before: another process may be finishing too, and what it misses then tells it so.
            shards.remove_parts(place)
            for task in tasks:
                clip_tasks.lacks_path(place / task.path.name).unlink(missing_ok=True)
            print(f"{self.name}: prepared\n{full.report()}", file=sys.stderr, end="", flush=True)
            return True

        def download_and_prepare(self, **_: Any) -> None:
            """Prepares all of it here, unless it is there; goes on where an earlier run was ended."""
            self.prepare()

        def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
            self.prepare()


def _digests(files: Sequence[Path]) -> dict[str, str]:
    """File name → SHA-256; of a large file, of its size and both its ends."""
    out = {}
    for path in files:
        size = path.stat().st_size
        digest = hashlib.sha256(str(size).encode())
        with path.open("rb") as file:
            digest.update(file.read(HASHED_WHOLE))
            file.seek(max(HASHED_WHOLE, size - HASHED_WHOLE))
            digest.update(file.read(HASHED_WHOLE))
        out[path.name] = digest.hexdigest()
    return out


def _chosen(name: str, splits: Splits, wanted: str) -> Splits:
    """The splits asked for."""
    names = [part.strip() for part in wanted.split(",")] if wanted else list(splits)
    unknown = [each for each in names if each not in splits]
    if unknown:
        raise UserError(f"{name}: there is no split {unknown[0]!r}; there are {', '.join(splits)}")
    return {each: splits[each] for each in names}


def _check(name: str, splits: Splits, options: MediaOptions) -> None:
    for split, rows in splits.items():
        if not rows:
            raise UserError(f"{name}: the annotations hold no clip of {split}")
        if options.media == "sources" and any(row.span is None for row in rows):
            raise UserError(f"{name}: its annotations have no spans to cut: media must be clips")
        if len({row.id for row in rows}) < len(rows):
            raise UserError(f"{name}: an id stands twice in {split}")
