"""A miniature KADIS-700k, written by the command and read by both sources."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from arniqa_jax.data import kadis700k_writer, pairs, photos
from arniqa_jax.errors import DatasetError


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Eight photographs, of which one is bad, written by the command."""
    folder = tmp_path_factory.mktemp("kadis")
    (folder / "source" / "ref_imgs").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(8):
        image = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / "source" / "ref_imgs" / f"{index}.png")
    bad = folder / "source" / "ref_imgs" / "3.png"
    bad.write_bytes(bad.read_bytes()[:900])
    (folder / "source" / "ref_imgs" / ".4.png").write_bytes(b"hidden")
    command = [
        sys.executable,
        "-m",
        "arniqa_jax.data.kadis700k",
        f"--source={folder / 'source'}",
        f"--output={folder / 'data'}",
        "--shards=2",
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return folder, result


def test_command_says_what_it_wrote_and_what_it_left_out(written):
    folder, result = written
    output = folder / "data" / "kadis700k" / "1.0.0"
    assert result.stdout == f"7 photographs in {output}\n"
    assert "skipped: " in result.stderr and "3.png: truncated" in result.stderr
    assert "wrote 7 photographs, skipped 1" in result.stderr
    shards = [file for file in os.listdir(output) if "array_record" in file]
    assert len(shards) == 2


@pytest.mark.parametrize("source", ["tfds:kadis700k", "array_record", "auto"])
def test_photographs_are_read_back_in_order_and_pixel_for_pixel(written, source):
    folder, _ = written
    kept = [index for index in range(8) if index != 3]
    read = photos.open_photos(str(folder / "data"), source)
    assert len(read) == 7
    assert read.name(0).endswith("record 0")
    for position, index in enumerate(kept):
        file = folder / "source" / "ref_imgs" / f"{index}.png"
        np.testing.assert_array_equal(read[position], np.asarray(Image.open(file)))


def test_workers_read_it(written):
    folder, _ = written
    source = photos.open_photos(str(folder / "data"), "tfds:kadis700k")
    options = {"seed": 1, "patch_size": 8, "batch_size": 4}
    with (
        pairs.pair_batches(source, workers=1, **options) as parallel,
        pairs.pair_batches(source, **options) as serial,
    ):
        for _ in range(3):
            np.testing.assert_array_equal(
                next(parallel)["images"], next(serial)["images"]
            )


def test_writing_again_keeps_what_is_there(written):
    folder, _ = written
    output = str(folder / "data" / "kadis700k" / "1.0.0")
    before = {file.path: file.stat().st_mtime_ns for file in os.scandir(output)}
    again = kadis700k_writer.write(str(folder / "source"), str(folder / "data"))
    assert again == (output, 7)
    assert {f.path: f.stat().st_mtime_ns for f in os.scandir(output)} == before


def test_without_photographs_there_is_nothing_to_write(tmp_path):
    with pytest.raises(DatasetError, match="expected a folder ref_imgs"):
        kadis700k_writer.write(str(tmp_path), str(tmp_path / "data"))
    (tmp_path / "ref_imgs").mkdir()
    with pytest.raises(DatasetError, match="ref_imgs with PNG files"):
        kadis700k_writer.write(str(tmp_path), str(tmp_path / "data"))
    (tmp_path / "ref_imgs" / "1.png").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"at least two readable .* found 0"):
        kadis700k_writer.write(str(tmp_path), str(tmp_path / "data"))
    assert not (tmp_path / "data" / "kadis700k" / "1.0.0").exists()
