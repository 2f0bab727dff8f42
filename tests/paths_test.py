"""URLs are rejected where they cannot be used, and no directory `gs:` is made."""

import pytest

from arniqa_jax import errors
from arniqa_jax.data import kadis700k_writer, photos
from arniqa_jax.evaluation import loading, results
from arniqa_jax.scoring import rows
from arniqa_jax.storage import files, workdir
from arniqa_jax.weights import encoders

# What takes a path of some kind, and the kinds of paths that it cannot take.
_ONE_SLASH = "gs:/bucket"
_OF_S3 = "s3://bucket/run"
_USES = {
    "local_path": (lambda url: files.local_path(url, "--output"), ["gs://b/x", _OF_S3]),
    "workdir": (workdir.Workdir, [_OF_S3, "https://host/run"]),
    "model": (encoders.load, ["https://host/model"]),
    "results": (results.load, ["gs://bucket/run/results/5", _OF_S3]),
    "map": (lambda url: rows.ScoreRows("m", map_folder=url), ["gs://b/x", _OF_S3]),
    "photos": (photos.open_photos, ["https://host/photos"]),
    "tfds": (lambda url: photos.open_photos(url, "tfds:kadis700k"), ["https://h/x"]),
    "kadis": (
        lambda url: kadis700k_writer.write("KADIS700", url),
        [_OF_S3, "https://host/x"],
    ),
    "root": (lambda url: loading.load_benchmarks("kadid10k", url), ["https://host/x"]),
    "csv": (lambda url: loading.load_benchmarks(f"csv:{url}", ""), ["https://host/x"]),
}


@pytest.mark.parametrize(
    ("name", "url"),
    [(name, url) for name, (_, urls) in _USES.items() for url in [*urls, _ONE_SLASH]],
)
def test_a_url_is_refused_and_no_directory_is_made(name, url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.UsageError, match="expected a local path") as raised:
        _USES[name][0](url)
    assert url in str(raised.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["runs/a:b", "C:\\run", "a:/b", "/x/y", ".", "~/x"])
def test_local_paths_stay(path):
    assert str(files.local_path(path, "--workdir")) == path
