"""Models that lie elsewhere: each is copied to this machine before it is read.

A model directory in a bucket is copied to the user's cache, under a name that changes
with its files. Of a run in a bucket only the small files are copied that scoring needs;
its checkpoint is read where it is.
"""

import hashlib
import os
import pathlib
import re
import secrets
import shutil

from arniqa_jax import errors
from arniqa_jax.storage import bucket_lists, buckets, cache, files
from arniqa_jax.weights import hub

# The files of a model directory and of a run, see `model_directory`.
_OF_A_MODEL = re.compile(
    r"model\.json|encoder\.safetensors|encoder/.+|regressors/[^/]+\.(json|npz)"
)
_OF_A_RUN = re.compile(
    r"config\.json|(results/[^/]+/)?(encoder\.json|regressors/[^/]+\.(json|npz))"
)


def is_elsewhere(model: str | os.PathLike) -> bool:
    """Return whether a model is named by an address or URL, not by a local path."""
    text = os.fspath(model)
    return hub.is_address(text) or buckets.is_url(text)


def split(model: str) -> tuple[str, str | None]:
    """Return the address of a model, and the regressor's name of `ADDRESS:NAME`."""
    if hub.is_address(model):
        address = hub.parse(model)
        revision = f"@{address.revision}" if address.revision else ""
        return f"hf://{address.repository}{revision}", address.regressor
    url, _, name = model.rpartition(":")
    return (model, None) if "/" in name else (url, name)


def fetch(model: str | os.PathLike) -> pathlib.Path:
    """Return the local directory of a model, copied if it lies elsewhere.

    Args:
      model: a local path, the URL of a model directory or a run in a bucket, or an
        address on the Hugging Face hub.

    Raises:
      ArniqaError: the model cannot be downloaded.
      CheckpointError: the URL holds no model.
      UsageError: the path is a URL of another kind.
    """
    text = os.fspath(model)
    if hub.is_address(text):
        return hub.download(hub.parse(text))
    if buckets.is_url(text):
        return _copy(text.rstrip("/"))
    return files.local_path(model, "model")


def _copy(url: str) -> pathlib.Path:
    """Return the copy of what is in a bucket now, made unless it exists."""
    buckets.check_listable(url, "model")
    entries = bucket_lists.find_entries(url)
    wanted = _OF_A_MODEL if "model.json" in entries else _OF_A_RUN
    entries = {name: e for name, e in entries.items() if wanted.fullmatch(name)}
    if not entries:
        raise errors.CheckpointError(
            f"there is no model at {url}: expected model.json, or config.json of a run"
        )
    if "config.json" in entries and buckets.scheme(url) != "gs":
        raise errors.CheckpointError(
            f"{url} is a run, and checkpoints are read from gs:// and local disks "
            "only: copy it, or a model directory that arniqa_jax.convert makes from it"
        )
    state = hashlib.sha256(repr(entries).encode()).hexdigest()[:16]
    target = cache.directory() / "models" / buckets.local_name(url) / state
    if target.is_dir():
        return target
    temporary = target.with_name(f".{secrets.token_hex(4)}.tmp")
    try:
        buckets.download_files(url, temporary, entries)
        _set_times(temporary, entries)
        temporary.replace(target)
    except OSError:
        if not target.is_dir():  # not made by another process meanwhile
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _set_times(folder: pathlib.Path, entries: dict[str, bucket_lists.Entry]) -> None:
    """Set the times of files and their folders: the last evaluation counts."""
    for name, entry in sorted(entries.items(), key=lambda item: item[1].modified):
        path = folder / name
        os.utime(path, (entry.modified, entry.modified))
        if path.parent.name == "regressors":
            os.utime(path.parent, (entry.modified, entry.modified))
