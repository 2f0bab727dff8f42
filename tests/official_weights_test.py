"""`load("kadid10k")`: what is to be fetched by hand, and what is kept."""

import pytest
import small_model

import arniqa_jax
from arniqa_jax import errors
from arniqa_jax.datasets import catalogue
from arniqa_jax.weights import download, official, torch_import


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
    monkeypatch.setattr(download, "_ATTEMPTS", 1)
    monkeypatch.setenv("ARNIQA_JAX_WEIGHTS", "http://127.0.0.1:9")
    with pytest.raises(errors.ArniqaError) as error:
        arniqa_jax.load("kadid10k")
    assert "http://127.0.0.1:9/ARNIQA.pth cannot be fetched" in str(error.value)
    assert f"put it at {home}/files/ARNIQA.pth" in str(error.value)


def test_each_file_is_converted_once(home, monkeypatch, tmp_path):
    """With the reading of PyTorch's files, which torch_test covers, taken out."""
    model = arniqa_jax.load(small_model.write(tmp_path / "seeded", "live"))
    fetched = []

    def fetch(address, path):
        fetched.append(address.removeprefix(official.ADDRESS))
        return path

    def read_regressor(path, name, encoder):
        assert path.name == f"regressor_{name}.pth"
        return model.regressor

    source = torch_import._read_directory(tmp_path / "seeded")[2]
    monkeypatch.delenv("ARNIQA_JAX_WEIGHTS", raising=False)
    monkeypatch.setattr(download, "fetch", fetch)
    monkeypatch.setattr(torch_import, "read_file", lambda path: (model.encoder, source))
    monkeypatch.setattr(torch_import, "read_regressor", read_regressor)
    for name in ("live", "csiq", "live"):
        assert arniqa_jax.load(name).regressor is not None
    assert fetched == ["/ARNIQA.pth", "/regressor_live.pth", "/regressor_csiq.pth"]
