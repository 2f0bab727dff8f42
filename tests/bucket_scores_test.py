"""Tables of scores in a bucket, and images that are read from one."""

import os
import pathlib
import subprocess
import sys
import tarfile

import emulators
import pytest
import small_model
from score_runs import rows, run, write_photos

from arniqa_jax import errors
from arniqa_jax.scoring import bucket_table, table_rows, tables
from arniqa_jax.storage import buckets


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small_model.write(tmp_path_factory.mktemp("models") / "one", "live")


@pytest.fixture
def photos(tmp_path):
    folder = write_photos(tmp_path / "photos", 4)
    (folder / "bad.png").write_bytes(b"text")
    return folder


def _read(path, tmp_path) -> list[dict]:
    """The rows of a table on disk or in a bucket."""
    if buckets.is_url(path):
        local = tmp_path / f"fetched{pathlib.PurePosixPath(path).suffix}"
        local.write_bytes(buckets.read(path))
        path = local
    path = pathlib.Path(path)
    if path.suffix == ".parquet":
        return list(tables.read_parquet(path))
    return [row for row, _ in table_rows.read_rows(path)]


def _left_in_tmp() -> list[pathlib.Path]:
    return list(pathlib.Path(os.environ["TMPDIR"]).glob("arniqa_jax-*"))


@pytest.fixture(autouse=True)
def _own_tmp(tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)


@pytest.mark.parametrize("suffix", tables.SUFFIXES)
def test_a_table_in_a_bucket_is_that_on_disk(
    model, photos, any_bucket, tmp_path, suffix
):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    local, there = tmp_path / f"scores{suffix}", f"{any_bucket}/out/scores{suffix}"
    assert run(model, photos, f"--output={local}") == errors.FAILURE
    assert run(model, photos, f"--output={there}") == errors.FAILURE
    assert _read(there, tmp_path) == _read(local, tmp_path)
    names = {f"scores{suffix}", f"scores{suffix}.model.json"}
    assert buckets.find(f"{any_bucket}/out").keys() == names
    with pytest.raises(errors.UsageError, match=f"{there} exists already: continue"):
        run(model, photos, f"--output={there}")
    # What was added is scored, what had an error is tried again.
    write_photos(photos / "more", 2)
    (photos / "bad.png").write_bytes((photos / "0.png").read_bytes())
    for output in (local, there):
        assert run(model, photos, f"--output={output}", "--resume") == 0
    found = _read(there, tmp_path)
    assert found == _read(local, tmp_path) and len(found) == 7
    assert buckets.find(f"{any_bucket}/out").keys() == names
    with pytest.raises(errors.UsageError, match=f"^{there} was written with another"):
        run(model, photos, f"--output={there}", "--resume", "--raw")
    assert not _left_in_tmp()


# Scores with the flags in its arguments, and is killed when it has written five rows.
_KILLED = """
import os, signal, sys
from arniqa_jax import command, score
from arniqa_jax.scoring import bucket_table, tables
bucket_table._EVERY, bucket_table._TIMES_LONGER = 0.0, 0
write, written = tables.Table.write, []
def killing(self, row):
    write(self, row)
    written.append(row)
    if len(written) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
tables.Table.write = killing
score.main(command.parse_flags(sys.argv, score.FLAGS))
"""


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.slow
def test_a_killed_command_is_continued(model, gcs, tmp_path, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    photos = write_photos(tmp_path / "photos", 8)
    there = f"{gcs}/scores{suffix}"
    flags = [f"--model={model}", str(photos), f"--output={there}"]
    done = subprocess.run([sys.executable, "-c", _KILLED, *flags], timeout=120)
    assert done.returncode == -9
    # Four rows are there, and nothing looks like a complete Parquet file.
    rows_so_far = f"{gcs}/scores.partial.jsonl" if suffix == ".parquet" else there
    assert len(_read(rows_so_far, tmp_path)) == 4
    assert buckets.exists(there) == (suffix == ".csv")
    assert run(model, photos, f"--output={there}", "--resume") == 0
    run(model, photos, f"--output={tmp_path / 'whole'}{suffix}")
    assert _read(there, tmp_path) == _read(f"{tmp_path / 'whole'}{suffix}", tmp_path)
    assert len(buckets.find(gcs)) == 2


def test_uploads_that_fail_lose_no_row(model, photos, gcs, tmp_path, monkeypatch):
    monkeypatch.setattr(bucket_table, "_EVERY", 0.0)
    monkeypatch.setattr(bucket_table, "_TIMES_LONGER", 0)
    upload, calls = buckets.upload_files, []

    def failing(folder, url, names):
        calls.append(names)
        if len(calls) in (3, 4):
            raise errors.BucketError(f"{url}: unwritable: try again later")
        upload(folder, url, names)

    monkeypatch.setattr(buckets, "upload_files", failing)
    run(model, photos, f"--output={gcs}/a.csv")
    assert len(_read(f"{gcs}/a.csv", tmp_path)) == 5 and len(calls) > 4
    assert not _left_in_tmp()
    # The last one failed: the local table stays, and the error says where.
    del calls[:]
    monkeypatch.setattr(bucket_table, "_EVERY", 100.0)
    calls += [None]
    with pytest.raises(errors.BucketError, match="the table is kept in /") as raised:
        run(model, photos, f"--output={gcs}/b.csv")
    (left,) = _left_in_tmp()
    assert str(left) in str(raised.value)
    assert len(_read(left / "b.csv", tmp_path)) == 5


@pytest.mark.parametrize(
    "flags",
    [
        ["--output=gs://bucket/a.csv", "--report=report"],
        ["--output=gs://bucket/a.csv", "--engine=ray"],
        ["--output=a.csv", "--report=gs://bucket/report"],
        ["--map=gs://bucket/maps"],
        ["--output=https://host/a.csv"],
        ["--output=gs:/bucket/a.csv"],
    ],
)
def test_what_cannot_be_in_a_bucket(model, photos, flags, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "tmp")
    monkeypatch.setattr(buckets, "check", lambda url: None)
    with pytest.raises(errors.UsageError) as raised:
        run(model, photos, *flags)
    assert "expected a local path" in str(raised.value) or "needs a local --output" in (
        str(raised.value)
    )
    assert not os.listdir()


@pytest.mark.parametrize("what", ["", "/*.png", "/0.png"])
def test_images_of_a_bucket(model, photos, any_bucket, capsys, what):
    emulators.upload(photos, f"{any_bucket}/photos")
    (photos / "more").mkdir()
    run(model, f"{any_bucket}/photos{what}")
    found = rows(capsys.readouterr().out)
    run(model, photos / "0.png" if what == "/0.png" else photos)
    expected = rows(capsys.readouterr().out)
    assert [(row["score"], row["error"]) for row in found] == [
        (row["score"], row["error"]) for row in expected
    ]
    assert found[0]["path"] == f"{any_bucket}/photos/0.png"


def test_a_shard_is_written_to_a_bucket(model, photos, gcs, tmp_path):
    for index in range(2):
        run(model, photos, f"--output={gcs}/s.csv", f"--shard={index}/2")
    names = {
        f"s-0000{i}-of-00002.csv{end}" for i in (0, 1) for end in ("", ".model.json")
    }
    assert buckets.find(gcs).keys() == names
    found = [_read(f"{gcs}/s-0000{i}-of-00002.csv", tmp_path) for i in (0, 1)]
    assert sorted(row["path"] for part in found for row in part) == sorted(
        map(str, photos.iterdir())
    )


def _write_tars(photos, folder):
    for index, path in enumerate(sorted(photos.iterdir())):
        with tarfile.open(folder / f"{index % 2}.tar", "a") as archive:
            archive.add(path, f"set/{path.name}")


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_archives_of_a_bucket(model, photos, any_bucket, tmp_path, capsys, kind):
    run(model, photos)
    expected = {
        row["path"].rpartition("/")[2]: (row["score"], row["error"])
        for row in rows(capsys.readouterr().out)
    }
    (tmp_path / "shards").mkdir()
    if kind == "tar":
        _write_tars(photos, tmp_path / "shards")
    else:
        pyarrow = pytest.importorskip(
            "pyarrow", reason="the extra parquet is not installed"
        )
        from pyarrow import parquet

        columns = {
            "id": sorted(expected),
            "image": [(photos / name).read_bytes() for name in sorted(expected)],
        }
        table = pyarrow.table(columns)
        parquet.write_table(table, tmp_path / "shards" / "0.parquet")
    emulators.upload(tmp_path / "shards", f"{any_bucket}/shards")
    run(model, f"{any_bucket}/shards/*.{kind}")
    found = rows(capsys.readouterr().out)
    assert len(found) == len(expected)
    assert expected == {
        row["path"].rpartition("/")[2]: (row["score"], row["error"]) for row in found
    }
    assert all(row["path"].startswith(f"{any_bucket}/shards/") for row in found)
