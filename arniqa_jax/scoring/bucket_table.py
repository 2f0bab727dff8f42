"""A table of scores in a bucket: written locally, and uploaded now and then."""

import pathlib
import shutil
import tempfile
import time
from collections.abc import Sequence
from typing import Any, TextIO

from absl import logging

from arniqa_jax import errors
from arniqa_jax.scoring import tables
from arniqa_jax.storage import buckets
from arniqa_jax.storage.bucket_paths import BucketPath

# Seconds between two uploads. The whole table is uploaded each time, so an upload that
# takes long is repeated more rarely: at most a tenth of the time is spent on uploads.
_EVERY = 60.0
_TIMES_LONGER = 10


class BucketTable:
    """A `tables.Table` whose file is an object.

    Each upload replaces the object in one step. So a killed process leaves the table of
    the last upload, which `--resume` continues. Parquet is uploaded when it is
    complete, and its rows as `NAME.partial.jsonl` until then.

    Attributes:
      done: see `tables.Table`.
    """

    def __init__(
        self,
        path: BucketPath,
        columns: Sequence[str],
        *,
        stdout: TextIO,
        identity: dict[str, Any],
        resume: bool = False,
    ):
        """Fetch what is there, and open the local file; see `tables.Table`.

        Raises:
          UsageError: as in `tables.Table`.
          BucketError: the bucket cannot be read or written.
        """
        tables.check_suffix(path)
        self._folder = str(path.parent)
        self._identity = f"{path.name}.model.json"
        self._rows = path.name
        if path.suffix == ".parquet":
            self._rows = f"{path.stem}.partial.jsonl"
        existing = [
            name
            for name in dict.fromkeys((path.name, self._rows, self._identity))
            if buckets.exists(buckets.join(self._folder, name))
        ]
        if existing not in ([], [self._identity]) and not resume:
            raise errors.UsageError(
                f"{path} exists already: continue it with --resume, or remove it"
            )
        self._name = path.name
        self._local = pathlib.Path(tempfile.mkdtemp(prefix="arniqa_jax-"))
        try:
            if resume:
                buckets.download_files(self._folder, self._local, existing)
            self._table = tables.Table(
                self._local / path.name,
                columns,
                stdout=stdout,
                identity=identity,
                resume=resume,
            )
            self._upload(self._identity)
        except errors.UsageError as error:
            shutil.rmtree(self._local)
            message = str(error).replace(str(self._local), self._folder)
            raise errors.UsageError(message) from error
        except BaseException:
            shutil.rmtree(self._local)
            raise
        self.done, self.has = self._table.done, self._table.has
        self._next = time.monotonic() + _EVERY

    def __enter__(self) -> "BucketTable":
        return self

    def write(self, row: dict[str, Any]) -> None:
        """Add a row to the local file, and upload it if it is time.

        If an upload fails, the next one may succeed: only the last one must.
        """
        self._table.write(row)
        start = time.monotonic()
        if start < self._next:
            return
        try:
            self._upload(self._rows)
        except errors.BucketError as error:
            logging.warning("%s; the table is uploaded again later", error)
        now = time.monotonic()
        self._next = now + max(_EVERY, _TIMES_LONGER * (now - start))

    def __exit__(self, kind, error, traceback) -> None:
        self._table.__exit__(kind, error, traceback)
        try:
            self._upload(self._name if kind is None else self._rows)
            if kind is None and self._rows != self._name:
                buckets.delete(buckets.join(self._folder, self._rows))
        except errors.BucketError as failure:
            message = f"{failure}; the table is kept in {self._local}"
            if kind is None:
                raise errors.BucketError(message) from failure
            logging.warning("%s", message)
            return
        shutil.rmtree(self._local)

    def _upload(self, name: str) -> None:
        buckets.upload_files(self._local, self._folder, [name])
