"""Files of tensors: PyTorch's (.pth) and safetensors, read without PyTorch.

Only writing a .pth file needs PyTorch (extra `convert`).
"""

import io
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from arniqa_jax import errors
from arniqa_jax.storage.files import write_atomically
from arniqa_jax.weights import torch_archive

SUFFIXES = (".pth", ".pt", ".tar", ".safetensors")

# The format (github.com/huggingface/safetensors) is little-endian: the length of the
# header (uint64), the header (JSON: dtype, shape and offsets of each tensor), the data.
_SAFETENSORS_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
}


def read_tensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Return the tensors of a file by name.

    Raises:
      CheckpointError: the file is missing or damaged, or contains more than tensors.
    """
    if path.suffix != ".safetensors":
        return torch_archive.read(path)
    if not path.is_file():
        raise errors.CheckpointError(f"{path}: there is no such file")
    return _read_safetensors(path)


def read_regressor(path: pathlib.Path) -> tuple[np.ndarray, float]:
    """Return the weights, float64 (D,), and the intercept of an official regressor.

    The official files are TorchScript modules with one linear layer.

    Raises:
      CheckpointError: the file is missing or damaged, or is not a linear layer with one
        output.
    """
    tensors = read_tensors(path).values()
    return _linear([tensor.astype(np.float64) for tensor in tensors], path)


def _linear(tensors: list[np.ndarray], path: pathlib.Path) -> tuple[np.ndarray, float]:
    """Return weights (D,) and intercept of a linear layer with one output.

    The intercept has one element and may have any shape: the official regressors come
    from scikit-learn's Ridge, and their intercept has the shape ().
    """
    intercepts = [value for value in tensors if value.size == 1]
    weights = [value for value in tensors if value.size == max(value.shape, default=1)]
    weights = [value for value in weights if value.size > 1]
    if len(tensors) != 2 or len(weights) != 1 or len(intercepts) != 1:
        raise errors.CheckpointError(
            f"{path} holds tensors of shapes {[value.shape for value in tensors]}, "
            "expected the weights, (D,) or (1, D), and the intercept, one number, of a "
            "regressor"
        )
    return weights[0].reshape(-1), intercepts[0].item()


def write_tensors(path: pathlib.Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write tensors as .safetensors, or with PyTorch as .pth, by the suffix.

    Raises:
      ArniqaError: the suffix is PyTorch's, and PyTorch is not installed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        write_atomically(path, _to_safetensors(tensors))
        return
    torch = _import_torch(path)
    buffer = io.BytesIO()
    # Arrays from JAX are read-only, and PyTorch warns about them, so they are copied.
    torch.save({k: torch.from_numpy(v.copy()) for k, v in tensors.items()}, buffer)
    write_atomically(path, buffer.getvalue())


def _import_torch(path: pathlib.Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise errors.ArniqaError(
            f"writing {path} needs PyTorch, which is not installed: pip install "
            "'arniqa_jax[convert]', or write .safetensors, which needs nothing"
        ) from error
    return torch


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    content = path.read_bytes()
    try:
        start = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:start])
        header.pop("__metadata__", None)
        tensors = {}
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            if not 0 <= begin <= end <= len(content) - start:
                raise ValueError(f"{name} lies outside the file")
            dtype, shape = _SAFETENSORS_DTYPES[entry["dtype"]], entry["shape"]
            if end - begin != dtype.itemsize * math.prod(shape):
                raise ValueError(f"{name} has {end - begin} bytes for {shape}")
            data = content[start + begin : start + end]
            tensors[name] = np.frombuffer(data, dtype).reshape(shape)
        return tensors
    except (ValueError, KeyError, TypeError, AttributeError, MemoryError) as error:
        raise torch_archive.damaged(path, error) from error


def _to_safetensors(tensors: Mapping[str, np.ndarray]) -> bytes:
    codes = {dtype: code for code, dtype in _SAFETENSORS_DTYPES.items()}
    header, data, end = {"__metadata__": {"format": "pt"}}, [], 0
    for name, value in tensors.items():
        begin, end = end, end + value.nbytes
        header[name] = {
            "dtype": codes[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [begin, end],
        }
        data.append(value.tobytes())
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + b"".join(data)
