"""Downloading a file of weights over HTTP: resumed, checked, whole or not there.

A file is known by its size and SHA-256, which are noted in `pins.json` beside it when
it is first there. What is not a PyTorch file (a zip) is refused.
"""

import hashlib
import http.client
import json
import os
import pathlib
import sys
import urllib.error
import urllib.request
from typing import Any

import tqdm
from absl import logging

from arniqa_jax import errors
from arniqa_jax.storage.files import write_atomically

_ATTEMPTS = 5
# Seconds without a byte after which a connection counts as stalled.
_STALLED = 30.0
_BLOCK = 1 << 20
_ZIP = b"PK\x03\x04"


def fetch(address: str, path: pathlib.Path) -> pathlib.Path:
    """Returns `path`, downloaded from `address` unless it is there already.

    A part that an earlier attempt has left is gone on with, if the server still has
    the same file.

    Raises:
      CheckpointError: it is not the file that was there before, or no PyTorch file.
      OSError: it cannot be had.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                _download(address, partial)
                break
            except urllib.error.HTTPError as error:
                if error.code < 500 or attempt == _ATTEMPTS:
                    raise
                logging.warning("%s: %s; trying again", address, error)
            except (OSError, http.client.HTTPException) as error:
                if attempt == _ATTEMPTS:
                    raise OSError(f"{type(error).__name__}: {error}") from error
                logging.warning("%s: %s; going on", address, error)
        try:
            _check(partial, path.name)
        except errors.CheckpointError:
            partial.unlink()
            raise
        partial.replace(path)
    else:
        _check(path, path.name)
    return path


def _download(address: str, partial: pathlib.Path) -> None:
    """One attempt; raises OSError where the answer ends before the file does."""
    mark = partial.with_name(partial.name + ".etag")
    done = partial.stat().st_size if partial.exists() and mark.exists() else 0
    request = urllib.request.Request(address)
    if done:
        request.add_header("Range", f"bytes={done}-")
        request.add_header("If-Range", mark.read_text())
    try:
        answer = urllib.request.urlopen(request, timeout=_STALLED)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the part is longer than the file: begin anew
            mark.unlink()
            raise OSError("the part that is here is of another file") from error
        raise
    with answer:
        # A server that does not resume, or has another file by now, sends all of it.
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
        elif mark.exists():
            mark.unlink()
        bar = tqdm.tqdm(
            total=total,
            initial=done,
            desc=address.rsplit("/", 1)[-1],
            unit="B",
            unit_scale=True,
            disable=not sys.stderr.isatty(),
        )
        with bar, open(partial, "r+b" if done else "wb") as file:
            file.seek(done)
            # `read1` gives what is there, so that a stall loses nothing.
            while block := answer.read1(_BLOCK):
                file.write(block)
                bar.update(len(block))
            size = file.tell()
    if total is not None and size != total:
        raise OSError(f"the answer ended after {size} of {total} bytes")
    mark.unlink(missing_ok=True)


def _range_start(headers: Any) -> int | None:
    """Where a partial answer begins: `Content-Range: bytes START-END/SIZE`."""
    start = headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(start) if start.isdecimal() else None


def _check(file: pathlib.Path, name: str) -> None:
    """Compares with what is noted, or notes it."""
    with open(file, "rb") as stream:
        start = stream.read(len(_ZIP))
        stream.seek(0)
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if start != _ZIP:
        raise errors.CheckpointError(
            f"{name} is not a PyTorch file, found {start!r} at its start: the address "
            "is wrong, or something between answers in its place"
        )
    pins_file = file.with_name("pins.json")
    pins = json.loads(pins_file.read_text()) if pins_file.exists() else {}
    found = {"size": os.path.getsize(file), "sha256": digest}
    if pins.setdefault(name, found) != found:
        raise errors.CheckpointError(
            f"{name} is not the file that it was when it was first fetched: expected "
            f"{pins[name]}, found {found}. If it was published anew, remove {pins_file}"
        )
    write_atomically(pins_file, json.dumps(pins, indent=1) + "\n")
