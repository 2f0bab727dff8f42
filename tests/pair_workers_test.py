"""The workers that load pairs: their death, their parent's death, and signals."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from memory_photos import flat

from arniqa_jax.data import pairs
from arniqa_jax.errors import ArniqaError


def test_a_killed_worker_is_an_error_and_not_a_wait():
    before = multiprocessing.active_children()
    with pairs.pair_batches(
        flat(4), seed=0, patch_size=4, batch_size=2, workers=1
    ) as batches:
        next(batches)
        (worker,) = {*multiprocessing.active_children()} - {*before}
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(ArniqaError, match=r"worker ended unexpectedly.*-9"):
            for _ in range(20):
                next(batches)


# A program whose worker dies, where it may, with a lock in its hands that it shares
# with its parent: between two of its batches the system could kill it just there.
DYING = """
    import functools, gc, multiprocessing, os, signal, sys
    from multiprocessing import sharedctypes, synchronize
    from arniqa_jax.data import pairs
    from tests import memory_photos

    class Dying:
        def __init__(self, lock):
            self.lock = lock

        def __enter__(self):
            self.lock.acquire()
            os.kill(os.getpid(), signal.SIGKILL)

        __exit__ = None  # never reached, but `with` asks for it

    @functools.cache  # once in a process
    def arm():
        for each in gc.get_objects():
            if type(each) is synchronize.Event and "event" in sys.argv:
                each._cond = Dying(each._cond)
            if type(each) is sharedctypes.Synchronized and "number" in sys.argv:
                each.acquire = Dying(each.get_lock()).__enter__

    class Photos(memory_photos.Photos):
        def __getitem__(self, index):
            if multiprocessing.parent_process():
                arm()
            return super().__getitem__(index)

    def main():
        source = Photos(memory_photos.flat(4).images)
        options = {"seed": 0, "patch_size": 4, "batch_size": 2, "workers": 1}
        with pairs.pair_batches(source, **options) as batches:
            for _ in range(5):
                next(batches)
        print("closed")

    if __name__ == "__main__":
        main()
"""


@pytest.mark.parametrize("lock", ["event", "number"])
def test_a_worker_takes_no_lock_that_its_death_would_leave_locked(tmp_path, lock):
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(DYING))
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [sys.executable, program, lock],
        capture_output=True,
        text=True,
        env=environment,
        timeout=600,
    )
    assert (done.stdout, done.stderr) == ("closed\n", "")


def test_signals_are_as_before_for_the_caller():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with pairs.pair_batches(flat(3), seed=0, patch_size=4, batch_size=2) as batches:
        next(batches)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


# A program that trains: on a signal it takes a few more batches ("saves") and ends.
PROGRAM = """
    import multiprocessing, os, signal, sys, time
    from arniqa_jax.data import pairs
    from tests.memory_photos import flat

    def main(end):
        stopped = []
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: stopped.append(number))
        batches = pairs.pair_batches(
            flat(4), seed=0, patch_size=4, batch_size=2, workers=2)
        if end == "signal":  # while the workers are still importing, and again later
            while len(multiprocessing.active_children()) < 2:
                time.sleep(0.01)
            os.killpg(0, signal.SIGINT)
        next(batches)
        pids = [child.pid for child in multiprocessing.active_children()]
        print(*pids, flush=True)
        if end == "exit":
            sys.exit(3)
        if end == "forget":
            del batches
            return
        while len(stopped) < 3:
            next(batches)
        for _ in range(5):
            next(batches)
        batches.close()
        print("saved", flush=True)

    if __name__ == "__main__":
        main(sys.argv[1])
"""


@pytest.fixture
def start(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    started = []

    def _start(end):
        process = subprocess.Popen(
            [sys.executable, program, end],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.getcwd()},
            start_new_session=True,
        )
        started.append(process)
        workers = [int(pid) for pid in process.stdout.readline().split()]
        assert len(workers) == 2, process.communicate()[1]
        return process, workers

    yield _start
    for process in started:
        process.kill()
        process.communicate()


def _all_end(pids):
    """Waits until none of the processes is there; far longer than they should need."""
    for _ in range(600):
        if not any(os.path.exists(f"/proc/{pid}") for pid in pids):
            return True
        time.sleep(0.1)
    return False


def test_kill_9_of_the_parent_leaves_no_worker(start):
    process, workers = start("never")
    process.kill()
    assert _all_end(workers)


def test_signals_to_the_group_leave_the_workers_to_the_parent(start):
    process, workers = start("signal")
    os.killpg(process.pid, signal.SIGINT)
    os.killpg(process.pid, signal.SIGTERM)
    output, errors = process.communicate(timeout=600)
    assert (output, errors, process.returncode) == ("saved\n", "", 0)
    assert _all_end(workers)


@pytest.mark.parametrize(("end", "code"), [("exit", 3), ("forget", 0)])
def test_a_parent_that_does_not_close_ends_all_the_same(start, end, code):
    process, workers = start(end)
    _, errors = process.communicate(timeout=600)
    assert (errors, process.returncode) == ("", code)
    assert _all_end(workers)
