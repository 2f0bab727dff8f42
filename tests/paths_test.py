"""Paths of buckets are rejected wherever only local paths work."""

import pytest

from arniqa_jax import errors
from arniqa_jax.data import kadis700k, photos
from arniqa_jax.evaluation import loading
from arniqa_jax.storage import files, workdir
from arniqa_jax.weights import encoders

_EVERYWHERE = ["s3://bucket/run", "gs:/bucket"]
_LOCAL = [
    lambda url: files.local_path(url, "--output"),
    photos.open_photos,
    lambda url: photos.open_photos(url, "tfds:kadis700k"),
    lambda url: kadis700k.write("KADIS700", url),
    lambda url: loading.load_benchmarks("kadid10k", url),
    lambda url: loading.load_benchmarks(f"csv:{url}", ""),
]


@pytest.mark.parametrize(
    ("use", "url"),
    [
        *((use, url) for use in _LOCAL for url in ("gs://bucket/run", *_EVERYWHERE)),
        *((workdir.Workdir, url) for url in _EVERYWHERE),
        *((encoders.load, url) for url in _EVERYWHERE),
    ],
)
def test_a_bucket_is_refused_and_no_directory_is_made(use, url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.UsageError, match="expected a local path") as raised:
        use(url)
    assert url in str(raised.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["runs/a:b", "C:\\run", "a:/b", "/x/y", ".", "~/x"])
def test_local_paths_stay(path):
    assert str(files.local_path(path, "--workdir")) == path
