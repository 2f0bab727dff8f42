"""Checkpoints of a run, written by Orbax; only this module uses Orbax's interface.

A checkpoint is a directory `checkpoints/STEP` with two parts: `model` (`params` and
`batch_stats`, which evaluation reads) and `training` (`step` and `opt_state`). Orbax
writes a checkpoint under another name and renames it when it is complete. So a killed
process never leaves an incomplete directory that looks like a checkpoint. For the same
reason, a checkpoint is renamed before it is removed.

A directory may also be the URL of a bucket. There Orbax writes the file
`commit_success.txt` last, and a directory without it is no checkpoint. So this file is
removed first.
"""

import contextlib
import importlib.metadata
import os
import pathlib
import re
import shutil
from collections.abc import Iterator
from typing import Any, TypeVar

import jax
import tensorstore as ts
from etils import epath
from orbax.checkpoint import v1 as ocp

from arniqa_jax import errors
from arniqa_jax.storage import bucket_errors, buckets

# The type of `training.train_step.TrainState`, which scoring does not import.
State = TypeVar("State")

_COMMITTED = "commit_success.txt"  # Orbax's last file of a checkpoint in a bucket
_REMOVED = ".removed"  # suffix of a former checkpoint that is being removed
_PACKAGES = ("arniqa_jax", "jax", "flax", "optax", "orbax-checkpoint", "numpy")


class Checkpoints:
    """The checkpoints of one run: the last two, and the best by validation SRCC."""

    def __init__(self, directory: os.PathLike, config: dict[str, Any]):
        """Open the directory, and remove what killed processes have left in it.

        Args:
          directory: `checkpoints/` of a workdir, created if missing; maybe a URL.
          config: stored with each checkpoint, together with the versions of libraries.
        """
        self._directory = _path(directory)
        versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
        self._metadata = {"config": config, "versions": versions}
        if jax.process_index() == 0 and not buckets.is_url(directory):
            for half in self._directory.glob(f"*{_REMOVED}"):
                shutil.rmtree(half)
        self._checkpointer = ocp.training.Checkpointer(
            self._directory,
            cleanup_tmp_directories=True,
            preservation_policy=ocp.training.preservation_policies.PreserveAll(),
        )

    @property
    def latest(self) -> int | None:
        """The step of the last complete checkpoint; None without checkpoints."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    @property
    def best(self) -> int | None:
        """The step with the highest validation SRCC; the last one if none has any."""
        return _best(self._checkpointer)

    def save(self, state: State, *, srcc: float | None = None) -> None:
        """Start to write a checkpoint, after the previous one is complete.

        Args:
          state: copied before the call returns, so the caller may donate it.
          srcc: validation SRCC of the state, if it was measured.

        Raises:
          CheckpointError: this or the previous checkpoint could not be written.
        """
        self.wait()
        with self._writing():
            self._checkpointer.save_checkpointables_async(
                int(state.step),
                {
                    "model": {
                        "params": state.params,
                        "batch_stats": state.batch_stats,
                    },
                    "training": {"step": state.step, "opt_state": state.opt_state},
                },
                force=True,
                metrics=None if srcc is None else {"srcc": srcc},
                custom_metadata=self._metadata,
            )

    def wait(self) -> None:
        """Wait until the last checkpoint is on disk, then remove old checkpoints.

        Raises:
          CheckpointError: the last checkpoint could not be written; the one before is
            intact.
        """
        with self._writing():
            self._checkpointer.wait()
            self._remove_old()

    def restore(self, step: int, like: State, sharding: jax.sharding.Sharding) -> State:
        """Return the state that a checkpoint contains.

        Args:
          step: the step of the checkpoint.
          like: a state with the expected shapes and dtypes.
          sharding: the sharding of every array.

        Raises:
          CheckpointError: the checkpoint is damaged, or of another model or optimizer.
        """
        parts = _load(
            self._directory / str(step),
            {
                "model": {"params": like.params, "batch_stats": like.batch_stats},
                "training": {"step": like.step, "opt_state": like.opt_state},
            },
            sharding,
        )
        return like.replace(**parts["model"], **parts["training"])

    def close(self) -> None:
        """Wait for pending writes and release the directory.

        Raises:
          CheckpointError: the last checkpoint could not be written.
        """
        with self._writing():
            self._checkpointer.close()

    def _remove_old(self) -> None:
        """Remove all checkpoints except the last two and the best."""
        if jax.process_index() > 0:
            return
        steps = [c.step for c in self._checkpointer.checkpoints]
        for step in set(steps[:-2]) - {self.best}:
            path = self._directory / str(step)
            if not path.exists():
                continue
            if buckets.is_url(str(path)):
                buckets.delete(str(path / _COMMITTED))
                buckets.delete(str(path))
            else:
                # Orbax would remove the directory in place. If it were killed
                # meanwhile, it would leave a directory that looks like a checkpoint but
                # lacks files.
                aside = path.with_name(f"{step}{_REMOVED}")
                path.rename(aside)
                shutil.rmtree(aside)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not _is_of_storage(error):
                raise
            raise errors.CheckpointError(
                f"a checkpoint could not be written to {self._directory}: "
                f"{_reason(error)}. Free some space or fix the permissions, and run "
                f"the same command again: it resumes at step {self.latest or 0}"
            ) from error


def _is_of_storage(error: Exception) -> bool:
    """Return whether the disk, the bucket or its content is the cause of an error."""
    return isinstance(error, OSError | ValueError) or bucket_errors.is_of_a_bucket(
        error
    )


def find(directory: os.PathLike, which: str) -> int:
    """Return the step of a checkpoint of a run.

    The run may be in progress.

    Args:
      directory: `checkpoints/` of the workdir; maybe a URL.
      which: `best`, `last` or a step.

    Raises:
      CheckpointError: there is no checkpoint, or not the one asked for.
    """
    directory = _path(directory)
    if not directory.is_dir():
        raise errors.CheckpointError(
            f"{directory} does not exist: the run has no checkpoint yet"
        )
    with ocp.training.Checkpointer(directory) as checkpointer:
        steps = [c.step for c in checkpointer.checkpoints]
        best = _best(checkpointer)
    if not steps:
        raise errors.CheckpointError(f"{directory} holds no complete checkpoint yet")
    if which in ("best", "last"):
        return best if which == "best" else max(steps)
    if not which.isdecimal() or int(which) not in steps:
        known = ", ".join(str(step) for step in sorted(steps))
        raise errors.CheckpointError(
            f"there is no checkpoint {which!r} in {directory}: expected best, last, "
            f"untrained or one of the steps {known}"
        )
    return int(which)


def save_variables(directory: os.PathLike, variables: dict[str, Any]) -> None:
    """Write only `params` and `batch_stats`, for `load_variables`.

    Args:
      directory: must not exist yet; it is written atomically.
      variables: arrays of NumPy or JAX.

    Raises:
      CheckpointError: the variables could not be written.
    """
    try:
        ocp.save_checkpointables(
            pathlib.Path(directory).absolute(), {"model": variables}
        )
    except (OSError, ValueError) as error:
        raise errors.CheckpointError(
            f"{directory} could not be written: {_reason(error)}"
        ) from error


def load_variables(
    directory: os.PathLike, like: dict[str, Any] | None
) -> dict[str, Any]:
    """Return `params` and `batch_stats` of one checkpoint, on the first device.

    Args:
      directory: `checkpoints/STEP`; maybe a URL.
      like: the expected shapes and dtypes; None if the caller compares a checksum
        instead.

    Raises:
      CheckpointError: the checkpoint is missing, damaged, or of another model.
    """
    one_device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return _load(_path(directory), {"model": like}, one_device)["model"]


def _path(directory: os.PathLike | str) -> pathlib.Path | epath.Path:
    """Return a path object; `pathlib` would take a URL for a local path."""
    return (
        epath.Path(directory) if buckets.is_url(directory) else pathlib.Path(directory)
    )


def _best(checkpointer: ocp.training.Checkpointer) -> int | None:
    measured = [c for c in checkpointer.checkpoints if c.metrics is not None]
    if not measured:
        return None if checkpointer.latest is None else checkpointer.latest.step
    # Among equal values the first step wins, in whatever order they are listed.
    return max(measured, key=lambda c: (c.metrics["srcc"], -c.step)).step


def _with_sharding(tree, sharding: jax.sharding.Sharding):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
    )


def _load(
    directory: pathlib.Path,
    like: dict[str, Any],
    sharding: jax.sharding.Sharding,
) -> dict[str, Any]:
    # Orbax silently finds no metadata if the path is relative. A URL is never made
    # absolute, because the result would be a local path.
    if not buckets.is_url(str(directory)):
        directory = directory.absolute()
    try:
        for part in like:
            _read_every_array(directory / part)
        stored = ocp.checkpointables_metadata(directory).metadata
        for part in like.keys() - stored.keys():
            raise ValueError(f"it has no part {part!r}, only {', '.join(stored)}")
        if like["model"] is None:
            like = like | {"model": stored["model"]}
        _compare(stored["model"], like["model"])
        wanted = {part: _with_sharding(tree, sharding) for part, tree in like.items()}
        return ocp.load_checkpointables(directory, wanted)
    except Exception as error:
        if not isinstance(error, KeyError) and not _is_of_storage(error):
            raise
        raise errors.CheckpointError(
            f"{directory} cannot be read as a checkpoint of this model: "
            f"{_reason(error)}. Give a complete checkpoint of the same architecture, "
            "or remove this directory to resume from the one before it"
        ) from error


def _read_every_array(part: pathlib.Path) -> None:
    """Raise ValueError if an array of one part of a checkpoint cannot be read.

    Orbax reads all arrays in an event loop, which it closes at the first failure. The
    reads that are still in flight then print tracebacks about the closed loop. This
    function therefore reads every array first, without an event loop.
    """
    if not part.is_dir():
        return  # the caller names the parts that are missing
    if buckets.is_url(str(part)):
        bucket, _, path = str(part).removeprefix("gs://").partition("/")
        base = {"driver": "gcs", "bucket": bucket, "path": f"{path}/"}
    else:
        base = {"driver": "file", "path": f"{part}/"}
    store = {"driver": "ocdbt", "base": base}
    try:
        for key in ts.KvStore.open(store).result().list().result():
            path, _, name = key.decode().rpartition("/")
            if name == "zarr.json":
                array = {"driver": "zarr3", "kvstore": store | {"path": f"{path}/"}}
                ts.open(array).result().read().result()
    except (OSError, ValueError) as error:
        raise ValueError(
            f"its files are truncated or damaged ({_reason(error)})"
        ) from None


def _compare(stored: dict[str, Any], like: dict[str, Any]) -> None:
    """Raise ValueError that names the first array whose shape differs.

    Orbax's own message is harder to understand.
    """
    found, expected = (
        {
            jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }
        for tree in (stored, like)
    )
    differing = [
        f"{name} is {found.get(name, 'missing')}, expected {expected.get(name, 'none')}"
        for name in sorted(found.keys() | expected.keys())
        if found.get(name) != expected.get(name)
    ]
    if differing:
        more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        raise ValueError(differing[0] + more)


def _reason(error: BaseException) -> str:
    """Return the innermost cause of an error, without TensorStore's details."""
    while error.__cause__ is not None:
        error = error.__cause__
    # TensorStore appends its details, ` [name='value']`.
    text = re.split(r" \[\w+=", str(error))[0].strip()
    text = text.splitlines()[0] if text else type(error).__name__
    return text.rsplit(": ", 1)[-1]
