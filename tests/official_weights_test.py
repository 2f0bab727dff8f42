"""`load("kadid10k")`: the files it downloads, converts and caches."""

import builtins
import functools
import http.server
import shutil
import threading

import numpy as np
import pytest
import regressor_files
import small_model
import torch_archives

import arniqa_jax
from arniqa_jax import errors
from arniqa_jax.datasets import catalogue
from arniqa_jax.weights import (
    download,
    model_directory,
    official,
    torch_import,
    torch_names,
)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "arniqa_jax" / "official"


def test_each_name_is_a_dataset():
    assert len(torch_import.OFFICIAL_REGRESSORS) == 8
    assert set(torch_import.OFFICIAL_REGRESSORS.values()) < catalogue.DATASETS.keys()


def test_what_was_converted_is_loaded_without_pytorch_or_network(home):
    small_model.write(home / "model", "kadid10k")
    assert arniqa_jax.load("kadid10k").regressor.dataset == "kadid10k"


def test_offline_it_says_what_to_put_where(home, monkeypatch):
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    monkeypatch.setenv("ARNIQA_JAX_WEIGHTS", "http://127.0.0.1:9")
    with pytest.raises(errors.ArniqaError) as error:
        arniqa_jax.load("kadid10k")
    assert "http://127.0.0.1:9/ARNIQA.pth cannot be downloaded" in str(error.value)
    assert f"put it at {home}/files/ARNIQA.pth" in str(error.value)


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A folder with stand-ins: a tiny encoder, and a Ridge as the authors save it."""
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    encoder = arniqa_jax.load(small_model.write(tmp_path / "seeded")).encoder
    tensors = torch_names.to_torch(encoder.variables)
    torch_archives.write_tensors(mirror / "ARNIQA.pth", tensors)
    shutil.copy(regressor_files.FILE, mirror)
    pins = {path.name: download.pin_of(path) for path in mirror.iterdir()}
    assert pins.keys() < official.PINS.keys()
    monkeypatch.setattr(official, "PINS", pins)
    import_any = builtins.__import__

    def import_other(name, *rest, **options):
        assert name.partition(".")[0] != "torch"
        return import_any(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", import_other)
    return mirror


def _expected_score(model, image):
    """By scikit-learn's own Ridge, of which the file was made; KADID-10k has 1..5."""
    ridge = regressor_files.recorded().fitted()
    (features_CD,) = model.features([image])
    return (ridge.predict(features_CD.astype(np.float64)).mean() - 1) / 4


@pytest.mark.parametrize("scheme", ["http", "folder"])
def test_official_weights_from_a_mirror_without_pytorch(
    home, mirror, monkeypatch, scheme
):
    handler = functools.partial(_Quiet, directory=mirror)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}/"
        place = address if scheme == "http" else str(mirror)
        monkeypatch.setenv("ARNIQA_JAX_WEIGHTS", place)
        model = arniqa_jax.load("kadid10k")
        server.shutdown()
        thread.join()
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    (score,) = model.score([image])
    assert score == pytest.approx(_expected_score(model, image), abs=1e-5)
    source = model_directory.read_source(home / "model")
    assert source.sha256 == official.PINS["ARNIQA.pth"].sha256


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_a_folder_without_the_file(home, tmp_path, monkeypatch):
    monkeypatch.setenv("ARNIQA_JAX_WEIGHTS", str(tmp_path))
    with pytest.raises(errors.ArniqaError, match=r"ARNIQA\.pth: there is no such file"):
        arniqa_jax.load("kadid10k")


def test_another_file_than_the_published_one(home, tmp_path, monkeypatch):
    monkeypatch.setenv("ARNIQA_JAX_WEIGHTS", str(tmp_path))
    (tmp_path / "ARNIQA.pth").write_bytes(b"PK\x03\x04")
    with pytest.raises(errors.CheckpointError, match="expected 112155914 bytes"):
        arniqa_jax.load("kadid10k")


def test_each_file_is_converted_once(home, monkeypatch, tmp_path):
    """With the reading of PyTorch's files, which torch_test covers, taken out."""
    model = arniqa_jax.load(small_model.write(tmp_path / "seeded", "live"))
    fetched = []

    def fetch(address, path, *, pin):
        assert (pin is None) == (
            path.name in ("regressor_live.pth", "regressor_csiq.pth")
        )
        fetched.append(address.removeprefix(official.ADDRESS))
        return path

    def read_regressor(path, name, encoder):
        assert path.name == f"regressor_{name}.pth"
        return model.regressor

    source = torch_import.read_directory(tmp_path / "seeded")[2]
    monkeypatch.delenv("ARNIQA_JAX_WEIGHTS", raising=False)
    monkeypatch.setattr(download, "fetch", fetch)
    monkeypatch.setattr(torch_import, "read_file", lambda path: (model.encoder, source))
    monkeypatch.setattr(torch_import, "read_regressor", read_regressor)
    # What a process leaves that is killed before it writes model.json.
    (home / "model" / "encoder").mkdir(parents=True)
    for name in ("live", "csiq", "live"):
        assert arniqa_jax.load(name).regressor is not None
    assert fetched == ["/ARNIQA.pth", "/regressor_live.pth", "/regressor_csiq.pth"]
