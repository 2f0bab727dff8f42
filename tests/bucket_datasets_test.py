"""Labelled datasets in a bucket: the same tables as from the same files on disk."""

import pathlib
import pickle

import emulators
import miniature
import numpy as np
import pytest

from arniqa_jax import errors
from arniqa_jax.datasets import catalogue
from arniqa_jax.evaluation import loading
from arniqa_jax.storage import buckets
from arniqa_jax.storage.bucket_paths import BucketPath


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    return root, miniature.write_all(root)


def _assert_same(found, expected):
    assert found.fingerprint() == expected.fingerprint()
    assert (found.title, found.note, found.types) == (
        expected.title,
        expected.note,
        expected.types,
    )
    assert found.images.names == expected.images.names
    for index in (0, len(found) - 1):
        np.testing.assert_array_equal(found.images[index], expected.images[index])
    assert (found.references is None) == (expected.references is None)


def test_every_layout_is_read_as_from_disk(written, gcs, monkeypatch):
    root, counts = written
    miniature.use_counts(monkeypatch, counts)
    for folder in root.iterdir():
        emulators.upload(folder, f"{gcs}/datasets/{folder.name}")
    names = ",".join(catalogue.DATASETS)
    expected = loading.load_benchmarks(names, root)
    found = loading.load_benchmarks(names, f"{gcs}/datasets/")
    for one, other in zip(found, expected, strict=True):
        _assert_same(one, other)
    # Worker processes get the images, and not the lists of the bucket.
    images = found[0].images
    assert len(pickle.dumps(images.root)) < 1000
    copy = pickle.loads(pickle.dumps(images))
    np.testing.assert_array_equal(copy[1], images[1])
    assert len(set(images.stamps())) > 1 and images.stamps() == copy.stamps()


@pytest.fixture
def table(tmp_path):
    """A folder with a table of images in two subfolders."""
    painter = miniature._Painter(7)
    folder, rows = tmp_path / "Mine", []
    for i in range(8):
        name = f"{'ab'[i % 2]}/{i}.png"
        rows.append([f"other/{name}", painter.paint(folder / name)])
    miniature.write_csv(folder / "scores.csv", "image,score", rows)
    return folder


@pytest.mark.parametrize("how", ["root", "folder", "table"])
def test_a_table_of_ones_own(table, any_bucket, how):
    emulators.upload(table, f"{any_bucket}/Mine")
    expected = loading.load_benchmarks(f"csv:{table}", "")[0]
    names, root = {
        "root": ("csv:Mine", any_bucket),
        "folder": (f"csv:{any_bucket}/Mine/", ""),
        "table": (f"csv:{any_bucket}/Mine/scores.csv", ""),
    }[how]
    (found,) = loading.load_benchmarks(names, root)
    _assert_same(found, expected)
    stamps = found.images.stamps()
    buckets.write(f"{any_bucket}/Mine/a/0.png", (table / "b" / "1.png").read_bytes())
    (again,) = loading.load_benchmarks(names, root)
    changed = [a != b for a, b in zip(stamps, again.images.stamps(), strict=True)]
    assert changed == [True] + 7 * [False]


def test_what_is_missing_is_named_by_its_url(table, gcs):
    (table / "a" / "2.png").unlink()
    emulators.upload(table, f"{gcs}/Mine")
    with pytest.raises(errors.DatasetError, match=rf"no image .*a/2\.png in {gcs}/M"):
        loading.load_benchmarks("csv:Mine", gcs)
    with pytest.raises(errors.DatasetError, match=f"evaluation.root={gcs}, found none"):
        loading.load_benchmarks("kadid10k", gcs)
    with pytest.raises(errors.DatasetError, match=f"{gcs}/no: expected a table"):
        loading.load_benchmarks(f"csv:{gcs}/no", "")
    with pytest.raises(errors.BucketError, match="there is no such bucket"):
        loading.load_benchmarks("kadid10k", "gs://no-such-bucket")
    with pytest.raises(errors.UsageError, match="a web server does not list"):
        loading.load_benchmarks("kadid10k", "https://host/datasets")


def test_a_path_in_a_bucket_behaves_like_one_on_disk(table, any_bucket):
    emulators.upload(table, f"{any_bucket}/Mine")
    for root in (table, BucketPath(f"{any_bucket}/Mine/")):
        assert (root.name, root.is_dir(), root.is_file()) == ("Mine", True, False)
        assert sorted(path.name for path in root.iterdir()) == ["a", "b", "scores.csv"]
        assert [path.name for path in root.glob("*.csv")] == ["scores.csv"]
        file = root / "a" / "0.png"
        assert file.is_file() and file.exists() and not file.is_dir()
        assert (file.stem, file.suffix) == ("0", ".png")
        assert file.parent == root / "a" and file.parent.parent == root
        assert file.read_bytes() == (table / "a" / "0.png").read_bytes()
        assert not (root / "no").exists()
        with pytest.raises(FileNotFoundError):
            (root / "no").read_bytes()
    bucket = BucketPath(any_bucket)
    assert bucket.is_dir() and bucket.parent is bucket
    with pytest.raises(TypeError):
        pathlib.Path(bucket)  # it would be a local path `gs:/...`
