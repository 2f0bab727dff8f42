"""The directory of a run: its paths, its config, and its lock.

config.json  photographs.json  metrics.jsonl  events.*
checkpoints/  pictures/  features/  results/
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator

from ml_collections import ConfigDict

from arniqa_jax import errors
from arniqa_jax.storage import locks
from arniqa_jax.storage.files import local_path

# Fields that a newer version of the program added, with the value that gives what the
# versions before it computed. A run of an older version is read with these values.
_ADDED_FIELDS = {"model.precision": "default"}


class Workdir:
    """Paths and bookkeeping of one run.

    Attributes:
      path: the directory, created if missing.

    Raises:
      UsageError: the directory cannot be created, or the path is not local.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = local_path(path, "--workdir").absolute()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._not_writable(error) from error

    checkpoints = property(lambda self: self.path / "checkpoints")
    features = property(lambda self: self.path / "features")
    metrics = property(lambda self: self.path / "metrics.jsonl")
    photographs = property(lambda self: self.path / "photographs.json")
    pictures = property(lambda self: self.path / "pictures")
    profile = property(lambda self: self.path / "profile")
    results = property(lambda self: self.path / "results")
    config = property(lambda self: self.path / "config.json")
    wandb_id = property(lambda self: self.path / "wandb_id")

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the directory; the system releases the lock when the process ends.

        Raises:
          ArniqaError: another run holds the lock.
          UsageError: the directory is not writable.
        """
        lock = self.path / ".lock"
        try:
            lock.touch()
        except OSError as error:
            raise self._not_writable(error) from error
        with open(lock, "a") as file:
            if not locks.try_lock(file):
                raise errors.ArniqaError(
                    f"{self.path} is in use by another run; wait for it, end it, or "
                    "choose another --workdir"
                )
            yield

    def _not_writable(self, error: OSError) -> errors.UsageError:
        return errors.UsageError(
            f"--workdir={self.path}: a run cannot write there ({error.strerror}); "
            "choose a directory that you can create and write to"
        )

    def has_begun(self) -> bool:
        """Return whether a step was logged or saved."""
        logged = self.metrics.exists() and self.metrics.stat().st_size > 0
        return logged or self.latest_step() > 0

    def latest_step(self) -> int:
        """Return the step of the last complete checkpoint, 0 for none."""
        # A checkpoint gets its final name, the step, when it is complete.
        steps = (path.name for path in self.checkpoints.glob("[0-9]*"))
        return max((int(name) for name in steps if name.isdecimal()), default=0)


def read_config(path: str | os.PathLike) -> ConfigDict:
    """Return the config of the run in the directory `path`.

    If an older version began the run, fields that newer versions added get the values
    that reproduce it.

    Raises:
      CheckpointError: there is no config, or it is damaged.
    """
    file = pathlib.Path(path) / "config.json"
    try:
        tree = json.loads(file.read_text())
        for field, value in _ADDED_FIELDS.items():
            group, _, name = field.rpartition(".")
            tree[group].setdefault(name, value)
        return ConfigDict(tree).lock()
    except FileNotFoundError:
        raise errors.CheckpointError(
            f"{path} is not a run: expected {file.name} in it, which "
            "`python -m arniqa_jax.main --workdir=...` writes"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise errors.CheckpointError(f"{file} is damaged: {error!r}") from error


def config_fields(tree: dict, prefix: str = "") -> dict[str, object]:
    """Return the leaves of a config's `to_dict()`, by their dotted names."""
    fields = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            fields |= config_fields(value, f"{prefix}{name}.")
        else:
            fields[prefix + name] = value
    return fields
