"""Download a file over HTTP: resumed after a failure, checked, written atomically.

A pin is the size and SHA-256 of a file. If the caller has no pin, the first download
defines one, which is kept in `pins.json` next to the file.
"""

import dataclasses
import hashlib
import http.client
import json
import os
import pathlib
import sys
import time
import urllib.error
import urllib.request
from typing import Any

import tqdm
from absl import logging

from arniqa_jax import errors
from arniqa_jax.storage.files import write_atomically

ATTEMPTS = 5
# Seconds to wait after the first failed attempt; each further wait is twice as long.
_FIRST_WAIT = 1.0
_LONGEST_WAIT = 60.0
# Seconds without a byte after which a connection counts as stalled.
STALL_SECONDS = 30.0
_BLOCK = 1 << 20
_ZIP = b"PK\x03\x04"  # the first bytes of a PyTorch archive
# HTTP codes below 500 that are temporary: time-out, too early, too many requests.
_TEMPORARY = (408, 425, 429)


@dataclasses.dataclass(frozen=True)
class Pin:
    """What identifies the content of a file: its size in bytes and its SHA-256."""

    size: int
    sha256: str


def fetch(
    address: str, path: pathlib.Path, *, pin: Pin | None = None, limit: int = 1 << 20
) -> pathlib.Path:
    """Return `path`, downloaded from `address` unless it exists.

    An incomplete download is resumed if the server still has the same file. After a
    failed attempt, the next one waits.

    Args:
      address: URL of the file.
      path: where the file is kept.
      pin: size and SHA-256 of the file; None to use those of the first download.
      limit: maximum size in bytes of a file without a pin.

    Raises:
      CheckpointError: the file does not match its pin, or is not a PyTorch file.
      OSError: the file cannot be downloaded.
    """
    if path.exists():
        check(path, pin or _noted_pin(path))
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    expected = pin or _noted_pin(path)
    limit = expected.size if expected else limit
    partial = path.with_name(path.name + ".partial")
    for attempt in range(ATTEMPTS):
        try:
            _download(address, partial, limit)
            break
        except (OSError, http.client.HTTPException) as error:
            wait = _seconds_to_wait(error, attempt)
            if wait is None:
                raise error if isinstance(error, OSError) else OSError(error) from error
            logging.warning("%s: %s; trying again in %g s", address, error, wait)
            time.sleep(wait)
    try:
        check(partial, expected, name=path.name)
    except errors.CheckpointError:
        partial.unlink()
        raise
    if pin is None:
        _note_pin(path, pin_of(partial))
    partial.replace(path)
    return path


def check(path: pathlib.Path, pin: Pin | None, *, name: str | None = None) -> None:
    """Raise CheckpointError unless a file has the size and SHA-256 of its pin.

    Args:
      path: the file.
      pin: None to accept any PyTorch archive.
      name: name of the file in the error; by default its path.
    """
    with open(path, "rb") as file:
        start = file.read(16)
    if pin is None and not start.startswith(_ZIP):
        raise errors.CheckpointError(
            f"{name or path} is not a PyTorch file: it starts with {start!r}. The "
            "address is wrong, or a proxy answers instead of the server"
        )
    if pin and (found := pin_of(path)) != pin:
        raise errors.CheckpointError(
            f"{name or path} is not the published file: expected {pin.size} bytes with "
            f"the SHA-256 {pin.sha256}, found {found.size} bytes with {found.sha256}, "
            f"which start with {start!r}. Remove it, and fetch it from another place"
        )


def pin_of(path: pathlib.Path) -> Pin:
    """Return the size and SHA-256 of a file."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Pin(os.path.getsize(path), digest)


def _seconds_to_wait(error: Exception, attempt: int) -> float | None:
    """Return the seconds to wait before the next attempt; None to give up."""
    if attempt + 1 == ATTEMPTS:
        return None
    wait = _FIRST_WAIT * 2**attempt
    if isinstance(error, urllib.error.HTTPError):
        if error.code < 500 and error.code not in _TEMPORARY:
            return None
        asked = error.headers.get("Retry-After", "")
        error.close()
        if asked.isdecimal():
            wait = max(wait, float(asked))
    return min(wait, _LONGEST_WAIT)


def _download(address: str, partial: pathlib.Path, limit: int) -> None:
    """Make one attempt; raise OSError if the response ends before the file does."""
    mark = partial.with_name(partial.name + ".etag")
    done = partial.stat().st_size if partial.exists() and mark.exists() else 0
    request = urllib.request.Request(address)
    if done:
        request.add_header("Range", f"bytes={done}-")
        request.add_header("If-Range", mark.read_text())
    try:
        answer = urllib.request.urlopen(request, timeout=STALL_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the partial file is longer than the file: start over
            error.close()
            mark.unlink()
            raise OSError("the partial file belongs to another file") from error
        raise
    with answer:
        # A server that cannot resume, or whose file has changed, sends the whole file.
        resumes = answer.status == 206 and _range_start(answer.headers) == done
        if answer.status == 206 and not resumes:
            mark.unlink()
            raise OSError("the server sent another part than the one asked for")
        done = done if resumes else 0
        length = answer.headers.get("Content-Length")
        total = done + int(length) if length else None
        etag = answer.headers.get("ETag")
        if etag:
            mark.write_text(etag)
        else:
            mark.unlink(missing_ok=True)
        size = _receive(answer, partial, done, total, limit)
    if size > limit:
        partial.unlink()
        mark.unlink(missing_ok=True)
        raise errors.CheckpointError(
            f"{address} has more than {limit} bytes: it is not the published file"
        )
    if total is not None and size != total:
        raise OSError(f"the answer ended after {size} of {total} bytes")
    mark.unlink(missing_ok=True)


def _receive(
    answer: Any, partial: pathlib.Path, done: int, total: int | None, limit: int
) -> int:
    """Append a response to a file; return the file's size, at most `limit + 1`."""
    bar = tqdm.tqdm(
        total=total,
        initial=done,
        desc=partial.stem,
        unit="B",
        unit_scale=True,
        disable=not sys.stderr.isatty(),
    )
    with bar, open(partial, "r+b" if done else "wb") as file:
        file.seek(done)
        # `read1` returns the bytes that have arrived, so that a stall loses nothing.
        while block := answer.read1(min(_BLOCK, limit + 1 - file.tell())):
            file.write(block)
            bar.update(len(block))
            if file.tell() > limit:  # larger than the expected file
                break
        return file.tell()


def _range_start(headers: Any) -> int | None:
    """Return where a partial response begins: `Content-Range: bytes START-END/SIZE`."""
    start = headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(start) if start.isdecimal() else None


def _noted_pin(path: pathlib.Path) -> Pin | None:
    """Return the pin of a file's first download, or None."""
    file = path.with_name("pins.json")
    pins = json.loads(file.read_text()) if file.exists() else {}
    return Pin(**pins[path.name]) if path.name in pins else None


def _note_pin(path: pathlib.Path, pin: Pin) -> None:
    file = path.with_name("pins.json")
    pins = json.loads(file.read_text()) if file.exists() else {}
    pins[path.name] = dataclasses.asdict(pin)
    write_atomically(file, json.dumps(pins, indent=1) + "\n")
