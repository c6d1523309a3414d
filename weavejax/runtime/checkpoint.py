"""Checkpoints through Orbax: asynchronous, verified, restored strictly.

On disk a checkpoint is one plain nested dict (the state with its field names as keys), so that it
can be read without this code, and a manifest with the hash of every file (`runtime.manifest`),
written last: without it a directory is no checkpoint. The position in the data is the step itself.
Nothing is deleted before a newer checkpoint has its manifest.
"""

import json
import re
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import serialization

from weavejax.errors import UserError
from weavejax.runtime import cluster, manifest, tree
from weavejax.runtime.step import State
from weavejax.storage import Storage, download, is_remote, remove, upload, write_text

SCORES = "scores.json"
MOST_PATIENCE = 600.0  # seconds between two attempts to save


class Checkpoints:
    """The checkpoints of one working directory, on storage that all processes share.

    Args:
      directory: created when absent.
      keep: how many of the newest to keep; the best by its score is kept besides.
      origin: goes into every manifest (`manifest.origin`).
      retry: seconds until a failed save is tried again; doubles with every failure in a row.
      alarm: failures in a row after which to raise the alarm.
      timeout: seconds a save may take until it counts as failed.
      read_only: never writes, nor tidies up what a run under way may be writing.

    Attributes:
      failures: saves that failed since the last good one, on this process.
    """

    def __init__(
        self,
        directory: Storage,
        *,
        keep: int,
        origin: Mapping[str, Any] | None = None,
        retry: float = 30.0,
        alarm: int = 3,
        timeout: float = 600.0,
        read_only: bool = False,
    ) -> None:
        self.directory = directory if is_remote(directory) else directory.absolute()
        # Orbax writes to local paths and gs://; for any other store, by way of a local directory.
        self._stage: Path | None = None
        if is_remote(directory) and not str(directory).startswith("gs://"):
            self._stage = Path(tempfile.mkdtemp(prefix="weavejax-checkpoints-"))
        self._saves = 0
        self._keep, self._origin = keep, dict(origin or {})
        self._retry, self._alarm, self._timeout = retry, alarm, timeout
        self._read_only = read_only
        self._orbax = self._make_orbax()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self.failures = 0
        self._retry_at = float("inf")
        if not read_only and cluster.primary():
            self._tidy()

    def _make_orbax(self) -> ocp.AsyncCheckpointer:
        rename = ocp.path.atomicity.AtomicRenameTemporaryPath
        commit = ocp.path.atomicity.CommitFileTemporaryPath  # object stores cannot rename
        return ocp.AsyncCheckpointer(
            # Merging the processes' files into one store takes a directory that they share.
            ocp.StandardCheckpointHandler(use_ocdbt=self._stage is None),
            async_options=ocp.options.AsyncOptions(timeout_secs=int(self._timeout)),
            temporary_path_class=commit if is_remote(self.directory) else rename,
        )

    # What is there.

    def _numbered(self) -> dict[int, bool]:
        """step → whether its manifest is there, of all directories named by a step."""
        try:
            names = [path.name for path in self.directory.iterdir()]
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise UserError(
                f"{self.directory} cannot be read: {error.strerror or error}"
            ) from error
        unfinished = {name.removesuffix(".saving") for name in names if name.endswith(".saving")}
        found = {n: (self.directory / n / manifest.NAME).exists() for n in names if n.isdigit()}
        return {int(n): there for n, there in found.items() if there or n not in unfinished}

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, ascending; their content is not verified here."""
        return sorted(step for step, finished in self._numbered().items() if finished)

    def verify(self) -> dict[int, list[str]]:
        """step → what is wrong with the checkpoint, [] when it is sound; reads every file."""
        return {step: manifest.problems(self._path(step)) for step in sorted(self._numbered())}

    def newest_good(self) -> int | None:
        """The newest step whose every file is as written; None when nothing was ever saved.

        Damaged ones are said loudly and, unless read-only, put aside under another name.

        Raises:
          UserError: there are checkpoints and none is good: that is never a fresh start.
        """
        bad: dict[int, list[str]] = {}
        good = None
        for step in sorted(self._numbered(), reverse=True):
            wrong = manifest.problems(self._path(step))
            if not wrong:
                good = step
                break
            bad[step] = wrong
            print(f"DAMAGED checkpoint {self._path(step)}: {_brief(wrong)}", file=sys.stderr)
        if bad and good is None:
            raise UserError(
                f"{self.directory} holds no good checkpoint ("
                + "; ".join(f"{step}: {_brief(wrong)}" for step, wrong in bad.items())
                + "); repair it, or move it away to start afresh"
            )
        if bad:
            print(f"the newest good checkpoint is that of step {good}", file=sys.stderr, flush=True)
        if not self._read_only:
            for step in bad:
                self._path(step).rename(self.directory / f"{step}.damaged-{time.time():.0f}")
        return good

    def check(self, step: int) -> int:
        """The step; UserError when its checkpoint is damaged."""
        wrong = manifest.problems(self._path(step))
        if wrong:
            raise UserError(f"checkpoint {self._path(step)} is damaged: {_brief(wrong)}")
        return step

    def facts(self, step: int) -> dict[str, Any]:
        """The manifest of a step; UserError when it is damaged."""
        try:
            return manifest.read(self._path(step))
        except ValueError as error:
            raise UserError(f"checkpoint {self._path(step)}: {error}") from error

    # Saving.

    def save(self, state: State, *, window: Mapping[str, Any] | None = None) -> None:
        """Starts saving; returns when the state is copied off the devices. All processes call it.

        A failure does not stop training: see `wanted` and `finish`.

        Args:
          state: at most once per step.
          window: JSON to keep beside it: metrics of the steps that are not in the log yet.
        """
        self._join()
        self._saves += 1
        step = int(state.step)
        stored = serialization.to_state_dict(state)
        facts = {
            "step": step,
            "saved": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "window": dict(window or {}),
            "tree": manifest.describe_tree(stored),
            **self._origin,
        }
        self._error = None
        try:
            if cluster.primary():
                self.directory.mkdir(parents=True, exist_ok=True)
                self._marker(step).write_text("")
            self._orbax.save(self._place(step), args=ocp.args.StandardSave(stored))
        except Exception as error:  # storage fails in many ways, none of which may end the run
            self._failed(error)
            return
        self._thread = threading.Thread(target=self._commit, args=(step, facts), name="save")
        self._thread.start()

    def _commit(self, step: int, facts: Mapping[str, Any]) -> None:
        try:
            self._orbax.wait_until_finished()
            if self._stage is not None:
                upload(self._place(step), self._path(step))
                remove(self._place(step))
                cluster.barrier(f"save {self._saves} uploaded", self._timeout)
            if cluster.primary():
                manifest.write(self._path(step), facts)
                self._marker(step).unlink(missing_ok=True)
                self._prune()
        except Exception as error:  # as above
            self._error = error

    def _join(self) -> None:
        """Waits for the save under way, and takes note of how it went."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        if self._error is not None:
            self._failed(self._error)
        else:
            self.failures, self._retry_at = 0, float("inf")

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        wait = min(self._retry * 2 ** (self.failures - 1), MOST_PATIENCE)
        self._retry_at = time.monotonic() + wait
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        words = f"a checkpoint could not be saved ({reason}); trying again in {wait:.0f} s"
        if self.failures >= self._alarm:
            newest = max(self.steps(), default=None)
            words = (
                f"ALARM: {self.failures} saves in a row have failed; the newest checkpoint is "
                f"{'absent' if newest is None else f'that of step {newest}'}; {words}"
            )
        print(words, file=sys.stderr, flush=True)
        self._orbax = self._make_orbax()  # an async checkpointer keeps raising what it met once
        if cluster.primary():
            self._tidy()

    def saving(self) -> bool:
        """Whether a save is under way on this process."""
        if self._thread is not None and not self._thread.is_alive():
            self._join()
        return self._thread is not None

    def wanted(self) -> bool:
        """Whether this process wants a save out of turn, because one has failed."""
        return not self.saving() and time.monotonic() >= self._retry_at

    def finish(self, state: State | None, *, window: Mapping[str, Any] | None = None) -> None:
        """Waits for the save under way; if it failed on any process, saves `state` until it holds.

        Raises:
          UserError: it has failed as often as the alarm allows.
        """
        self._join()
        while cluster.any_process(self.failures > 0):
            if state is None or cluster.any_process(self.failures >= self._alarm):
                newest = max(self.steps(), default=None)
                raise UserError(
                    f"the last checkpoint could not be saved in {self.failures} attempt(s); "
                    f"the newest in {self.directory} is that of step {newest}"
                )
            time.sleep(max(0.0, min(self._retry_at - time.monotonic(), MOST_PATIENCE)))
            self.save(state, window=window)
            self._join()

    def close(self) -> None:
        """Waits for saves under way."""
        self._join()
        self._orbax.close()
        if self._stage is not None:
            remove(self._stage)

    # Keeping.

    def score(self, step: int, value: float) -> None:
        """Notes how good the state of a step is; higher is better."""
        if not cluster.primary():
            return
        scores = {**self._scores(), step: value}
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            write_text(self.directory / SCORES, json.dumps(scores))
        except OSError as error:
            print(f"{SCORES} could not be written: {error}", file=sys.stderr, flush=True)

    def _scores(self) -> dict[int, float]:
        try:
            stored = json.loads((self.directory / SCORES).read_text())
            return {int(step): float(value) for step, value in stored.items()}
        except (OSError, ValueError, AttributeError):
            return {}  # absent or damaged: then the newest are kept, and none is the best

    def best_step(self) -> int | None:
        """Step of the checkpoint with the highest score, if any was evaluated."""
        there, scores = self.steps(), self._scores()
        scored = {step: scores[step] for step in there if step in scores}
        return max(scored, key=lambda step: (scored[step], step)) if scored else None

    def _prune(self) -> None:
        kept = {*self.steps()[-self._keep :], self.best_step()}
        for step in set(self.steps()) - kept:
            remove(self._path(step))

    def _tidy(self) -> None:
        """Removes what unfinished saves left behind."""
        try:
            names = [path.name for path in self.directory.iterdir()]
        except OSError:
            return  # nothing there yet; what cannot be read is said when it is read
        for name in names:
            step = re.match(r"(\d+)(\.saving|\.orbax-checkpoint-tmp)", name)
            if step is None:
                continue
            if not (self.directory / step[1] / manifest.NAME).exists():
                remove(self.directory / step[1])
            remove(self.directory / name)

    # Restoring.

    def restore(self, abstract: State, step: int, *, partial: Sequence[str] = ()) -> State:
        """The state saved at `step`, laid out as `abstract` says: see `step.Layout.abstract`.

        Args:
          abstract: shapes and shardings, or arrays.
          step: one of `steps`.
          partial: regexes of paths that need not fit: such leaves keep what `abstract`, then of
            arrays, holds; stored ones that nothing wants are left out.

        Raises:
          UserError: there is no such step, or leaves are missing, left over or of another shape:
            all of them are named at once.
        """
        if step not in self.steps():
            raise UserError(
                f"{self.directory} has no checkpoint of step {step}; it has {self.steps()}"
            )
        wanted = serialization.to_state_dict(abstract)
        wrong = _mismatches(tree.flatten(self._metadata(step)), tree.flatten(wanted))
        refused = [w for path, w in wrong.items() if not any(re.search(p, path) for p in partial)]
        if refused:
            raise UserError(f"checkpoint {self._path(step)} does not fit: {'; '.join(refused)}")
        if not wrong:
            found = self._orbax.restore(self._local(step), args=ocp.args.StandardRestore(wanted))
            return serialization.from_state_dict(abstract, found)
        print(f"taken in part: {'; '.join(wrong.values())}", file=sys.stderr, flush=True)
        fitting = {path: x for path, x in tree.flatten(wanted).items() if path not in wrong}
        found = tree.flatten(self._read_some(step, tree.unflatten(fitting)))
        merged = tree.map_with_path(lambda path, leaf: found.get(path, leaf), wanted)
        return serialization.from_state_dict(abstract, merged)

    def _metadata(self, step: int) -> Any:
        metadata = self._orbax.metadata(self._local(step)).item_metadata
        return getattr(metadata, "tree", metadata)

    def _read_some(self, step: int, wanted: Any) -> Any:
        how = ocp.checkpoint_utils.construct_restore_args(wanted)
        args = ocp.args.PyTreeRestore(item=wanted, restore_args=how, partial_restore=True)
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            return reader.restore(self._local(step), args=args)

    def restore_raw(self, step: int) -> Any:
        """The stored nested dict of `step` as it is, on this process' first device."""
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return self._orbax.restore(
            self._local(step), args=ocp.args.StandardRestore(fallback_sharding=here)
        )

    def read_params(self, step: int) -> dict[str, np.ndarray]:
        """The parameters of `step` by path, averaged where an average was kept; nothing else is read.

        Raises:
          UserError: there is no such step, or its checkpoint is damaged.
        """
        if step not in self.steps():
            raise UserError(f"{self.directory} has no checkpoint of step {step}")
        self.check(step)
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        stored = self._metadata(step)
        wanted = {
            name: jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
                stored[name],
            )
            for name in ("params", "average")
            if stored.get(name)
        }
        found = self._read_some(step, wanted)
        leaves = {**tree.flatten(found["params"]), **tree.flatten(found.get("average", {}))}
        return {path: np.asarray(leaf) for path, leaf in leaves.items()}

    def _path(self, step: int) -> Storage:
        return self.directory / str(step)

    def _place(self, step: int) -> Storage:
        """Where Orbax writes it."""
        return self._path(step) if self._stage is None else self._stage / str(step)

    def _local(self, step: int) -> Storage:
        """Where Orbax reads it."""
        if self._stage is not None:
            download(self._path(step), self._place(step))
        return self._place(step)

    def _marker(self, step: int) -> Storage:
        return self.directory / f"{step}.saving"


def _brief(wrong: Sequence[str], most: int = 3) -> str:
    return "; ".join(wrong[:most]) + (f"; and {len(wrong) - most} more" if wrong[most:] else "")


def _mismatches(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, str]:
    """path → how it differs between the stored tree and the wanted one."""
    wrong = {path: f"{path} is missing" for path in wanted if path not in stored}
    wrong |= {path: f"{path} is left over" for path in stored if path not in wanted}
    for path in wanted.keys() & stored.keys():
        have, need = stored[path], wanted[path]
        if tuple(have.shape) != tuple(need.shape):
            wrong[path] = f"{path} is {tuple(have.shape)}, needed {tuple(need.shape)}"
        elif have.dtype != need.dtype:
            wrong[path] = f"{path} is {have.dtype}, needed {need.dtype}"
    return dict(sorted(wrong.items()))
