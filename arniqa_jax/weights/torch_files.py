"""Files of tensors: PyTorch's (with the extra `convert`) and safetensors (without).

Nothing that a file pickles is ever run: state dicts are read with `weights_only=True`,
the official regressors, which are TorchScript, through `torch.jit.load`.
"""

import io
import json
import math
import pathlib
import pickle
import warnings
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from arniqa_jax import errors
from arniqa_jax.storage.files import write_atomically

SUFFIXES = (".pth", ".pt", ".tar", ".safetensors")

# github.com/huggingface/safetensors: the length of the header (uint64), the header
# (JSON: dtype, shape and place of each tensor), the data; little-endian.
_SAFETENSORS_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
}
# Under which some checkpoints keep their state dict, beside other things.
_CONTAINERS = ("model", "state_dict")


def read_tensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads a state dict.

    Raises:
      CheckpointError: it is missing, damaged, or holds more than tensors.
      ArniqaError: PyTorch is needed and not installed.
    """
    if not path.is_file():
        raise errors.CheckpointError(f"{path}: there is no such file")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    torch = _import_torch(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise errors.CheckpointError(
            f"{path} pickles more than tensors (the official training code puts its "
            "config into last_*.pth) or is damaged, and cannot be read safely. If you "
            "trust it, save its state dict alone where it was made: "
            "torch.save(model.state_dict(), FILE)"
        ) from error
    except (RuntimeError, OSError, ValueError, EOFError) as error:
        raise _damaged(path, error) from error
    for name in _CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping):
        raise errors.CheckpointError(
            f"{path} holds a {type(content).__name__}, expected a state dict"
        )
    return {
        name: value.float().numpy() if value.is_floating_point() else value.numpy()
        for name, value in content.items()
        if isinstance(value, torch.Tensor)
    }


def read_regressor(path: pathlib.Path) -> tuple[np.ndarray, float]:
    """Reads an official regressor, a TorchScript module with one linear layer.

    Returns:
      The weights, float64 (D,), and the intercept.

    Raises:
      CheckpointError: it is missing, damaged or no linear layer with one output.
      ArniqaError: PyTorch is not installed.
    """
    if not path.is_file():
        raise errors.CheckpointError(f"{path}: there is no such file")
    torch = _import_torch(path)
    try:
        with warnings.catch_warnings():
            # TorchScript is deprecated, and is what the official files are.
            warnings.simplefilter("ignore")
            module = torch.jit.load(path, map_location="cpu")
    except (RuntimeError, ValueError) as error:
        raise _damaged(path, error) from error
    tensors = [value.double().numpy() for value in module.state_dict().values()]
    return _linear(tensors, path)


def _linear(tensors: list[np.ndarray], path: pathlib.Path) -> tuple[np.ndarray, float]:
    """Return weights (D,) and intercept of a linear layer with one output.

    The intercept has one element in any shape: the official regressors are Ridges of
    scikit-learn, and theirs has the shape ().
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
    """Writes a state dict, as safetensors or through PyTorch by the suffix.

    Raises:
      ArniqaError: PyTorch is needed and not installed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        write_atomically(path, _to_safetensors(tensors))
        return
    torch = _import_torch(path)
    buffer = io.BytesIO()
    # Copies: arrays that come from JAX are read-only, which PyTorch warns about.
    torch.save({k: torch.from_numpy(v.copy()) for k, v in tensors.items()}, buffer)
    write_atomically(path, buffer.getvalue())


def require_torch(path: pathlib.Path) -> None:
    """Raises ArniqaError where PyTorch, which `path` needs, is not installed."""
    _import_torch(path)


def _import_torch(path: pathlib.Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise errors.ArniqaError(
            f"{path} needs PyTorch, which is not installed: pip install "
            "'arniqa_jax[convert]', or use .safetensors, which needs nothing"
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
            dtype, shape = _SAFETENSORS_DTYPES[entry["dtype"]], entry["shape"]
            if end - begin != dtype.itemsize * math.prod(shape):
                raise ValueError(f"{name} has {end - begin} bytes for {shape}")
            data = content[start + begin : start + end]
            tensors[name] = np.frombuffer(data, dtype).reshape(shape)
        return tensors
    except (ValueError, KeyError, TypeError, AttributeError, MemoryError) as error:
        raise _damaged(path, error) from error


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


def _damaged(path: pathlib.Path, error: Exception) -> errors.CheckpointError:
    reason = " ".join(str(error).split())[:200]
    return errors.CheckpointError(
        f"{path} cannot be read ({reason}): expected a file of tensors, damaged or "
        "incomplete; fetch it again"
    )
