"""An interpreter for the pickles in PyTorch files that builds only plain data.

A pickle is a program for a stack machine. This interpreter knows the instructions that
build numbers, strings, tuples, lists, dictionaries and tensors. It never imports or
calls what a file names: names stay strings, and any other instruction or name is
rejected. `pickletools.genops` decodes the instructions without running them.

Messages contain types, never values, because the text of deeply nested tuples would be
endless.
"""

import dataclasses
import pickletools
from typing import Any

import ml_dtypes
import numpy as np

# The dtype of each kind of storage, by the name of its class in torch.
DTYPES = {
    "torch.DoubleStorage": np.dtype("<f8"),
    "torch.FloatStorage": np.dtype("<f4"),
    "torch.HalfStorage": np.dtype("<f2"),
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.LongStorage": np.dtype("<i8"),
    "torch.IntStorage": np.dtype("<i4"),
    "torch.ShortStorage": np.dtype("<i2"),
    "torch.CharStorage": np.dtype("i1"),
    "torch.ByteStorage": np.dtype("u1"),
    "torch.BoolStorage": np.dtype("?"),
}
_SCRIPT = "__torch__."  # prefix that TorchScript gives to the classes of a file
_PUSHES = (
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1"),
    *("BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"),
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_MARK = object()


class RefusedError(ValueError):
    """The pickle asks for an object that is neither a tensor nor a container."""


@dataclasses.dataclass(frozen=True)
class Name:
    """A class or function that the file names; never imported."""

    text: str


@dataclasses.dataclass(frozen=True)
class Storage:
    """A flat array in a member of the archive: its dtype, key and number of values."""

    dtype: np.dtype
    key: str
    length: int


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A view of a storage; offset and strides count values, nothing is checked yet."""

    storage: Storage
    offset: Any
    shape: Any
    stride: Any


@dataclasses.dataclass
class Script:
    """A TorchScript module: the name of its class, and its fields."""

    name: str
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)


def parse(pickled: bytes) -> Any:
    """Return the content of a pickle, as plain data and the classes above.

    Raises:
      RefusedError: it asks for anything else; the message names it.
      ValueError, IndexError, KeyError, TypeError: it is damaged.
    """
    machine = _Machine()
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name == "STOP":
            return machine.pop()
        machine.step(opcode.name, argument)
    raise ValueError("the pickle has no end")


class _Machine:
    """Stack and memo, with a method for each instruction without a simpler rule."""

    def __init__(self):
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        if name in ("PROTO", "FRAME"):
            return
        if name in _PUSHES:
            self._stack.append(_CONSTANTS.get(name, argument))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = self._stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self._stack.append(self._memo[argument])
        else:
            method = getattr(self, f"_{name.lower()}", None)
            if method is None:
                raise RefusedError(f"the pickle instruction {name}")
            method(argument)

    def pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise ValueError("a mark where a value is expected")
        return value

    def _pop_to_mark(self) -> list[Any]:
        values = []
        while (value := self._stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def _mark(self, _) -> None:
        self._stack.append(_MARK)

    def _memoize(self, _) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _empty_dict(self, _) -> None:
        self._stack.append({})

    def _empty_list(self, _) -> None:
        self._stack.append([])

    def _empty_tuple(self, _) -> None:
        self._stack.append(())

    def _tuple(self, _) -> None:
        self._stack.append(tuple(self._pop_to_mark()))

    def _tuple1(self, _) -> None:
        self._stack.append((self.pop(),))

    def _tuple2(self, _) -> None:
        b, a = self.pop(), self.pop()
        self._stack.append((a, b))

    def _tuple3(self, _) -> None:
        c, b, a = self.pop(), self.pop(), self.pop()
        self._stack.append((a, b, c))

    def _append(self, _) -> None:
        self._extend([self.pop()])

    def _appends(self, _) -> None:
        self._extend(self._pop_to_mark())

    def _extend(self, values: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise RefusedError("values appended to something that is not a list")
        self._stack[-1].extend(values)

    def _setitem(self, _) -> None:
        value, key = self.pop(), self.pop()
        self._update([key, value])

    def _setitems(self, _) -> None:
        self._update(self._pop_to_mark())

    def _update(self, flat: list[Any]) -> None:
        if not isinstance(self._stack[-1], dict):
            raise RefusedError("items set in something that is not a dictionary")
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            # Hashing other keys, such as deeply nested tuples, could take forever.
            if not isinstance(key, str | int):
                raise RefusedError(f"a dictionary key of type {type(key).__name__}")
            self._stack[-1][key] = value

    def _global(self, argument: str) -> None:
        self._stack.append(Name(argument.replace(" ", ".")))

    def _stack_global(self, _) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise RefusedError("a name that is not a string")
        self._stack.append(Name(f"{module}.{name}"))

    def _newobj(self, _) -> None:
        arguments, name = self.pop(), _text(self.pop())
        if not name.startswith(_SCRIPT) or arguments != ():
            raise RefusedError(name)
        self._stack.append(Script(name))

    def _reduce(self, _) -> None:
        arguments, name = self.pop(), _text(self.pop())
        if not isinstance(arguments, tuple):
            raise RefusedError(f"{name} with arguments that are no tuple")
        if name == "collections.OrderedDict" and arguments == ():
            self._stack.append({})
        elif name == "torch._utils._rebuild_tensor_v2" and len(arguments) in (6, 7):
            storage, offset, shape, stride = arguments[:4]
            if not isinstance(storage, Storage):
                raise RefusedError("a tensor without a storage")
            self._stack.append(Tensor(storage, offset, shape, stride))
        elif name == "torch._utils._rebuild_parameter" and len(arguments) == 3:
            if not isinstance(arguments[0], Tensor):
                raise RefusedError("a parameter without a tensor")
            self._stack.append(arguments[0])
        else:
            raise RefusedError(name)

    def _build(self, _) -> None:
        state, target = self.pop(), self._stack[-1]
        if isinstance(target, Script) and isinstance(state, dict):
            target.fields = state
        # A state dict has an attribute, `_metadata`, which is dropped.
        elif not (isinstance(target, dict) and isinstance(state, dict)):
            raise RefusedError(f"attributes of a {type(target).__name__}")

    def _binpersid(self, _) -> None:
        kind, storage, key, _, length = self.pop()
        name = _text(storage)
        if kind != "storage" or name not in DTYPES:
            raise RefusedError(name)
        if not isinstance(key, str) or type(length) is not int or length < 0:
            raise ValueError("a storage whose key or length has another type")
        self._stack.append(Storage(DTYPES[name], key, length))


def _text(name: Any) -> str:
    if not isinstance(name, Name):
        raise RefusedError(f"a call of a {type(name).__name__}")
    return name.text
