"""Files and directories of a bucket, on an emulator of Google Cloud Storage."""

import emulators
import pytest

from arniqa_jax import errors
from arniqa_jax.storage import buckets


def test_a_file_is_written_read_listed_and_removed(gcs):
    url = f"{gcs}/run/config.json"
    assert not buckets.exists(url) and not buckets.exists(f"{gcs}/run")
    buckets.write(url, "{}")
    assert buckets.read(url) == b"{}"
    buckets.write(url, b"new")
    assert buckets.read(url) == b"new"
    assert buckets.exists(url) and buckets.exists(f"{gcs}/run")
    assert buckets.find(f"{gcs}/run") == {"config.json": 3}
    assert buckets.list_urls(gcs) == [url]
    assert buckets.list_urls(f"{gcs}/run/*.json") == [url]
    buckets.delete(url)
    buckets.delete(url)  # of what is not there, too
    assert not buckets.exists(url) and buckets.find(f"{gcs}/run") == {}
    with buckets.open_binary(__file__) as file:
        assert file.readline().startswith(b'"""Files')


def test_directories_go_to_a_bucket_and_come_back(gcs, tmp_path):
    folder = tmp_path / "a"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "one").write_bytes(b"1")
    (folder / "deep" / "er" / "two #?%").write_bytes(bytes(3_000_000))
    emulators.upload(folder, f"{gcs}/copy")
    names = buckets.find(f"{gcs}/copy")
    assert names == {"deep/er/two #?%": 3_000_000, "one": 1}
    buckets.download_files(f"{gcs}/copy", tmp_path / "b", names)
    assert (tmp_path / "b" / "deep" / "er" / "two #?%").stat().st_size == 3_000_000
    assert (tmp_path / "b" / "one").read_bytes() == b"1"
    # A directory whose name begins with that of another is not part of it.
    buckets.write(f"{gcs}/copy2/x", b"")
    buckets.delete(f"{gcs}/copy")
    assert buckets.find(gcs) == {"copy2/x": 0}


def test_what_is_missing_is_said_in_one_line(gcs):
    with pytest.raises(errors.BucketError, match=r"gs://.*/no: .*no such file"):
        buckets.read(f"{gcs}/no")
    buckets.check(f"{gcs}/no")
    with pytest.raises(errors.BucketError, match="gs://missing: there is no such buck"):
        buckets.check("gs://missing/run")


def test_a_wrong_address_is_said_soon(gcs, monkeypatch):
    import conftest
    import emulators

    nobody = f"http://127.0.0.1:{emulators.free_port()}"
    with (
        conftest.use_gcs(nobody, monkeypatch),
        pytest.raises(errors.BucketError, match=f"within 1 s.*{nobody}"),
    ):
        buckets.check(gcs, deadline=1)
