"""The sources of photographs: what they find, in which order, and their errors."""

import io
import pickle

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from arniqa_jax.data import photos
from arniqa_jax.errors import DatasetError, ImageError, UsageError


def _save(path, level):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 8), (level,) * 3).save(path)


def _levels(source):
    """The gray level of each photograph; JPEG and WebP are off by one or two."""
    return [int(source[index].mean().round(-1)) for index in range(len(source))]


def _write_records(path, levels):
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for level in levels:
        stream = io.BytesIO()
        Image.new("RGB", (12, 8), (level,) * 3).save(stream, "PNG")
        writer.write(stream.getvalue())
    writer.close()


def test_folder_is_recursive_sorted_and_takes_each_extension_in_any_case(tmp_path):
    files = ["b/2.JPG", "b/10.webp", "a.PNG", "c.bmp", "d/e/f.Tiff", "d/e/g.tif"]
    for place, file in enumerate(sorted(files)):
        _save(tmp_path / file, 10 * (place + 1))
    _save(tmp_path / "h.jpeg", 70)
    _save(tmp_path / ".hidden.png", 250)
    _save(tmp_path / ".hidden" / "a.png", 250)
    (tmp_path / "notes.txt").write_text("not a photograph")
    source = photos.open_photos(str(tmp_path))
    assert _levels(source) == [10, 20, 30, 40, 50, 60, 70]
    assert source.name(1) == str(tmp_path / "b" / "10.webp")
    assert _levels(pickle.loads(pickle.dumps(source))) == _levels(source)


def test_of_kadis700k_only_the_pristine_photographs(tmp_path):
    for file in ("ref_imgs/1.png", "ref_imgs/2.png", "dist_imgs/1_01_01.png"):
        _save(tmp_path / file, 10)
    source = photos.open_photos(str(tmp_path))
    assert [source.name(index) for index in range(len(source))] == [
        str(tmp_path / "ref_imgs" / "1.png"),
        str(tmp_path / "ref_imgs" / "2.png"),
    ]


def test_folder_applies_exif_orientation(tmp_path):
    image = Image.new("RGB", (12, 8))
    image.getexif()[0x0112] = 6
    for file in ("a.jpg", "b.jpg"):
        image.save(tmp_path / file, exif=image.getexif())
    assert photos.open_photos(str(tmp_path))[0].shape == (12, 8, 3)


def test_unreadable_photograph_is_named(tmp_path):
    _save(tmp_path / "a.png", 10)
    (tmp_path / "b.png").write_bytes(b"")
    source = photos.open_photos(str(tmp_path))
    with pytest.raises(ImageError, match=r"b\.png: empty file"):
        source[1]


@pytest.mark.parametrize("source", ["auto", "array_record"])
def test_array_record_files_in_order_and_pickled(tmp_path, source):
    _write_records(tmp_path / "x.array_record-00001-of-00002", [30])
    _write_records(tmp_path / "x.array_record-00000-of-00002", [10, 20])
    opened = photos.open_photos(str(tmp_path), source)
    assert _levels(opened) == [10, 20, 30]
    assert _levels(pickle.loads(pickle.dumps(opened))) == [10, 20, 30]
    assert opened.name(2) == f"{tmp_path}: record 2"


def test_one_array_record_file_is_a_root(tmp_path):
    file = tmp_path / "photos.array_record"
    _write_records(file, [10, 20])
    assert _levels(photos.open_photos(str(file))) == [10, 20]


def test_damaged_array_record_is_an_error_that_names_it(tmp_path):
    file = tmp_path / "photos.array_record"
    file.write_bytes(b"this is not an ArrayRecord file" * 9)
    with pytest.raises(DatasetError, match=r"photos\.array_record"):
        photos.open_photos(str(file))[0]


def test_damaged_record_is_an_image_error(tmp_path):
    file = tmp_path / "photos.array_record"
    _write_records(file, [10, 20, 30])
    data = bytearray(file.read_bytes())
    place = data.index(b"IHDR")
    data[place : place + 40] = bytes(40)
    file.write_bytes(data)
    source = photos.open_photos(str(file))
    with pytest.raises(ImageError, match=r"photos\.array_record: record 0"):
        source[0]
    assert source[2].shape == (8, 12, 3)


def test_images_and_array_records_together_have_to_be_chosen_from(tmp_path):
    _write_records(tmp_path / "x.array_record", [10, 20])
    for file in ("a.png", "b.png", "c.png"):
        _save(tmp_path / file, 30)
    with pytest.raises(DatasetError, match=r"choose data\.source"):
        photos.open_photos(str(tmp_path))
    assert len(photos.open_photos(str(tmp_path), "folder")) == 3
    assert len(photos.open_photos(str(tmp_path), "array_record")) == 2


def test_no_root_is_builtin_and_said_loudly(caplog):
    source = photos.open_photos("")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "chelsea" in caplog.text and "NO PHOTOGRAPHS GIVEN" in caplog.text
    names = [source.name(index) for index in range(len(source))]
    assert names == ["astronaut", "coffee", "rocket", "china"]
    np.testing.assert_array_equal(source[1], photos.builtin_photo("coffee"))
    assert len(pickle.loads(pickle.dumps(source))) == 4


def test_builtin_photographs_are_the_seven_colour_ones():
    shapes = {name: photos.builtin_photo(name).shape for name in photos.BUILTIN}
    assert shapes == {
        "astronaut": (512, 512, 3),
        "coffee": (400, 600, 3),
        "rocket": (427, 640, 3),
        "china": (427, 640, 3),
        "flower": (427, 640, 3),
        "chelsea": (300, 451, 3),
        "stereo_motorcycle": (500, 741, 3),
    }
    roles = [role for _, role in photos.BUILTIN.values()]
    assert roles == ["train"] * 4 + ["validation"] + ["test"] * 2
    for name in photos.BUILTIN:
        assert photos.builtin_photo(name).std() > 30


def test_builtin_photograph_cannot_be_changed_for_the_next_caller():
    with pytest.raises(ValueError, match="read-only"):
        photos.builtin_photo("china")[0, 0] = 0


def test_builtin_without_its_package_says_what_to_install(monkeypatch):
    entry = photos.BuiltinPhoto("no_such_package/a.png", "train")
    monkeypatch.setitem(photos.BUILTIN, "a", entry)
    with pytest.raises(DatasetError, match="part of no_such_package: install it"):
        photos.builtin_photo("a")


@pytest.mark.parametrize(
    ("root", "source", "error", "message"),
    [
        ("missing", "auto", DatasetError, "there is no such file or folder"),
        ("empty", "auto", DatasetError, r"expected images \(.*\), found none"),
        ("empty", "folder", DatasetError, "expected images"),
        ("empty", "array_record", DatasetError, "expected ArrayRecord files"),
        ("single", "auto", DatasetError, "at least two photographs.*found 1"),
        ("single", "fodler", UsageError, "'fodler' is unknown: expected auto, folder"),
        ("single", "builtin", UsageError, "takes no data.root"),
        ("", "folder", UsageError, "needs data.root"),
        ("empty", "tfds:no_such_set", DatasetError, "knows no dataset of that name"),
        ("empty", "tfds:kadis700k", DatasetError, "not prepared under"),
    ],
)
def test_what_cannot_be_opened(tmp_path, root, source, error, message):
    (tmp_path / "empty").mkdir()
    _save(tmp_path / "single" / "a.png", 10)
    with pytest.raises(error, match=message) as caught:
        photos.open_photos(str(tmp_path / root) if root else "", source)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_photographs_are_counted(tmp_path, caplog):
    for name in ("a.png", "b.png", "c.txt", "d.txt", "e.HEIC", "f", ".hidden"):
        (tmp_path / name).touch()
    with caplog.at_level("INFO", "absl"):
        assert len(photos.open_photos(str(tmp_path))) == 2
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"{tmp_path}: 2 photographs; 4 files skipped")
    assert "2 .txt, 1 .heic, 1 no suffix" in line
