"""The directory of a run: its paths, its config, and its lock.

config.json  photographs.json  metrics.jsonl  events.*
checkpoints/  pictures/  features/  results/

The directory may be in a bucket of Google Cloud Storage. Then only the checkpoints are
written there directly. The other files are written to a local copy, a spool, which is
uploaded before each checkpoint. So the bucket never holds a checkpoint without the
metrics up to its step. The features are a cache, and stay local.
"""

import contextlib
import json
import os
import pathlib
import re
import weakref
from collections.abc import Iterator

from absl import logging
from ml_collections import ConfigDict

from arniqa_jax import errors
from arniqa_jax.storage import buckets, locks
from arniqa_jax.storage.bucket_lock import BucketLock
from arniqa_jax.storage.files import local_path
from arniqa_jax.storage.spool import Spool

# Fields that a newer version of the program added, with the value that gives what the
# versions before it computed. A run of an older version is read with these values.
_ADDED_FIELDS = {
    "model.precision": "default",
    "data.cache_mib": 128,
    "loss.scale_negatives": True,
}


class Workdir:
    """Paths and bookkeeping of one run.

    Attributes:
      path: a local directory: the run directory, created if missing, or the spool.
      location: the run directory as text: an absolute path, or a URL.

    Raises:
      UsageError: the directory cannot be created, or the path is a URL that is not of
        Google Cloud Storage.
      BucketError: the bucket does not exist, is forbidden, or does not answer.
    """

    def __init__(self, path: str | os.PathLike):
        self._spool: Spool | None = None
        self._bucket_lock: BucketLock | None = None
        if buckets.is_url(path):
            self.location = path.rstrip("/")
            self._open_bucket()
            return
        self.path = local_path(path, "--workdir").absolute()
        self.location = str(self.path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._not_writable(error) from error

    def _open_bucket(self) -> None:
        if not re.fullmatch(r"gs://[^/]+(/.+)?", self.location):
            raise errors.UsageError(
                f"--workdir={self.location}: expected a local path or gs://BUCKET/RUN; "
                "checkpoints can be written to no other kind of bucket"
            )
        buckets.check(self.location)
        try:
            self._spool = Spool(self.location)
        except OSError as error:
            raise self._not_writable(error) from error
        self.path = self._spool.path
        weakref.finalize(self, self._spool.close)

    @property
    def checkpoints(self) -> str | pathlib.Path:
        """The directory of the checkpoints, a URL in a bucket."""
        if self._spool:
            return buckets.join(self.location, "checkpoints")
        return self.path / "checkpoints"

    @property
    def features(self) -> pathlib.Path:
        """The cache of features, always local."""
        return (self._spool.kept if self._spool else self.path) / "features"

    metrics = property(lambda self: self.path / "metrics.jsonl")
    photographs = property(lambda self: self.path / "photographs.json")
    pictures = property(lambda self: self.path / "pictures")
    profile = property(lambda self: self.path / "profile")
    results = property(lambda self: self.path / "results")
    config = property(lambda self: self.path / "config.json")
    wandb_id = property(lambda self: self.path / "wandb_id")

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the directory; in a bucket, also fetch the spool and upload it.

        The system releases the lock of a local directory when the process ends. The
        lock of a bucket is recognised as stale, see `BucketLock`.

        Raises:
          ArniqaError: another run holds the lock.
          UsageError: the directory is not writable.
          BucketError: the bucket cannot be read or written.
        """
        if self._spool:
            name = buckets.join(self.location, ".lock")
            with BucketLock(name, self.location) as self._bucket_lock, self.synced():
                yield
            return
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

    @contextlib.contextmanager
    def synced(self) -> Iterator[None]:
        """Fetch the spool of a bucket, and upload what the block has changed in it.

        After an error the files are uploaded as well, because they may tell its cause.

        Raises:
          BucketError: the bucket cannot be read or written.
        """
        self.fetch()
        try:
            yield
        except BaseException:
            try:
                self.upload()
            except errors.ArniqaError as error:
                logging.warning("%s", error)
            raise
        self.upload()

    def fetch(self) -> None:
        """Download the small files of a bucket; without a bucket, do nothing."""
        if self._spool:
            self._spool.fetch()

    def upload(self) -> None:
        """Upload the small files that have changed; without a bucket, do nothing.

        Raises:
          ArniqaError: another run has taken over the lock of this run.
          BucketError: the bucket cannot be written.
        """
        if self._bucket_lock:
            self._bucket_lock.confirm()
        if self._spool:
            self._spool.upload()

    def _not_writable(self, error: OSError) -> errors.UsageError:
        return errors.UsageError(
            f"--workdir={self.location}: a run cannot write there ({error.strerror}); "
            "choose a directory that you can create and write to"
        )

    def shown(self, path: pathlib.Path) -> str:
        """Return a path of this directory for a message: where the user finds it."""
        return os.path.join(self.location, path.relative_to(self.path))

    def has_begun(self) -> bool:
        """Return whether a step was logged or saved."""
        logged = self.metrics.exists() and self.metrics.stat().st_size > 0
        return logged or self.latest_step() > 0

    def latest_step(self) -> int:
        """Return the step of the last complete checkpoint, 0 for none."""
        if self._spool:
            # The last file of a checkpoint that Orbax writes, as a bucket renames
            # nothing.
            found = "\n".join(buckets.find(self.checkpoints))
            steps = re.findall(r"^(\d+)/commit_success\.txt$", found, re.M)
            return max(map(int, steps), default=0)
        # A checkpoint gets its final name, the step, when it is complete.
        steps = (path.name for path in self.checkpoints.glob("[0-9]*"))
        return max((int(name) for name in steps if name.isdecimal()), default=0)


def is_run_in_bucket(path: str | os.PathLike) -> bool:
    """Return whether a path is the URL of a run directory in a bucket.

    Raises:
      BucketError: the bucket does not exist, is forbidden, or does not answer.
    """
    if not buckets.is_url(path) or buckets.scheme(path) != "gs":
        return False
    buckets.check(path)
    return buckets.exists(buckets.join(path, "config.json"))


def read_config(path: str | os.PathLike) -> ConfigDict:
    """Return the config of the run in the directory `path`.

    If an older version began the run, fields that newer versions added get the values
    that reproduce it.

    Raises:
      CheckpointError: there is no config, or it is damaged.
    """
    file = os.path.join(path, "config.json")
    try:
        if not buckets.is_url(path):
            tree = json.loads(pathlib.Path(file).read_text())
        elif buckets.exists(file):
            tree = json.loads(buckets.read(file))
        else:
            raise FileNotFoundError(file)
        for field, value in _ADDED_FIELDS.items():
            group, _, name = field.rpartition(".")
            tree[group].setdefault(name, value)
        return ConfigDict(tree).lock()
    except FileNotFoundError:
        raise errors.CheckpointError(
            f"{path} is not a run: expected config.json in it, which "
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
