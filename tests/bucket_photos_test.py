"""Pre-training data in a bucket: the same batches as from the same files on disk."""

import os
import pathlib

import emulators
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from arniqa_jax import errors
from arniqa_jax.data import kadis700k_writer, pairs, photos, records
from arniqa_jax.storage import buckets
from arniqa_jax.training import loop
from benchmarks import soak
from configs import pretrain


@pytest.fixture
def folder(tmp_path):
    """A folder of photographs in subfolders, with files that are no photographs."""
    root = tmp_path / "photos"
    rng = np.random.default_rng(0)
    for name in ("b/1.png", "a/2.jpg", "3.PNG", ".hidden/4.png", "a/._5.png", "6.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        size = (int(rng.integers(20, 40)), int(rng.integers(20, 40)), 3)
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(root / name)
    (root / "notes.txt").write_text("no photograph")
    (root / "c.jpg").write_bytes(b"damaged")
    return root


def _batches(source, number=4, **options):
    options = {"seed": 3, "patch_size": 16, "batch_size": 4} | options
    with pairs.pair_batches(source, max_bad_share=1, **options) as batches:
        return [next(batches) for _ in range(number)]


def _assert_equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("pairing", pairs.PAIRINGS)
def test_a_folder_gives_the_batches_of_its_copy_on_disk(folder, any_bucket, pairing):
    emulators.upload(folder, f"{any_bucket}/photos")
    local, there = (
        photos.open_photos(root) for root in (str(folder), f"{any_bucket}/photos/")
    )
    names = [local.name(i).removeprefix(f"{folder}/") for i in range(len(local))]
    assert names == [
        there.name(i).removeprefix(f"{any_bucket}/photos/") for i in range(len(there))
    ]
    assert names == ["3.PNG", "6.png", "a/2.jpg", "b/1.png", "c.jpg"]
    expected = _batches(local, pairing=pairing)
    assert sum(batch["skipped"].sum() for batch in expected)  # the damaged one
    _assert_equal(_batches(there, pairing=pairing), expected)


def test_workers_read_a_bucket(folder, gcs):
    emulators.upload(folder, f"{gcs}/photos")
    there = photos.open_photos(f"{gcs}/photos")
    expected = _batches(photos.open_photos(str(folder)))
    _assert_equal(_batches(there, workers=2), expected)


def test_of_kadis_only_the_pristine_photographs_are_read(folder, gcs, caplog):
    emulators.upload(folder, f"{gcs}/kadis/ref_imgs")
    buckets.write(f"{gcs}/kadis/dist_imgs/1.png", b"")
    with caplog.at_level("INFO"):
        found = photos.open_photos(f"{gcs}/kadis")
    assert len(found) == 5 and found.name(0) == f"{gcs}/kadis/ref_imgs/3.PNG"
    assert "5 photographs; 1 files skipped" in caplog.text
    assert "1 .txt" in caplog.text


def test_a_photograph_that_is_gone_is_an_image_error(folder, gcs):
    emulators.upload(folder, f"{gcs}/photos")
    found = photos.open_photos(f"{gcs}/photos")
    buckets.delete(f"{gcs}/photos/3.PNG")
    found.request([0, 1])
    with pytest.raises(errors.ImageError, match=r"3\.PNG: unreadable: there is no"):
        found[0]
    assert found[1].ndim == 3


# --- ArrayRecord and TFDS -----------------------------------------------------------


def _write_records(path: pathlib.Path, files) -> None:
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for file in files:
        writer.write(file.read_bytes())
    writer.close()


def test_array_record_files(folder, gcs, tmp_path):
    files = [folder / name for name in ("3.PNG", "6.png", "a/2.jpg", "c.jpg")]
    (tmp_path / "records").mkdir()
    for number, part in enumerate((files[:3], files[3:])):
        _write_records(tmp_path / "records" / f"{number}.array_record", part)
    emulators.upload(tmp_path / "records", f"{gcs}/records")
    expected = _batches(photos.open_photos(str(tmp_path / "records")))
    there = photos.open_photos(f"{gcs}/records")
    assert there.name(0) == f"{gcs}/records: record 0"
    _assert_equal(_batches(there), expected)
    assert len(photos.open_photos(f"{gcs}/records/0.array_record")) == 3


def test_kadis_is_written_to_a_bucket_and_read_by_tfds(
    folder, gcs, tmp_path, monkeypatch, caplog
):
    (tmp_path / "kadis" / "ref_imgs").mkdir(parents=True)
    for number, name in enumerate(("3.PNG", "6.png", "b/1.png")):
        target = tmp_path / "kadis" / "ref_imgs" / f"{number}.png"
        target.write_bytes((folder / name).read_bytes())
    source, data = str(tmp_path / "kadis"), f"{gcs}/data"
    written = kadis700k_writer.write(source, str(tmp_path / "data"), shards=2)
    assert written == (str(tmp_path / "data" / "kadis700k" / "1.0.0"), 3)
    order, upload = [], buckets.upload_files

    def noting(path, url, names):
        order.extend(names)
        upload(path, url, names)

    monkeypatch.setattr(buckets, "upload_files", noting)
    with caplog.at_level("INFO"):
        written = kadis700k_writer.write(source, data, shards=2)
    assert written == (f"{data}/kadis700k/1.0.0", 3)
    assert "first, which needs as much space" in caplog.text
    # A killed upload is not taken for a dataset, because this file is missing.
    assert order[-1] == "dataset_info.json" and len(order) == 4
    uploaded = len(order)
    assert kadis700k_writer.write(source, data) == written and len(order) == uploaded
    name = "tfds:kadis700k"
    expected = _batches(photos.open_photos(str(tmp_path / "data"), name))
    _assert_equal(_batches(photos.open_photos(data, name)), expected)
    # The folder of the dataset may also be given itself.
    _assert_equal(_batches(photos.open_photos(written[0])), expected)
    buckets.delete(f"{written[0]}/dataset_info.json")
    with pytest.raises(errors.DatasetError, match="tfds:kadis700k: not prepared"):
        photos.open_photos(data, name)


def test_a_library_that_hangs_is_given_up(folder, gcs, tmp_path, monkeypatch):
    """The files are listed through gcsfs; array_record has an address of its own."""
    _write_records(tmp_path / "x.array_record", [folder / "3.PNG", folder / "6.png"])
    buckets.upload_files(tmp_path, gcs, ["x.array_record"])
    closed = f"http://127.0.0.1:{emulators.free_port()}"
    monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", closed)
    monkeypatch.setattr(records, "_DEADLINE", 2)
    with pytest.raises(errors.BucketError, match="did not open it within 2 s"):
        photos.open_photos(f"{gcs}/x.array_record")


# --- What does not work -------------------------------------------------------------


@pytest.mark.parametrize(
    ("root", "source", "message"),
    [
        ("https://host/photos", "auto", "a web server does not list its files"),
        ("s3://bucket/x", "tfds:kadis700k", "ArrayRecord files are read from gs://"),
        ("gs:/bucket/photos", "auto", "expected a local path"),
        ("nosuch://bucket/photos", "auto", "nosuch"),
    ],
)
def test_a_root_that_is_refused(root, source, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(buckets, "check", buckets.open_system)
    if root.startswith("s3://"):
        pytest.importorskip("s3fs", reason="the extra s3 is not installed")
    with pytest.raises(errors.UsageError, match=message):
        photos.open_photos(root, source)
    assert not os.listdir(tmp_path)


def test_a_bucket_or_a_folder_that_is_not_there(gcs):
    with pytest.raises(errors.BucketError, match="there is no such bucket"):
        photos.open_photos("gs://no-such-bucket/photos")
    with pytest.raises(errors.DatasetError, match="no such file or folder"):
        photos.open_photos(f"{gcs}/photos")


@pytest.mark.slow
def test_a_run_from_a_bucket_equals_one_from_disk(folder, gcs, tmp_path):
    """It may also move there: the root is not part of what is computed."""
    emulators.upload(folder, f"{gcs}/photos")
    soak.write_scored(tmp_path / "scored")
    outcomes = []
    for name, roots in {
        "disk": [str(folder)],
        "bucket": [f"{gcs}/photos"],
        "moved": [str(folder), f"{gcs}/photos"],
    }.items():
        for steps, root in zip((2, 4)[-len(roots) :], roots, strict=True):
            config = pretrain.get_config()
            config.update_from_flattened_dict(soak.FIELDS)
            config.train.batch_size = 8  # one pair for each device of these tests
            config.train.steps = steps
            config.evaluation.root = str(tmp_path)
            config.data.root, config.data.max_bad_share = root, 1.0
            config.data.workers = 0
            loop.run(config, tmp_path / name)
        outcomes.append(soak.outcome(tmp_path / name))
    assert outcomes[0] == outcomes[1]
    # The run that moved was evaluated at its first end, too: only its weights count.
    assert outcomes[0][0] == outcomes[2][0]
