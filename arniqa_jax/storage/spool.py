"""The local copy of the small files of a run directory in a bucket.

Objects cannot be appended to, and many programs write only to local files. So a run
writes its metrics, events, pictures and results to a directory of the user's cache, and
the files that have changed are uploaded now and then.
"""

import contextlib
import os
import pathlib
import re
import secrets
import shutil
from collections.abc import Iterator

from arniqa_jax.storage import buckets, cache, locks

# What a new start of a run or an evaluation needs; the rest stays in the bucket.
_NEEDED = re.compile(
    r"(config\.json|photographs\.json|metrics\.jsonl|wandb_id|results/.+)"
)
_LOCK = ".lock"


class Spool:
    """A local directory that only this process uses.

    `close` removes it. If the process is killed, the next one removes it.

    Attributes:
      path: the local directory.
      kept: a local directory that all processes of this machine and later starts of
        the run share, for caches.
    """

    def __init__(self, url: str):
        """Make an empty directory, and remove those that killed processes have left.

        Args:
          url: the directory in the bucket.

        Raises:
          OSError: the user's cache cannot be written.
        """
        self._url = url
        self.kept = cache.directory() / "runs" / buckets.local_name(url)
        self.kept.mkdir(parents=True, exist_ok=True)
        self.path = self.kept / f"spool-{secrets.token_hex(4)}"
        with self._guard():
            for left in self.kept.glob("spool-*"):
                _remove_if_unused(left)
            self.path.mkdir()
            # The system releases the lock when this process ends.
            self._lock = open(self.path / _LOCK, "w")  # noqa: SIM115
            locks.try_lock(self._lock)
        self._uploaded: dict[str, tuple[int, int]] = {}

    def fetch(self) -> None:
        """Download what a start needs.

        Raises:
          BucketError: the bucket cannot be read.
        """
        names = [name for name in buckets.find(self._url) if _NEEDED.fullmatch(name)]
        buckets.download_files(self._url, self.path, names)
        self._uploaded |= {name: self._version(name) for name in names}

    def upload(self) -> None:
        """Upload the files that have changed since the last call, each atomically.

        Raises:
          BucketError: the bucket cannot be written.
        """
        versions = {
            name: self._version(name)
            for name in self._names()
            if self._version(name) != self._uploaded.get(name)
        }
        buckets.upload_files(self.path, self._url, versions)
        self._uploaded |= versions

    def close(self) -> None:
        """Remove the local directory."""
        with self._guard():
            shutil.rmtree(self.path)
            self._lock.close()

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """Let one process at a time make and remove directories."""
        with open(self.kept / _LOCK, "w") as file:
            locks.wait_for_lock(file)
            yield

    def _names(self) -> list[str]:
        return sorted(
            str(path.relative_to(self.path))
            for path in self.path.rglob("*")
            if path.is_file() and not path.name.startswith(".")
        )

    def _version(self, name: str) -> tuple[int, int]:
        status = os.stat(self.path / name)
        return status.st_size, status.st_mtime_ns


def _remove_if_unused(directory: pathlib.Path) -> None:
    lock = directory / _LOCK
    if lock.exists():
        with open(lock) as file:
            if not locks.try_lock(file):
                return
    shutil.rmtree(directory)
