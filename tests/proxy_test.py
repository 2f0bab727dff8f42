"""The proxy dataset in the cache: made once, and again where a crash has damaged it."""

import pytest

from arniqa_jax import degradation
from arniqa_jax.evaluation import proxy

_IMAGES = 7 * 24 * 5


@pytest.fixture
def distorted(monkeypatch):
    """The levels that were applied; without distortions, which take a minute."""
    kinds = []

    def distort(key, images, *, name, level):
        kinds.append((name, level))
        return images

    monkeypatch.setattr(proxy, "SIZE", 16)
    monkeypatch.setattr(degradation, "distort", distort)
    return kinds


def test_it_is_made_once(tmp_path, distorted):
    for _ in range(2):
        assert len(proxy.open_proxy(tmp_path)) == _IMAGES
    assert len(distorted) == len(set(distorted)) == 24 * 5


@pytest.mark.parametrize("file", ["images.npy", "scores.npy"])
@pytest.mark.parametrize("size", [0, 50, 200, None])
def test_a_damaged_one_is_made_again(tmp_path, distorted, caplog, file, size):
    proxy.open_proxy(tmp_path)
    (path,) = tmp_path.glob(f"*/{file}")
    if size is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:size])
    benchmark = proxy.open_proxy(tmp_path)
    assert len(distorted) == 2 * 24 * 5 and "damaged" in caplog.text
    assert benchmark.images[_IMAGES - 1].shape == (16, 16, 3)
