"""Worker processes that load batches, and end with their parent."""

import concurrent.futures
import contextlib
import multiprocessing
import multiprocessing.resource_tracker
import multiprocessing.sharedctypes
import multiprocessing.synchronize
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator

import grain
import numpy as np
from absl import flags

from arniqa_jax.errors import ArniqaError

# Ctrl-C in a terminal and a scheduler's SIGTERM reach the workers too. The workers
# ignore them, because the main process reacts and needs its workers until it has saved.
_PARENTS_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Batches(Iterator[dict[str, np.ndarray]]):
    """The batches of a grain dataset, as an iterator.

    It is also a context manager that closes itself.
    """

    def __init__(self, dataset: grain.IterDataset, workers: int):
        """Start to load.

        Args:
          dataset: yields dictionaries of arrays, and raises only `ArniqaError`.
          workers: number of processes that load; 0 loads in a thread of this process.
        """
        if workers:
            if not flags.FLAGS.is_parsed():
                # grain reads absl's flags. They are parsed by `app.run`, which a
                # notebook does not call.
                flags.FLAGS.mark_as_parsed()
            dataset = dataset.mp_prefetch(
                grain.MultiprocessingOptions(num_workers=workers),
                worker_init_fn=_prepare_worker,
            ).map(_out_of_shared_memory)
        self._batches = iter(dataset)
        # A thread fetches the first batch, so that the workers start while the caller
        # compiles. The workers inherit the thread's blocked signals.
        threads = concurrent.futures.ThreadPoolExecutor(1, "first-batch")
        with _signals_blocked():
            self._first = threads.submit(next, self._batches)
        threads.shutdown(wait=False)

    def __next__(self) -> dict[str, np.ndarray]:
        try:
            if self._first is None:
                return next(self._batches)
            batch = self._first.result()
            self._first = None
            return batch
        except ArniqaError:
            self.close()
            raise
        except RuntimeError as error:
            self.close()
            # grain raises this if the system has killed a worker.
            if "terminated unexpectedly" not in str(error):
                raise
            raise ArniqaError(
                f"a data worker ended unexpectedly ({error}); if memory or /dev/shm "
                "ran out, lower data.workers or train.batch_size"
            ) from error

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        """End the workers, after they have loaded their current batches."""
        if self._first is not None:
            concurrent.futures.wait([self._first])
        self._batches.close()


def _out_of_shared_memory(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return a copy of a worker's batch, so that its shared memory is freed at once.

    Shared memory is scarce: a container has 64 MiB by default. Blocks that are still in
    use at exit would be reported as leaked.
    """
    return {name: np.array(value) for name, value in batch.items()}


@contextlib.contextmanager
def _signals_blocked():
    # Start the resource tracker now. Otherwise the first worker starts it, and this
    # unblocks the signals.
    multiprocessing.resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _PARENTS_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _prepare_worker(worker_index: int, worker_count: int) -> None:
    """Make a worker end with its parent, and never block the parent by its death."""
    del worker_index, worker_count  # grain passes them
    warnings.filterwarnings("ignore", module=r"PIL\.")  # as in the commands
    threading.Thread(target=_end_with_parent, daemon=True, name="watchdog").start()
    # Between two batches, a worker reads an event (whether to stop) and a counter. Each
    # read takes a lock that the worker shares with its parent. If the worker is killed
    # while it holds such a lock, the parent waits forever in `next` or in `close`.
    # Neither read needs the lock, so it is left out.
    multiprocessing.synchronize.Event.is_set = _is_set_without_lock
    counter = multiprocessing.sharedctypes.Synchronized
    counter.value = counter.value.getter(lambda number: number.get_obj().value)


def _is_set_without_lock(event: multiprocessing.synchronize.Event) -> bool:
    is_set = event._flag.acquire(False)
    if is_set:
        event._flag.release()
    return is_set


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process().pid
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
