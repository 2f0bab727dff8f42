"""Writes PyTorch's zip archives without PyTorch, also such as PyTorch never writes."""

import dataclasses
import pathlib
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

MAGIC = b"\x80\x02"


@dataclasses.dataclass(frozen=True)
class Named:
    """A class or function by its name, as in `torch FloatStorage`."""

    text: str


@dataclasses.dataclass(frozen=True)
class Call:
    """A call of what `name` names, with arguments."""

    name: str
    arguments: Any


@dataclasses.dataclass(frozen=True)
class Persistent:
    """What only the reader can look up: the identification of a storage."""

    identification: Any


@dataclasses.dataclass(frozen=True)
class Raw:
    """Pickle instructions as they are."""

    code: bytes


def storage(key: str, length: Any, kind: str = "torch FloatStorage") -> Persistent:
    return Persistent(("storage", Named(kind), key, "cpu", length))


def tensor(place: Any, offset: Any, shape: Any, stride: Any) -> Call:
    hooks = Call("collections OrderedDict", ())
    arguments = (place, offset, shape, stride, False, hooks)
    return Call("torch._utils _rebuild_tensor_v2", arguments)


def code(value: Any) -> bytes:
    """Return the pickle instructions that put a value on the stack."""
    match value:
        case Raw():
            return value.code
        case Named():
            return b"c" + value.text.replace(" ", "\n").encode() + b"\n"
        case Call():
            return code(Named(value.name)) + code(value.arguments) + b"R"
        case Persistent():
            return code(value.identification) + b"Q"
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int() if abs(value) < 1 << 31:
            return b"J" + struct.pack("<i", value)
        case int():
            data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return b"\x8a" + bytes([len(data)]) + data
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case tuple():
            return b"(" + b"".join(map(code, value)) + b"t"
        case list():
            return b"](" + b"".join(map(code, value)) + b"e"
        case dict():
            items = (code(part) for item in value.items() for part in item)
            return b"}(" + b"".join(items) + b"u"
    raise TypeError(type(value))


def members(content: Any, storages: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the members of an archive, in the order in which PyTorch writes them."""
    pickled = content.code if isinstance(content, Raw) else code(content) + b"."
    data = {f"x/data/{key}": values for key, values in storages.items()}
    start = {"x/data.pkl": MAGIC + pickled, "x/byteorder": b"little"}
    return start | data | {"x/version": b"3\n"}


def write(path: pathlib.Path, content: Any, storages: Mapping[str, bytes]) -> None:
    """Write an archive of a value, in which `Call` and the others may occur."""
    write_zip(path, members(content, storages))


def write_tensors(path: pathlib.Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write a state dict, as `torch.save` does."""
    kinds = {"float32": "torch FloatStorage", "int64": "torch LongStorage"}
    content, storages = {}, {}
    for name, value in tensors.items():
        key = str(len(storages))
        storages[key] = value.tobytes()
        place = storage(key, value.size, kinds[value.dtype.name])
        stride = tuple(step // value.itemsize for step in value.strides)
        content[name] = tensor(place, 0, value.shape, stride)
    write(path, content, storages)


def write_zip(
    path: pathlib.Path,
    files: Mapping[str, bytes],
    compression: int = zipfile.ZIP_STORED,
) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
