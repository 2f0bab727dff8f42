"""The proxy dataset in the cache: made once, and again where a crash has damaged it."""

import numpy as np
import pytest

from arniqa_jax.evaluation import proxy

_IMAGES = 7 * 24 * 5


@pytest.fixture
def made(monkeypatch):
    """How often the proxy was made; of empty images, as the real ones take a minute."""
    calls = []

    def make(_, directory):
        calls.append(directory)
        directory.mkdir()
        np.save(directory / "images.npy", np.zeros((_IMAGES, 1, 1, 3), np.uint8))
        np.save(directory / "scores.npy", np.linspace(0, 1, _IMAGES))

    monkeypatch.setattr(proxy, "_make", make)
    return calls


def test_it_is_made_once(tmp_path, made):
    for _ in range(2):
        assert len(proxy.open_proxy(tmp_path)) == _IMAGES
    assert len(made) == 1


@pytest.mark.parametrize("file", ["images.npy", "scores.npy"])
@pytest.mark.parametrize("size", [0, 50, 200, None])
def test_a_damaged_one_is_made_again(tmp_path, made, caplog, file, size):
    proxy.open_proxy(tmp_path)
    path = made[0] / file
    if size is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:size])
    benchmark = proxy.open_proxy(tmp_path)
    assert len(made) == 2 and "damaged" in caplog.text
    assert benchmark.images[_IMAGES - 1].shape == (1, 1, 3)
