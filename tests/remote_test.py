"""Images behind URLs, in .tar shards and in Parquet files: scored as plain files."""

import http.server
import io
import os
import sys
import tarfile
import threading

import fsspec
import pytest
import small_model
from score_runs import rows, run, write_photos

import arniqa_jax
from arniqa_jax import errors
from arniqa_jax.scoring import archives
from arniqa_jax.storage import buckets


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small_model.write(tmp_path_factory.mktemp("models") / "one", "live")


@pytest.fixture
def photos(tmp_path):
    folder = write_photos(tmp_path / "photos", 4)
    (folder / "bad.png").write_bytes(b"text")
    (folder / ".hidden.png").write_bytes(b"text")
    (folder / "x.svg").write_bytes(b"text")
    return folder


def _expected(model, photos, capsys):
    """Returns score and error by name, as the plain command gives them."""
    run(model, photos)
    return _by_name(capsys)


def _by_name(capsys):
    found = rows(capsys.readouterr().out)
    named = {
        row["path"].rpartition("/")[2]: (row["score"], row["error"]) for row in found
    }
    assert len(named) == len(found)
    return named


@pytest.fixture
def bucket(photos):
    """Returns the URL of a copy of `photos` in a bucket that is only in memory."""
    system = fsspec.filesystem("memory")
    system.put(str(photos), "/bkt/photos", recursive=True)
    yield "memory://bkt/photos"
    system.rm("/bkt", recursive=True)


@pytest.mark.parametrize("what", ["", "/", "/*.png"])
def test_folders_and_patterns_of_a_bucket(model, photos, bucket, capsys, what):
    expected = _expected(model, photos, capsys)
    assert run(model, bucket + what) == errors.FAILURE
    assert _by_name(capsys) == expected


def test_a_folder_of_a_bucket_may_be_hidden_itself(model, photos, bucket, capsys):
    expected = _expected(model, photos, capsys)
    system = fsspec.filesystem("memory")
    system.copy("/bkt/photos", "/bkt/.hidden", recursive=True)
    run(model, "memory://bkt/.hidden")
    assert _by_name(capsys) == expected
    run(model, "memory://bkt/none*")
    assert _by_name(capsys) == {"none*": ("", "no file matches this pattern")}


def test_files_of_a_bucket_that_are_or_are_not_there(model, photos, bucket, capsys):
    expected = _expected(model, photos, capsys)
    assert run(model, f"{bucket}/0.png", f"{bucket}/no.png") == errors.FAILURE
    found = _by_name(capsys)
    assert found["0.png"] == expected["0.png"]
    assert found["no.png"] == ("", "unreadable: there is no such file")
    score = arniqa_jax.load(model).score([f"{bucket}/0.png"])
    assert f"{score[0]:.4f}" == f"{float(expected['0.png'][0]):.4f}"


def test_resume_from_a_bucket(model, bucket, tmp_path):
    output = tmp_path / "scores.csv"
    run(model, f"{bucket}/*.png", f"--output={output}")
    before = output.read_text()
    run(model, bucket, f"--output={output}", "--resume")
    assert output.read_text() == before  # the one with an error came last, too


@pytest.fixture
def web(photos):
    """The address of a web server for `photos`, which lists nothing."""
    pytest.importorskip("aiohttp", reason="the extra http is not installed")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=photos)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_https(model, photos, web, capsys):
    expected = _expected(model, photos, capsys)
    run(model, f"{web}/0.png", f"{web}/no.png", f"{web}/bad.png")
    found = _by_name(capsys)
    assert {name: found[name] for name in ("0.png", "bad.png")} == {
        name: expected[name] for name in ("0.png", "bad.png")
    }
    assert found["no.png"][1] == "unreadable: there is no such file"


def test_archives_of_a_web_server(model, photos, web, capsys):
    """A `.tar` is a stream; Parquet is read from its end, which this server cannot."""
    expected = _expected(model, photos, capsys)
    _write_tar(photos.parent / "s.tar", photos)
    (photos.parent / "s.tar").rename(photos / "s.tar")
    assert run(model, f"{web}/s.tar", f"{web}/no.tar") == errors.FAILURE
    found = _by_name(capsys)
    assert found.pop("no.tar") == ("", "unreadable: there is no such file")
    assert found == expected
    (photos / "s.parquet").write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    assert run(model, f"{web}/s.parquet", f"{web}/0.png") == errors.FAILURE
    found = _by_name(capsys)
    assert found["s.parquet"][1].startswith("unreadable: ") and found["0.png"][0]


def test_a_missing_package_and_an_unknown_scheme(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    # What an earlier test has imported.
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "gs", raising=False)
    with pytest.raises(errors.ArniqaError, match=r"needs gcsfs.*arniqa_jax\[gcs\]"):
        run(model, "gs://bucket/a.png")
    with pytest.raises(errors.UsageError, match="nosuch://a"):
        run(model, "nosuch://a/b.png")
    assert not os.path.exists("gs:")


def test_what_is_a_url():
    assert buckets.is_url("gs://b/a") and buckets.is_url("https://h/a?x=1")
    assert not any(map(buckets.is_url, ("a.png", "/a://b", "c:/a", "a:b")))


# --- Archives -----------------------------------------------------------------------


def _write_tar(path, photos, mode="w"):
    with tarfile.open(path, mode) as archive:
        archive.add(photos, arcname="./set")
        text = tarfile.TarInfo("set/0.json")
        archive.addfile(text, io.BytesIO())
    return path


@pytest.mark.parametrize(("name", "mode"), [("s.tar", "w"), ("s.tar.gz", "w:gz")])
def test_images_of_a_tar(model, photos, tmp_path, capsys, name, mode):
    expected = _expected(model, photos, capsys)
    path = _write_tar(tmp_path / name, photos, mode)
    assert run(model, path) == errors.FAILURE
    found = rows(capsys.readouterr().out)
    assert all(row["path"].startswith(f"{path}/set/") for row in found)
    by_name = {r["path"].rpartition("/")[2]: (r["score"], r["error"]) for r in found}
    assert by_name == expected and len(found) == len(expected)


def test_shards_of_a_bucket_by_pattern_and_continued(
    model, photos, tmp_path, capsys, bucket
):
    expected = _expected(model, photos, capsys)
    system = fsspec.filesystem("memory")
    for i in range(2):
        content = _write_tar(tmp_path / "s.tar", photos).read_bytes()
        system.pipe_file(f"/bkt/photos/shards/{i}.tar", content)
    output = tmp_path / "scores.csv"
    for flags in ([], ["--resume"]):
        run(model, f"{bucket}/shards/?.tar", f"--output={output}", *flags)
        found = rows(output.read_text())
        assert len({row["path"] for row in found}) == len(found) == 2 * len(expected)
        assert {row["score"] for row in found} == {
            score for score, _ in expected.values()
        }


def test_a_torn_tar_gives_what_came_before(model, photos, tmp_path, capsys):
    whole = _write_tar(tmp_path / "s.tar", photos).read_bytes()
    torn = tmp_path / "torn.tar"
    torn.write_bytes(whole[: len(whole) // 2])
    assert run(model, torn) == errors.FAILURE
    found = rows(capsys.readouterr().out)
    assert found[-1]["path"] == str(torn)
    assert found[-1]["error"].startswith("unreadable: ")
    assert any(row["score"] for row in found[:-1])


def test_a_connection_that_is_lost_is_a_reason(model, tmp_path, monkeypatch, capsys):
    class Lost(io.BytesIO):
        def read(self, size=-1):
            raise Exception(
                "the server disconnected"
            )  # aiohttp's errors are no OSError

    monkeypatch.setattr(archives.buckets, "open_binary", lambda path: Lost())
    assert run(model, tmp_path / "s.tar") == errors.FAILURE
    ((name, (_, error)),) = _by_name(capsys).items()
    assert (name, error) == ("s.tar", "unreadable: the server disconnected")


def test_a_tar_that_would_fill_the_memory(model, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(archives, "MAX_BYTES", 2**20)
    path = tmp_path / "s.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        large = tarfile.TarInfo("large.png")
        large.size = 2**22
        archive.addfile(large, io.BytesIO(bytes(large.size)))
        archive.add(photos / "0.png", "0.png")
    run(model, path)
    found = _by_name(capsys)
    assert found["large.png"] == ("", "more than 1 MiB") and found["0.png"][0]


@pytest.mark.parametrize("kind", ["bytes", "hugging face", "no id"])
def test_images_of_a_parquet_file(model, photos, tmp_path, capsys, kind):
    pyarrow = pytest.importorskip(
        "pyarrow", reason="the extra parquet is not installed"
    )
    from pyarrow import parquet

    expected = _expected(model, photos, capsys)
    contents = [(photos / name).read_bytes() for name in expected]
    if kind == "bytes":
        columns = {"id": list(expected), "jpg": contents, "other": [1] * len(contents)}
    elif kind == "hugging face":
        cells = [
            {"bytes": content, "path": name}
            for content, name in zip(contents, expected, strict=True)
        ]
        columns = {"image": cells}
    else:
        columns = {"image": contents}
    path = tmp_path / "data.parquet"
    parquet.write_table(pyarrow.table(columns), path)
    assert run(model, path) == errors.FAILURE
    found = _by_name(capsys)
    if kind == "no id":
        assert found == {str(i): row for i, row in enumerate(expected.values())}
    else:
        assert found == expected


def test_a_parquet_file_without_images(model, tmp_path, capsys):
    pyarrow = pytest.importorskip(
        "pyarrow", reason="the extra parquet is not installed"
    )
    from pyarrow import parquet

    path = tmp_path / "data.parquet"
    parquet.write_table(pyarrow.table({"path": ["a"], "score": [0.5]}), path)
    assert run(model, path) == errors.FAILURE
    ((_, error),) = _by_name(capsys).values()
    assert error.startswith("no column with images") and error.endswith("path, score")


def test_two_images_of_one_name_are_two(model, photos, tmp_path, capsys):
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w") as archive:
        for i in range(3):
            archive.add(photos / f"{i}.png", "a.png")
    assert run(model, path, path) == 0
    found = rows(capsys.readouterr().out)
    names = [f"{path}/a.png", f"{path}/a.png#2", f"{path}/a.png#3"]
    assert [row["path"] for row in found] == names
    assert len({row["score"] for row in found}) == 3
