"""The lock of a run directory in a bucket: who holds it, and when it is stale."""

import json
import subprocess
import sys
import time

import pytest

from arniqa_jax import errors
from arniqa_jax.storage import buckets
from arniqa_jax.storage.bucket_lock import BucketLock


def _lock(gcs, *, beat_every=0.05, stale_after=0.5):
    return BucketLock(
        f"{gcs}/run/.lock", "RUN", beat_every=beat_every, stale_after=stale_after
    )


def _move_to_another_machine(gcs):
    """Give the lock another namespace of process ids, as a process elsewhere has."""
    content = json.loads(buckets.read(f"{gcs}/run/.lock"))
    buckets.write(f"{gcs}/run/.lock", json.dumps(content | {"namespace": "elsewhere"}))


def test_a_second_owner_is_refused_and_a_later_one_is_not(gcs):
    with _lock(gcs):
        holder = json.loads(buckets.read(f"{gcs}/run/.lock"))
        with (
            pytest.raises(errors.ArniqaError, match="RUN is in use") as raised,
            _lock(gcs),
        ):
            pass
        for told in (holder["host"], str(holder["process"]), holder["since"]):
            assert told in str(raised.value)
    assert not buckets.exists(f"{gcs}/run/.lock")
    with _lock(gcs) as lock:
        lock.confirm()


def test_an_owner_elsewhere_is_alive_while_its_heart_beats(gcs, monkeypatch):
    from arniqa_jax.storage import bucket_lock

    with _lock(gcs):
        # Seen from another machine, whose process ids say nothing.
        monkeypatch.setattr(bucket_lock, "_namespace", lambda: "elsewhere")
        with pytest.raises(errors.ArniqaError, match="in use"), _lock(gcs):
            pass


def test_a_stale_lock_of_another_machine_is_taken_over(gcs, caplog):
    lock = _lock(gcs, beat_every=1000)
    lock.__enter__()
    _move_to_another_machine(gcs)
    started = time.monotonic()
    with caplog.at_level("INFO"), _lock(gcs):
        assert time.monotonic() - started >= 0.5
        assert "taking over the lock" in caplog.text
        # The first owner wakes up, and must not write any more.
        time.sleep(0.3)
        with pytest.raises(errors.ArniqaError, match="was taken over by another run"):
            lock.confirm()
    lock.__exit__(None, None, None)


def test_the_lock_of_a_killed_process_of_this_machine_is_free_at_once(gcs):
    hold = (
        "import sys, time; from arniqa_jax.storage import bucket_lock\n"
        "with bucket_lock.BucketLock(sys.argv[1], 'RUN'):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, f"{gcs}/run/.lock"],
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(errors.ArniqaError, match=str(holder.pid)), _lock(gcs):
            pass
        holder.kill()
        holder.wait()
        started = time.monotonic()
        with _lock(gcs, stale_after=60):
            assert time.monotonic() - started < 30


def test_an_object_that_is_no_lock_becomes_stale(gcs):
    buckets.write(f"{gcs}/run/.lock", b"?")
    with _lock(gcs):
        assert json.loads(buckets.read(f"{gcs}/run/.lock"))["process"]


def test_of_two_that_find_a_stale_lock_one_takes_it(gcs):
    """The slower one must not replace the lock that the faster one has just taken."""
    lock = _lock(gcs, beat_every=1000)
    lock.__enter__()
    _move_to_another_machine(gcs)
    slower = _lock(gcs)
    stale = slower._claimable()
    with _lock(gcs) as faster:
        assert not slower._write(stale)
        faster.confirm()
    lock.__exit__(None, None, None)
