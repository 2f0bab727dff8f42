"""The directory of a run: where everything lies, its config, and who may write.

config.json  metrics.jsonl  events.*  checkpoints/  pictures/  features/  results/
"""

import contextlib
import fcntl
import json
import os
import pathlib
from collections.abc import Iterator

from ml_collections import ConfigDict

from arniqa_jax import errors
from arniqa_jax.storage.files import write_atomically

# What may differ when a run is resumed; everything else changes what is computed.
_MAY_CHANGE = ("data.root", "data.workers", "log.", "evaluation.")
_MAY_GROW = ("train.steps", "train.epochs")


class Workdir:
    """Paths and bookkeeping of one run.

    Attributes:
      path: the directory; created where it is missing.

    Raises:
      UsageError: it cannot be made.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path).absolute()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._not_writable(error) from error

    checkpoints = property(lambda self: self.path / "checkpoints")
    features = property(lambda self: self.path / "features")
    metrics = property(lambda self: self.path / "metrics.jsonl")
    pictures = property(lambda self: self.path / "pictures")
    results = property(lambda self: self.path / "results")
    config = property(lambda self: self.path / "config.json")

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the directory; the lock of a process that died is free by itself.

        Raises:
          ArniqaError: another run holds it.
          UsageError: nothing can be written there.
        """
        lock = self.path / ".lock"
        try:
            lock.touch()
        except OSError as error:
            raise self._not_writable(error) from error
        with open(lock, "a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise errors.ArniqaError(
                    f"{self.path} is in use by another run; wait for it, end it, or "
                    "choose another --workdir"
                ) from None
            yield

    def _not_writable(self, error: OSError) -> errors.UsageError:
        return errors.UsageError(
            f"--workdir={self.path}: a run cannot write there ({error.strerror}); "
            "choose a directory that can be made and written"
        )

    def settle_config(self, config: ConfigDict) -> None:
        """Writes the config of a new run, or compares it with that of the old one.

        Before its first step a run can still be given any other config: one that was
        refused, for a missing model, say, leaves nothing that could be mixed up.

        Raises:
          UsageError: a field differs that may not; all of them are listed.
        """
        if self.config.exists() and self._has_begun():
            old, new = (c.to_dict() for c in (read_config(self.path), config))
            self._compare(config_fields(old), config_fields(new))
        write_atomically(self.config, json.dumps(config.to_dict(), indent=2) + "\n")

    def _has_begun(self) -> bool:
        """Whether a step was logged or saved."""
        logged = self.metrics.exists() and self.metrics.stat().st_size > 0
        return logged or any(self.checkpoints.glob("[0-9]*"))

    def _compare(self, old: dict[str, object], new: dict[str, object]) -> None:
        other_fields = sorted(old.keys() ^ new.keys())
        if other_fields:
            raise errors.CheckpointError(
                f"{self.config} is of another version of this program: only one of the "
                f"two knows {', '.join(other_fields)}. Finish the run with the version "
                "that began it, or choose another --workdir"
            )
        differing = [
            f"{name} was {old[name]!r} and is {new[name]!r}"
            for name in sorted(old)
            if old[name] != new[name]
            and not name.startswith(_MAY_CHANGE)
            and not (name in _MAY_GROW and new[name] > old[name])
        ]
        if differing:
            raise errors.UsageError(
                f"{self.path} holds a run of another config: {'; '.join(differing)}. "
                "Set these fields back, or choose another --workdir"
            )


def read_config(path: str | os.PathLike) -> ConfigDict:
    """Reads the config of the run in the directory `path`.

    Raises:
      CheckpointError: there is none, or it is damaged.
    """
    file = pathlib.Path(path) / "config.json"
    try:
        return ConfigDict(json.loads(file.read_text())).lock()
    except FileNotFoundError:
        raise errors.CheckpointError(
            f"{path} holds no run: expected {file.name} in it, as "
            "`python -m arniqa_jax.main --workdir=...` writes it"
        ) from None
    except ValueError as error:
        raise errors.CheckpointError(f"{file} is damaged: {error}") from error


def config_fields(tree: dict, prefix: str = "") -> dict[str, object]:
    """Flattens the `to_dict()` of a config: dotted names of the leaves, and values."""
    fields = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            fields |= config_fields(value, f"{prefix}{name}.")
        else:
            fields[prefix + name] = value
    return fields
