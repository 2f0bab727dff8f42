"""PyTorch's archives read without PyTorch: their content, and malicious files."""

import io
import pickle
import tarfile
import warnings
import zipfile

import numpy as np
import pytest
import torch_archives
from torch_archives import Call, Named, Raw, code, storage, tensor

from arniqa_jax import errors
from arniqa_jax.weights import torch_archive

VALUES = np.arange(12, dtype=np.float32)
DATA = {"0": VALUES.tobytes()}
PLACE = storage("0", 12)
WHOLE = tensor(PLACE, 0, (12,), (1,))
# Where a test of a hostile file would leave its trace, if anything of it ran.
RAN = "ran"


def _nested(depth: int) -> Raw:
    """A tuple that holds itself twice, `depth` times: its text would never end."""
    double = b"q\x00h\x00\x86"  # note the value, get it again, make a pair
    return Raw(b")" + double * depth)


def _read(tmp_path, content, storages=DATA):
    torch_archives.write(tmp_path / "x.pth", content, storages)
    return torch_archive.read(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (tensor(PLACE, 2, (2, 3), (3, 1)), VALUES[2:8].reshape(2, 3)),
        (tensor(PLACE, 0, (4, 3), (1, 4)), VALUES.reshape(3, 4).T),
        (tensor(PLACE, 1, (4,), (3,)), VALUES[1::3]),
        (tensor(PLACE, 5, (2, 3), (0, 1)), np.tile(VALUES[5:8], (2, 1))),
        (tensor(PLACE, 11, (), ()), VALUES[11]),
        (tensor(PLACE, 0, (0, 3), (3, 1)), np.empty((0, 3), np.float32)),
        (
            Call("torch._utils _rebuild_parameter", (WHOLE, True, None)),
            VALUES,
        ),
    ],
)
def test_tensors(tmp_path, found, expected):
    content = {"a": found, "epoch": 3, "best": 0.5, "names": ["x", None, (True,)]}
    (value,) = _read(tmp_path, content).values()
    assert value.shape == np.shape(expected) and value.dtype == np.float32
    np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize("container", ["model", "state_dict"])
def test_a_container_is_opened(tmp_path, container):
    inner = {"conv.weight": WHOLE}
    assert _read(tmp_path, {container: inner, "epoch": 3}).keys() == {"conv.weight"}


def test_the_attributes_of_a_state_dict_are_dropped(tmp_path):
    ordered = code(Call("collections OrderedDict", ()))
    items = code("a") + code(WHOLE) + b"s"
    attributes = code({"_metadata": Call("collections OrderedDict", ())}) + b"b"
    assert _read(tmp_path, Raw(ordered + items + attributes + b".")).keys() == {"a"}


def test_a_module_inside_a_module(tmp_path):
    def module(fields):
        return code(Named("__torch__ M")) + b")\x81" + fields + b"b"

    inner = Raw(module(code({"weight": WHOLE, "training": False})))
    outer = Raw(module(code({"layer": inner, "bias": WHOLE})) + b".")
    assert _read(tmp_path, outer).keys() == {"layer.weight", "bias"}


def test_an_index_of_the_memo_takes_no_memory(tmp_path):
    content = Raw(code({"a": WHOLE}) + b"r\xff\xff\xff\xff.")
    assert _read(tmp_path, content).keys() == {"a"}


_PICKLES = {
    "a command": Call("posix system", (f"touch {RAN}",)),
    "an expression": Call("builtins eval", (f"open('{RAN}', 'w')",)),
    "a name of protocol 4": Raw(
        code("posix") + code("system") + b"\x93" + code((f"touch {RAN}",)) + b"R."
    ),
    "an object of a class": Raw(code(Named("builtins set")) + b")\x81."),
    "an object with keywords": Raw(code(Named("builtins set")) + b")}\x92."),
    "an instance": Raw(b"(" + code(f"touch {RAN}") + b"iposix\nsystem\n."),
    "an old object": Raw(b"(" + code(Named("posix system")) + code(RAN) + b"o."),
    "an extension": Raw(b"\x82\x01."),
    "a string of Python 2": Raw(b"S'x'\n."),
    "a set": Raw(b"\x8f."),
    "bytes": Raw(b"C\x01x."),
    "a buffer": Raw(b"\x97."),
    "a copy of the stack": Raw(b"}2\x86."),
    "the state of a function": Raw(code(Named("posix system")) + b"}b."),
    "the state of a list": Raw(b"]}b."),
    "a call of a string": Raw(code("posix.system") + b")R."),
    "a call without a tuple": Raw(code(Named("collections OrderedDict")) + b"]R."),
    "a class of the user": Call("argparse Namespace", ()),
    "a dictionary with a factory": Call(
        "collections defaultdict", (Named("builtins list"),)
    ),
    "a filled dictionary": Call("collections OrderedDict", ([],)),
    "a sparse tensor": Call("torch._utils _rebuild_sparse_tensor", (1, 2)),
    "complex numbers": tensor(storage("0", 6, "torch ComplexFloatStorage"), 0, (), ()),
    "a tensor without storage": tensor(None, 0, (), ()),
    "a parameter of a number": Call("torch._utils _rebuild_parameter", (1, True, None)),
    "a key that takes for ever": Raw(b"}" + _nested(60).code + b"Ns."),
    "items of a list": Raw(b"]NNs."),
    "an append to a dictionary": Raw(b"}Na."),
}


@pytest.mark.parametrize("name", _PICKLES)
def test_what_is_no_tensor_and_no_container_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    content = _PICKLES[name]
    if not isinstance(content, Raw):
        content = {"a": WHOLE, "b": content}
    with pytest.raises(errors.CheckpointError, match="pickles more than tensors: "):
        _read(tmp_path, content)
    assert not (tmp_path / RAN).exists()


@pytest.mark.parametrize(
    "content",
    [
        Raw(b""),
        Raw(b"."),
        Raw(b"}"),
        Raw(b"("),
        Raw(b"(."),
        Raw(b"u."),
        Raw(b"}(Nu."),
        Raw(b"h\x05."),
        Raw(b"X\xff\xff\xff\x7fabc."),
        Raw(b"X\x01\x00\x00\x00\xff."),
        Raw(b"\xff."),
        Raw(b"NQ."),
        Raw(code(("storage", Named("torch FloatStorage"), 0, "cpu", 12)) + b"Q."),
        Raw(code(storage("0", -1)) + b"."),
        Raw(code(storage("0", True)) + b"."),
        Raw(b"(" * (1 << 22) + b"."),
        [WHOLE],
        WHOLE,
        "text",
    ],
)
def test_damaged_pickles(tmp_path, content):
    with pytest.raises(errors.CheckpointError, match=r"x\.pth cannot be read"):
        _read(tmp_path, content)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (tensor(PLACE, -1, (3,), (1,)), "natural numbers"),
        (tensor(PLACE, 3, (3,), (-1,)), "natural numbers"),
        (tensor(PLACE, 0, (-3,), (1,)), "natural numbers"),
        (tensor(PLACE, 0, (True,), (1,)), "natural numbers"),
        (tensor(PLACE, 0.0, (1,), (1,)), "natural numbers"),
        (tensor(PLACE, 0, [1], (1,)), "natural numbers"),
        (tensor(PLACE, _nested(60), (1,), (1,)), "natural numbers"),
        (tensor(PLACE, 0, (1,) * 33, (1,) * 33), "natural numbers"),
        (tensor(PLACE, 0, (3, 4), (1,)), "strides"),
        (tensor(PLACE, 10, (3,), (1,)), "ends at 13 of 12"),
        (tensor(PLACE, 12, (), ()), "ends at 13 of 12"),
        (tensor(PLACE, 0, (3, 4), (4, 2)), "ends at 15 of 12"),
        (tensor(PLACE, 1 << 64, (1,), (1,)), "ends at"),
        (tensor(PLACE, 0, (1 << 400,), (0,)), "far more memory"),
        (tensor(PLACE, 0, (1 << 19,), (0,)), "far more memory"),
        (tensor(PLACE, 0, (1 << 62, 1 << 62, 0), (0, 0, 0)), "cannot be read"),
        (tensor(storage("0", 11), 0, (11,), (1,)), "48 bytes for 11 values"),
        (tensor(storage("1", 12), 0, (12,), (1,)), "no member data/1"),
        (tensor(storage("../version", 1), 0, (), ()), "no member"),
    ],
)
def test_tensors_that_cannot_be(tmp_path, found, message):
    with pytest.raises(errors.CheckpointError, match=message):
        _read(tmp_path, {"a": found})


def test_many_views_of_one_storage(tmp_path):
    """Together they would take 50 times the size of the file."""
    data = {"0": bytes(1 << 20)}
    view = tensor(storage("0", 1 << 18), 0, (1 << 18,), (1,))
    with pytest.raises(errors.CheckpointError, match="far more memory"):
        _read(tmp_path, {str(i): view for i in range(50)}, data)


def test_one_storage_of_two_types(tmp_path):
    double = storage("0", 6, "torch DoubleStorage")
    content = {"a": WHOLE, "b": tensor(double, 0, (6,), (1,))}
    with pytest.raises(errors.CheckpointError, match="two dtypes"):
        _read(tmp_path, content)


FILES = torch_archives.members({"a": WHOLE}, DATA)


@pytest.mark.parametrize("name", ["x/data.pkl", "x/data/0", "x/byteorder"])
def test_a_compressed_member(tmp_path, name):
    path = tmp_path / "x.pth"
    bomb = {
        "x/data.pkl": FILES["x/data.pkl"].ljust(1 << 20, b"."),
        name: bytes(1 << 20),
    }
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in (FILES | {name: bomb[name]}).items():
            compression = zipfile.ZIP_DEFLATED if member == name else zipfile.ZIP_STORED
            archive.writestr(member, data, compression)
    with pytest.raises(errors.CheckpointError, match=f"{name} is compressed"):
        torch_archive.read(path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"y/data.pkl": b""}, "one folder, found 2"),
        ({"x/byteorder": b"big"}, "byte order"),
        ({"x/data.pkl": bytes((1 << 22) + 1)}, "has 4194305 bytes"),
        ({"x/data/0": b""}, "0 bytes for 12 values"),
    ],
)
def test_members_that_cannot_be(tmp_path, files, message):
    torch_archives.write_zip(tmp_path / "x.pth", FILES | files)
    with pytest.raises(errors.CheckpointError, match=message):
        torch_archive.read(tmp_path / "x.pth")


def test_two_members_of_one_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, data in [*FILES.items(), ("x/data/0", bytes(48))]:
            archive.writestr(name, data)
    with pytest.raises(errors.CheckpointError, match="two members are called x/data/0"):
        torch_archive.read(tmp_path / "x.pth")


def _content(tmp_path) -> bytes:
    torch_archives.write_zip(tmp_path / "x.pth", FILES)
    return (tmp_path / "x.pth").read_bytes()


def test_members_that_overlap(tmp_path):
    """Two names in the directory for the same bytes, as in a bomb of many megabytes."""
    content = bytearray(_content(tmp_path))
    directory = content.index(b"PK\x01\x02")
    entry = content.index(b"PK\x01\x02", directory + 1)
    while b"x/version" not in content[entry : entry + 60]:
        entry = content.index(b"PK\x01\x02", entry + 1)
    at = content.index(VALUES.tobytes()) - 30 - len("x/data/0")
    content[entry + 42 : entry + 46] = at.to_bytes(4, "little")
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(errors.CheckpointError, match="does not begin where it has to"):
        torch_archive.read(tmp_path / "x.pth")


def test_data_before_the_archive(tmp_path):
    content = _content(tmp_path)
    (tmp_path / "x.pth").write_bytes(b"PK\x03\x04 something else" + content)
    with pytest.raises(errors.CheckpointError, match="does not begin where it has to"):
        torch_archive.read(tmp_path / "x.pth")


@pytest.mark.parametrize("mark", [VALUES.tobytes(), FILES["x/data.pkl"]])
def test_a_flipped_bit(tmp_path, mark):
    content = bytearray(_content(tmp_path))
    content[content.index(mark) + 20] ^= 1
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(errors.CheckpointError, match="CRC"):
        torch_archive.read(tmp_path / "x.pth")


def test_an_encrypted_member(tmp_path):
    content = bytearray(_content(tmp_path))
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(header) + flags] |= 1
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(errors.CheckpointError, match="encrypted"):
        torch_archive.read(tmp_path / "x.pth")


def test_a_file_cut_short_anywhere(tmp_path):
    content = _content(tmp_path)
    for end in range(0, len(content), 7):
        (tmp_path / "x.pth").write_bytes(content[:end])
        with pytest.raises(errors.CheckpointError, match="cannot be read"):
            torch_archive.read(tmp_path / "x.pth")


def test_any_byte_that_differs_is_an_error_or_changes_nothing(tmp_path):
    content = _content(tmp_path)
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 0x55
        (tmp_path / "x.pth").write_bytes(changed)
        try:
            (value,) = torch_archive.read(tmp_path / "x.pth").values()
        except errors.CheckpointError:
            continue
        np.testing.assert_array_equal(value, VALUES)


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(0x1950A86A20F9469CFC6C, 2), "format before 1.6"),
        (_tar(), "format before 0.1.10"),
        (pickle.dumps({"a": 1}), "is a pickle"),
        (b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"", "starts with b''"),
        (b"weights", "starts with b'weights'"),
    ],
)
def test_other_formats_are_named(tmp_path, content, message):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(errors.CheckpointError, match=message):
        torch_archive.read(tmp_path / "x.pth")


def test_a_name_in_a_file_does_not_reach_the_terminal_as_it_is(tmp_path):
    evil = "os\x1b[2J" + "x" * 5000 + " y"
    with pytest.raises(errors.CheckpointError) as error:
        _read(tmp_path, {"a": Call(evil, ())})
    assert str(error.value).isprintable() and len(str(error.value)) < 1000


def test_a_missing_file(tmp_path):
    with pytest.raises(errors.CheckpointError, match="no such file"):
        torch_archive.read(tmp_path / "x.pth")
