"""Read PyTorch's zip archives without PyTorch: state dicts and TorchScript modules.

An archive contains `NAME/data.pkl`, which describes objects and tensors, and the values
of the tensors in `NAME/data/KEY`. `torch.save` has written such archives since PyTorch
1.6, `torch.jit.save` since 1.4.

Files are not trusted. Nothing in them is executed (see `tensor_pickle`). These are
rejected: compressed, encrypted, duplicate or overlapping members, a wrong checksum, a
tensor that reaches outside its storage, and tensors that take far more memory than the
file has bytes.
"""

import math
import pathlib
import struct
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from arniqa_jax import errors
from arniqa_jax.weights import tensor_pickle
from arniqa_jax.weights.tensor_pickle import Script, Storage, Tensor

# Tensors may share and repeat values. Together they may take this many times the size
# of the file, or a megabyte if the file is small.
_GROWTH = 4
_SMALL = 1 << 20
_LARGEST_PICKLE = 1 << 22
# Keys under which some checkpoints keep their state dict, next to other data.
_CONTAINERS = ("model", "state_dict")
_MAX_DIMENSIONS = 32  # the limit of older versions of NumPy
# Size of the fixed header of a member, and the offset of two lengths in it: those of
# the name and the extra field, which follow the header.
_HEADER, _LENGTHS = 30, 26
# First bytes of files that are often mistaken for an archive, and what they are.
_OTHERS = (
    (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19", "PyTorch's format before 1.6"),
    (b"\x80", "a pickle"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself"),
    (b"<", "a web page"),
)
_DAMAGE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RecursionError,
    RuntimeError,
    struct.error,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
)


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Return the tensors of a state dict or of a TorchScript module, by name.

    A state dict may be in a dictionary, under `model` or `state_dict`. The tensors of a
    module are named by their fields, joined by dots.

    Raises:
      CheckpointError: the file is missing, is not a PyTorch archive, is damaged, or
        contains anything but tensors, numbers, strings and containers; the message
        names it.
    """
    if not path.is_file():
        raise errors.CheckpointError(f"{path}: there is no such file")
    try:
        _check_format(path)
        with zipfile.ZipFile(path) as archive:
            members = _members(archive)
            content = tensor_pickle.parse(_read(archive, members, "data.pkl"))
            budget = max(_SMALL, _GROWTH * path.stat().st_size)
            reader = _TensorReader(archive, members, budget)
            return {name: reader.read(found) for name, found in _tensors(content)}
    except tensor_pickle.RefusedError as error:
        raise errors.CheckpointError(
            f"{path} pickles more than tensors: {_printable(error)}. It cannot be read "
            "safely (the official training code puts its config into last_*.pth). If "
            "you trust the file, load it with PyTorch and save its state dict alone: "
            "torch.save(model.state_dict(), FILE)"
        ) from error
    except _DAMAGE as error:
        raise damaged(path, error) from error


def damaged(path: pathlib.Path, error: BaseException) -> errors.CheckpointError:
    """Return the error for a file of tensors that cannot be read."""
    return errors.CheckpointError(
        f"{path} cannot be read ({_printable(error)}): expected a file of tensors, "
        "damaged or incomplete; fetch it again"
    )


def _printable(error: BaseException) -> str:
    """Return the start of a message, without unprintable characters from the file."""
    text = "".join(c if c.isprintable() else " " for c in str(error)[:200])
    return " ".join(text.split()) or type(error).__name__


def _check_format(path: pathlib.Path) -> None:
    """Raise CheckpointError if a file is not a zip archive, and say what it is."""
    with open(path, "rb") as file:
        start = file.read(512)
    if start.startswith(b"PK\x03\x04"):
        return
    found = next((what for head, what in _OTHERS if start.startswith(head)), None)
    if start[257:262] == b"ustar":
        found = "a tar archive, PyTorch's format before 0.1.10"
    if found is None:
        raise ValueError(f"it starts with {start[:8]!r}")
    raise errors.CheckpointError(
        f"{path} is {found}; expected a zip archive of PyTorch 1.6 or newer. Fetch the "
        "file again, or load it with PyTorch and save it again: "
        "torch.save(model.state_dict(), FILE)"
    )


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the members by their names without the common folder."""
    infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
    roots = {info.filename.partition("/")[0] for info in infos}
    if len(roots) != 1:
        raise ValueError(f"expected members in one folder, found {len(roots)}")
    members, end = {}, 0
    for info in infos:
        name = info.filename.partition("/")[2]
        if name in members:
            raise ValueError(f"two members are called {info.filename}")
        if info.header_offset < end or (end == 0 and info.header_offset):
            raise ValueError(f"{info.filename} does not begin where it has to")
        archive.fp.seek(info.header_offset + _LENGTHS)
        lengths = sum(struct.unpack("<HH", archive.fp.read(4)))
        end = info.header_offset + _HEADER + lengths + info.compress_size
        members[name] = info
    if "byteorder" in members:
        order = _read(archive, members, "byteorder")
        if order != b"little":
            raise ValueError(f"the byte order is {order[:16]!r}, expected b'little'")
    return members


def _read(
    archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], name: str
) -> bytes:
    """Return the content of a member; zipfile compares its checksum."""
    if name not in members:
        raise ValueError(f"it has no member {name}")
    info = members[name]
    # TorchScript compresses only its code, which is not read. PyTorch never compresses
    # data.
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise ValueError(f"{info.filename} is compressed")
    if name == "data.pkl" and info.file_size > _LARGEST_PICKLE:
        raise ValueError(f"{info.filename} has {info.file_size} bytes")
    return archive.read(info)


def _tensors(content: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a state dict or module and their names."""
    if isinstance(content, Script):
        yield from _fields(content)
        return
    for name in _CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, not a state dict")
    for name, value in content.items():
        if isinstance(value, Tensor):
            yield str(name), value


def _fields(module: Script) -> Iterator[tuple[str, Tensor]]:
    # A module may contain itself, so each is entered once.
    entered, waiting = set(), [("", module)]
    while waiting:
        prefix, module = waiting.pop()
        if id(module) in entered:
            continue
        entered.add(id(module))
        for name, value in module.fields.items():
            if isinstance(value, Tensor):
                yield f"{prefix}{name}", value
            elif isinstance(value, Script):
                waiting.append((f"{prefix}{name}.", value))


class _TensorReader:
    """Builds arrays from the members of an archive, within a budget of bytes."""

    def __init__(
        self,
        archive: zipfile.ZipFile,
        members: Mapping[str, zipfile.ZipInfo],
        budget: int,
    ):
        self._archive = archive
        self._members = members
        self._left = budget
        self._storages: dict[str, tuple[Storage, np.ndarray]] = {}

    def read(self, tensor: Tensor) -> np.ndarray:
        """Return a tensor as a separate array.

        Raises:
          ValueError: the tensor reaches outside its storage, or is too large.
        """
        storage, offset = tensor.storage, tensor.offset
        shape, stride = tensor.shape, tensor.stride
        for numbers in ((offset,), shape, stride):
            if (
                not isinstance(numbers, tuple)
                or len(numbers) > _MAX_DIMENSIONS
                or not all(type(n) is int and n >= 0 for n in numbers)
            ):
                raise ValueError("offset, shape or strides are no natural numbers")
        if len(shape) != len(stride):
            raise ValueError(f"a shape {shape} with the strides {stride}")
        count = math.prod(shape)
        last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
        if count and last >= storage.length:
            raise ValueError(f"a tensor ends at {last + 1} of {storage.length} values")
        self._left -= count * storage.dtype.itemsize
        if self._left < 0:
            raise ValueError("the tensors take far more memory than the file has bytes")
        if not count:
            return np.empty(shape, storage.dtype)
        flat = self._flat(storage)
        steps = [s * storage.dtype.itemsize for s in stride]
        view = np.lib.stride_tricks.as_strided(flat[offset:], shape, steps)
        return view.copy()

    def _flat(self, storage: Storage) -> np.ndarray:
        if storage.key not in self._storages:
            data = _read(self._archive, self._members, f"data/{storage.key}")
            if len(data) != storage.length * storage.dtype.itemsize:
                raise ValueError(
                    f"data/{storage.key} has {len(data)} bytes for {storage.length} "
                    f"values of {storage.dtype}"
                )
            flat = np.frombuffer(data, storage.dtype)
            self._storages[storage.key] = storage, flat
        known, flat = self._storages[storage.key]
        if known != storage:
            raise ValueError(f"data/{storage.key} has two dtypes or lengths")
        return flat
