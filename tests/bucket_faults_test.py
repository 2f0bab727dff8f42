"""Faults between a run and its bucket: they are borne, or said in one line, soon."""

import logging
import os
import subprocess
import sys
import time

import conftest
import emulators
import fault_proxy
import pytest

from arniqa_jax import errors
from arniqa_jax.storage import bucket_errors, buckets
from arniqa_jax.storage.workdir import Workdir


@pytest.fixture
def faulty(gcs, gcs_server, monkeypatch):
    """A proxy in front of the emulator, through which this process reaches it."""
    with (
        fault_proxy.proxy(gcs_server) as proxy,
        conftest.use_gcs(proxy.address, monkeypatch),
    ):
        yield proxy


@pytest.mark.parametrize("fault", [503, 429, "cut"])
def test_a_request_is_repeated_with_a_log_line(gcs, faulty, fault, caplog):
    left = [fault, fault]
    faulty.fault = lambda *_: left.pop() if left else None
    caplog.handler.addFilter(bucket_errors.only_repetitions)
    with caplog.at_level(logging.DEBUG, "gcsfs"):
        buckets.write(f"{gcs}/file", b"content")
    assert buckets.read(f"{gcs}/file") == b"content"
    assert faulty.faults == 2
    lines = [record for record in caplog.records if record.name == "gcsfs"]
    assert len(lines) == 2
    assert all(line.getMessage().endswith("; trying again") for line in lines)
    assert all(line.levelno == logging.WARNING for line in lines)


def test_an_outage_that_gcsfs_does_not_bear(gcs, monkeypatch, caplog):
    monkeypatch.setattr(buckets, "_PAUSES", (0.01, 0.01))
    left = [TimeoutError("no answer"), ConnectionResetError("reset")]

    def operation():
        if left:
            raise left.pop()
        return "done"

    assert buckets.retried("gs://b/f", operation) == "done"
    assert caplog.text.count("gs://b/f: ") == 2
    left += [TimeoutError("no answer")] * 3
    with pytest.raises(errors.BucketError, match="gs://b/f: unreadable: no answer"):
        buckets.retried("gs://b/f", operation)


def test_missing_permission_is_said_in_one_line(gcs, faulty):
    faulty.fault = lambda *_: 403
    with pytest.raises(errors.BucketError, match=f"{gcs}/run: .*permission") as raised:
        Workdir(f"{gcs}/run")
    assert "\n" not in str(raised.value)
    # To read is allowed, to write is not.
    faulty.fault = lambda method, path: 403 if method != "GET" else None
    with (
        pytest.raises(errors.BucketError, match=r"/\.lock: unwritable: permission"),
        Workdir(f"{gcs}/run").lock(),
    ):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["address", "bucket", "permission"])
def test_the_command_says_what_is_wrong_soon(gcs, faulty, tmp_path, wrong):
    address = faulty.address
    if wrong == "address":
        address = f"http://127.0.0.1:{emulators.free_port()}"
    if wrong == "permission":
        faulty.fault = lambda *_: 403
    bucket = "gs://missing" if wrong == "bucket" else gcs
    started = time.monotonic()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "arniqa_jax.main", "--config=pretrain"),
            *(f"--workdir={bucket}/run", "--config.model.init=random"),
        ],
        env=os.environ
        | emulators.gcs_environment(address)
        | {"XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert time.monotonic() - started < 60
    assert done.returncode == 1, done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith(f"error: {bucket}") and "Traceback" not in done.stderr
    said = {"address": address, "bucket": "no such bucket", "permission": "permission"}
    assert said[wrong] in line
