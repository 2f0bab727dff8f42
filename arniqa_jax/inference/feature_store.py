"""Features on disk: written in blocks, resumed, renamed when complete, read in blocks.

An extraction is a directory with one float32 array. While it is written, the directory
has another name and also contains the number of images done so far, so that an
interrupted extraction resumes there. With several processes, process 0 writes, and all
processes read from the shared file system. If they share none, as on a pod whose run is
in a bucket, each process has its own files.

Shapes: N images of a dataset, R rows extracted, C crops (5 or 1), D features of a crop
at both scales, A regressors.
"""

import contextlib
import dataclasses
import pathlib
import secrets
import shutil
import time
from collections.abc import Iterator

import jax
import numpy as np
from absl import logging

from arniqa_jax import errors
from arniqa_jax.distributed import agreement
from arniqa_jax.storage import locks
from arniqa_jax.storage.files import write_atomically

# Seconds between two flushes of the array to disk, at least.
SECONDS_BETWEEN_FLUSHES = 10.0
_ARRAY, _DONE, _LOCK, _PARTIAL = "features.npy", "done", "lock", ".partial"


def find(directory: pathlib.Path, shape: tuple[int, int, int]) -> np.ndarray | None:
    """Return a complete extraction of this shape, memory-mapped, or None.

    The answer is the same on all processes. A file that a crash of the machine has
    damaged is removed, with a warning.
    """
    damaged = ""
    shared = agreement.share_files(directory.parent)
    if (jax.process_index() == 0 or not shared) and directory.is_dir():
        try:
            values = np.load(directory / _ARRAY, mmap_mode="r")
            if values.shape != shape or values.dtype != np.float32:
                damaged = f"{values.dtype} {values.shape}, expected float32 {shape}"
        except (OSError, ValueError, EOFError) as error:
            damaged = str(error)
        if damaged:
            logging.warning(
                "%s is damaged (%s): extracting it again", directory, damaged
            )
            shutil.rmtree(directory)
    agreed = agreement.agree if shared else agreement.least
    if not agreed(directory.is_dir()):
        return None
    return np.load(directory / _ARRAY, mmap_mode="r")


class Writer:
    """Writes an extraction; the end of the context without an error completes it.

    Every writer has its own directory, which it locks. No other writer uses a locked
    directory. If a process has ended and left a directory, the next writer resumes it.

    Attributes:
      done: number of rows that exist already; append the rows after them.
    """

    def __init__(self, directory: pathlib.Path, shape: tuple[int, int, int]):
        """Prepare an array (R, C, D) in a `directory` that does not exist yet."""
        self._final = directory
        self._shape = shape
        self._shared = agreement.share_files(directory.parent)
        self._writes = jax.process_index() == 0 or not self._shared
        self._lock = contextlib.ExitStack()
        self.done = 0

    def __enter__(self) -> "Writer":
        if self._writes:
            self._final.parent.mkdir(parents=True, exist_ok=True)
            if not self._continue_another():
                self._begin()
        agreed = agreement.agree if self._shared else agreement.least
        self.done = agreed(self.done)
        self._flushed = time.monotonic()
        return self

    def append(self, values_BCD: np.ndarray) -> None:
        """Add rows."""
        if self._writes:
            self._array[self.done : self.done + len(values_BCD)] = values_BCD
        self.done += len(values_BCD)
        if time.monotonic() - self._flushed > SECONDS_BETWEEN_FLUSHES:
            self._flush()

    def __exit__(self, kind, error, traceback) -> None:
        self._flush()
        if self._writes:
            del self._array
            if kind is None:
                self._complete()
            self._lock.close()
        if kind is None:
            agreement.wait_for_all(f"features {self._final.name}")

    def _begin(self) -> None:
        name = f"{self._final.name}.{secrets.token_hex(4)}{_PARTIAL}"
        self._partial = self._final.with_name(name)
        _check_space(self._final.parent, 4 * int(np.prod(self._shape)))
        # Until the directory is locked it has another name, which no other writer looks
        # at.
        unlocked = self._final.with_name(f".{name}")
        unlocked.mkdir()
        lock = unlocked / _LOCK
        lock.touch()
        locks.try_lock(self._lock.enter_context(lock.open()))
        self._array = np.lib.format.open_memmap(
            unlocked / _ARRAY, "w+", np.float32, self._shape
        )
        unlocked.rename(self._partial)

    def _continue_another(self) -> bool:
        """Resume the directory of an ended writer; return False if there is none."""
        for partial in sorted(self._final.parent.glob(f"{self._final.name}.*")):
            with contextlib.ExitStack() as stack:
                try:
                    lock = stack.enter_context(open(partial / _LOCK))
                    if not locks.try_lock(lock):
                        continue  # the writer is still running
                    # The writer may have completed the directory after it was listed.
                    (partial / _LOCK).stat()
                except OSError:
                    continue
                try:
                    done = int((partial / _DONE).read_text())
                    array = np.load(partial / _ARRAY, mmap_mode="r+")
                except (OSError, ValueError, EOFError):
                    array = None
                if array is None or array.shape != self._shape:
                    shutil.rmtree(partial)  # the writer was killed before any row
                    continue
                self._partial, self._array, self.done = partial, array, done
                self._lock = stack.pop_all()
                logging.info("resuming after %d images in %s", done, partial)
                return True
        return False

    def _complete(self) -> None:
        (self._partial / _LOCK).unlink()
        (self._partial / _DONE).unlink()
        try:
            self._partial.rename(self._final)
        except OSError:
            # Another writer has completed the same features in the meantime.
            if not self._final.is_dir():
                raise
            shutil.rmtree(self._partial)

    def _flush(self) -> None:
        if self._writes:
            self._array.flush()
            # The count is written after the array. It may be too low, but never too
            # high.
            write_atomically(self._partial / _DONE, str(self.done))
        self._flushed = time.monotonic()


def prune(cache_dir: pathlib.Path, keep: pathlib.Path) -> None:
    """Remove everything in `cache_dir` except the directory `keep`."""
    shared = agreement.share_files(cache_dir)
    if (jax.process_index() > 0 and shared) or not cache_dir.is_dir():
        return
    for entry in cache_dir.iterdir():
        if entry != keep:
            shutil.rmtree(entry)


def _check_space(directory: pathlib.Path, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise errors.ArniqaError(
            f"{directory} needs {needed / 2**30:.1f} GiB for features, "
            f"{free / 2**30:.1f} GiB are free; free some space or choose another "
            "--workdir"
        )


@dataclasses.dataclass(frozen=True)
class Features:
    """Features of the images of a dataset; read in blocks, as float64.

    Attributes:
      values_RCD: float32, memory-mapped; NaN where an image is unreadable.
      position_N: the row of each image of the dataset, -1 if it was not extracted.
      reference_MCD: features of the M references, for the full-reference mode.
      reference_N: index of each image's reference.
    """

    values_RCD: np.ndarray
    position_N: np.ndarray
    reference_MCD: np.ndarray | None = None
    reference_N: np.ndarray | None = None

    @property
    def crops(self) -> int:
        return self.values_RCD.shape[1]

    @property
    def width(self) -> int:
        """Number of features of a crop, as a regression uses them."""
        return self.values_RCD.shape[2] * (1 if self.reference_MCD is None else 2)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Return features, float64 (len(indices), C, width).

        In the full-reference mode they are f and `|f - f_ref|`, concatenated.
        """
        values = self.values_RCD[self.position_N[indices]].astype(np.float64)
        if self.reference_MCD is None:
            return values
        reference = self.reference_MCD[self.reference_N[indices]]
        return np.concatenate([values, np.abs(values - reference)], axis=-1)

    def means(self, indices: np.ndarray) -> np.ndarray:
        """Return the mean over the crops, float64 (len(indices), width)."""
        blocks = [self.take(block).mean(1) for block in _blocks(indices)]
        return np.concatenate(blocks) if blocks else np.empty((0, self.width))

    def predict(self, indices, weights_AD, intercepts_A) -> np.ndarray:
        """Return linear predictions (A, len(indices)).

        A prediction is linear in the mean over the crops of an image. Predictions are
        computed in blocks, because the means of 40,000 images would take 1.3 GB.
        """
        blocks = [weights_AD @ self.take(block).mean(1).T for block in _blocks(indices)]
        return np.concatenate(blocks, axis=1) + np.asarray(intercepts_A)[:, None]

    def regression_blocks(self, indices: np.ndarray, scores_N: np.ndarray) -> Iterator:
        """Yield blocks of features (crops, width) and, per crop, its image's score."""
        for block in _blocks(indices):
            x = self.take(block).reshape(-1, self.width)
            yield x, np.repeat(scores_N[block], self.crops)

    def readable(self, indices: np.ndarray) -> np.ndarray:
        """Return the indices whose image could be decoded."""
        first = self.values_RCD[self.position_N[indices], 0, 0]
        return indices[~np.isnan(first)]


def _blocks(indices: np.ndarray) -> Iterator[np.ndarray]:
    # 512 images of 5 crops and 4096 features take 80 MiB in float64.
    for start in range(0, len(indices), 512):
        yield indices[start : start + 512]
