"""Models on the Hugging Face hub: download and upload (extra `hub`).

A repository on the hub holds a model directory with `encoder.safetensors` and a model
card, `README.md`. The environment variables of huggingface_hub apply, such as
HF_ENDPOINT for another server, HF_TOKEN and HF_HUB_OFFLINE.
"""

import contextlib
import dataclasses
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from arniqa_jax import errors
from arniqa_jax.inference.encoder import Encoder
from arniqa_jax.storage.files import write_atomically
from arniqa_jax.weights import model_directory
from arniqa_jax.weights.model_directory import Source
from arniqa_jax.weights.regressors import Regressor

_SCHEME = "hf://"
_ADDRESS = re.compile(
    r"hf://(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[^:@]+))?(:(?P<name>[\w.-]+))?"
)
# Nothing else of a repository is downloaded.
_FILES = ("model.json", "encoder.safetensors", "regressors/*.json", "regressors/*.npz")


@dataclasses.dataclass(frozen=True)
class Address:
    """A model on the hub.

    Attributes:
      repository: `ORG/REPO`.
      revision: branch, tag or commit; None for the main branch.
      regressor: name of one of several regressors, or None.
    """

    repository: str
    revision: str | None = None
    regressor: str | None = None


def is_address(model: str) -> bool:
    """Return whether a model is named by an address on the hub."""
    return model.startswith(_SCHEME)


def parse(model: str) -> Address:
    """Return the parts of `hf://ORG/REPO[@REVISION][:NAME]`.

    Raises:
      UsageError: the text has another form.
    """
    match = _ADDRESS.fullmatch(model)
    if not match:
        raise errors.UsageError(
            f"{model}: expected hf://ORG/REPO, hf://ORG/REPO@REVISION, or either with "
            ":NAME for one of several regressors"
        )
    return Address(match["repository"], match["revision"], match["name"])


def download(address: Address) -> pathlib.Path:
    """Return the model directory of a repository, in the cache of huggingface_hub.

    Raises:
      ArniqaError: huggingface_hub is not installed, or the model cannot be downloaded.
      CheckpointError: the repository holds no model directory.
    """
    library = _import_library()
    with _one_line_errors(address):
        folder = library.snapshot_download(
            address.repository,
            revision=address.revision,
            allow_patterns=list(_FILES),
            endpoint=os.environ.get("HF_ENDPOINT"),
        )
    folder = pathlib.Path(folder)
    if not model_directory.is_model_directory(folder):
        raise errors.CheckpointError(
            f"hf://{address.repository} holds no model.json: it is not a model of "
            "arniqa_jax"
        )
    return folder


def upload(
    address: Address,
    encoder: Encoder,
    regressors: Mapping[str, Regressor],
    source: Source,
    card: str,
    *,
    private: bool = False,
) -> str:
    """Upload a model as one commit, and return the URL of the commit.

    Args:
      address: its repository is created if it does not exist; its revision, if given,
        is an existing branch.
      encoder: the encoder.
      regressors: its regressors by name.
      source: where the encoder comes from.
      card: the text of `README.md`.
      private: whether a repository that is created is private.

    Raises:
      ArniqaError: huggingface_hub is not installed, or the upload failed.
    """
    library = _import_library()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary) / "model"
        model_directory.write(folder, encoder, source, safetensors=True)
        for name, regressor in regressors.items():
            model_directory.write_regressor(folder, regressor, name)
        write_atomically(folder / "README.md", card)
        api = library.HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
        with _one_line_errors(address):
            api.create_repo(address.repository, exist_ok=True, private=private)
            commit = api.upload_folder(
                repo_id=address.repository,
                folder_path=folder,
                revision=address.revision,
                commit_message="Upload a model of arniqa_jax",
            )
    return str(commit.commit_url)


@contextlib.contextmanager
def _one_line_errors(address: Address) -> Iterator[None]:
    """Turn the errors of huggingface_hub into one line."""
    from huggingface_hub.errors import HTTPError

    try:
        yield
    except (OSError, ValueError, HTTPError) as error:
        # The first line says what happened; further lines are advice for its own CLI.
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        raise errors.ArniqaError(
            f"hf://{address.repository}: {reason or type(error).__name__}. Check the "
            "name, the revision and the network; a private repository needs HF_TOKEN"
        ) from error


def _import_library() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise errors.ArniqaError(
            "models on the Hugging Face hub need huggingface_hub: pip install "
            "'arniqa_jax[hub]'"
        ) from error
    return huggingface_hub
