"""Loading in worker processes that end when, and only when, their parent wants it."""

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
from collections.abc import Iterator

import grain
import numpy as np
from absl import flags

from arniqa_jax.errors import ArniqaError

# Ctrl-C at a terminal, or a scheduler's SIGTERM, reaches the workers too; but the main
# process is to act on it, which still needs them until it has saved.
_PARENTS_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Batches(Iterator[dict[str, np.ndarray]]):
    """The batches of a grain dataset; also a context manager that closes it."""

    def __init__(self, dataset: grain.IterDataset, workers: int):
        """Starts to load.

        Args:
          dataset: gives dictionaries of arrays; raises `ArniqaError` alone.
          workers: processes that load; 0 loads in a thread of this one.
        """
        if workers:
            if not flags.FLAGS.is_parsed():
                # grain reads absl's flags, which only `app.run` parses: not a notebook.
                flags.FLAGS.mark_as_parsed()
            dataset = dataset.mp_prefetch(
                grain.MultiprocessingOptions(num_workers=workers),
                worker_init_fn=_prepare_worker,
            ).map(_out_of_shared_memory)
        self._batches = iter(dataset)
        # The first batch is fetched in a thread, so that the workers start while the
        # caller compiles. They inherit its blocked signals.
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
            # What grain says when the system has killed a worker.
            if "terminated unexpectedly" not in str(error):
                raise
            raise ArniqaError(
                f"a data worker ended unexpectedly ({error}): if memory or "
                "/dev/shm ran out, lower data.workers or train.batch_size"
            ) from error

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        """Ends the workers; waits for the batches they are loading."""
        if self._first is not None:
            concurrent.futures.wait([self._first])
        self._batches.close()


def _out_of_shared_memory(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Copies a worker's batch, so that its shared memory is freed at once.

    It is scarce (a container has 64 MiB by default), and what a caller still held at
    exit would be reported as leaked.
    """
    return {name: np.array(value) for name, value in batch.items()}


@contextlib.contextmanager
def _signals_blocked():
    # Started by the first worker otherwise, whereupon it unblocks the signals.
    multiprocessing.resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _PARENTS_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _prepare_worker(worker_index: int, worker_count: int) -> None:
    """Keeps a worker from outliving its parent, and from blocking it when it dies."""
    del worker_index, worker_count  # grain passes them
    threading.Thread(target=_end_with_parent, daemon=True, name="watchdog").start()
    # Between two batches a worker asks an event whether to stop, and a counter whether
    # to go elsewhere. Both take a lock that it shares with its parent: a worker killed
    # while it holds one leaves the parent waiting for ever, in `next` or in `close`.
    # Neither question needs the lock.
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
