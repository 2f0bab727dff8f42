"""Extraction of features: order, cache, resuming, devices, unreadable images."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import jax
import miniature
import numpy as np
import pytest

from arniqa_jax import errors
from arniqa_jax.data import crops as image_crops
from arniqa_jax.datasets.labelled import ImageFiles
from arniqa_jax.inference import feature_store, preprocessing
from arniqa_jax.inference.dataset_extractor import DatasetExtractor
from arniqa_jax.inference.encoder import Encoder
from arniqa_jax.inference.extractor import Extractor
from arniqa_jax.model.simclr import SimCLR

COUNT = 27  # more than three batches of 8, and not a multiple


@pytest.fixture
def images(tmp_path):
    painter = miniature._Painter(3)
    for i in range(COUNT):
        painter.paint(tmp_path / "images" / f"{i}.png")
    return ImageFiles(tmp_path / "images", tuple(f"{i}.png" for i in range(COUNT)))


@pytest.fixture
def extractor(tmp_path):
    return DatasetExtractor(miniature.encoder(), tmp_path / "cache")


def _expected(encoder, images):
    """Return the features by the definition: crop by crop, full then half scale."""
    rows = []
    for i in range(len(images)):
        crops = preprocessing.evaluation_crops(images[i], encoder.patch_size)
        full, half = (
            np.asarray(encoder.apply(encoder.variables, crops[:, scale]))
            for scale in (0, 1)
        )
        rows.append(np.concatenate([full, half], axis=-1))
    return np.stack(rows)


def test_equals_the_plain_computation(extractor, images):
    values = extractor.extract(images, np.arange(COUNT), "mini")
    assert values.shape == (COUNT, 5, 12) and values.dtype == np.float32
    np.testing.assert_allclose(values, _expected(extractor.encoder, images), atol=3e-5)
    some = extractor.extract(images, np.array([7, 2]), "mini")
    np.testing.assert_allclose(some, values[[7, 2]], atol=1e-6)


@pytest.fixture
def traces(monkeypatch):
    """The shapes of images that the encoders were traced for: one for each program."""
    shapes = []
    for encoder in (miniature.PixelStatistics, Encoder):

        def noting(self, weights, images, embed=encoder.embed):
            shapes.append(images.shape)
            return embed(self, weights, images)

        monkeypatch.setattr(encoder, "embed", noting)
    return shapes


def test_one_compilation_serves_all_sizes_and_encoders(extractor, images, traces):
    jax.clear_caches()
    extractor.extract(images, np.arange(COUNT), "mini")
    assert len(traces) == 1
    smaller = dataclasses.replace(images, shorter_side=33)
    extractor.extract(smaller, np.arange(COUNT), "smaller")
    other = miniature.encoder(seed=1, name="another")
    values = DatasetExtractor(other, extractor.cache_dir).extract(
        images, np.arange(4), "mini"
    )
    assert len(traces) == 1
    np.testing.assert_allclose(values, _expected(other, images)[:4], atol=3e-5)


def test_all_devices_give_the_same(extractor, images):
    encoder = extractor.encoder
    found = []
    for devices in (jax.local_devices(), jax.local_devices()[:1]):
        one = Extractor(encoder, devices=devices)
        assert one.batch_size == len(devices)
        views = ((i, one.view(images[i])) for i in range(COUNT))
        found.append([features_CD for _, features_CD in one.embed(views)])
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)


@dataclasses.dataclass(frozen=True)
class _Counting:
    """Images that count how often they are decoded."""

    images: ImageFiles
    decoded: list
    fail_at: int = -1

    names = property(lambda self: self.images.names)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        if index == self.fail_at:
            raise KeyboardInterrupt
        self.decoded.append(index)
        return self.images[index]

    def stamps(self):
        return self.images.stamps()


def test_second_extraction_decodes_nothing(extractor, images):
    counting = _Counting(images, [])
    first = extractor.extract(counting, np.arange(COUNT), "mini")
    assert sorted(counting.decoded) == list(range(COUNT))
    counting.decoded.clear()
    again = DatasetExtractor(extractor.encoder, extractor.cache_dir)
    values = again.extract(counting, np.arange(COUNT), "mini")
    assert counting.decoded == []
    np.testing.assert_array_equal(values, first)


@pytest.mark.parametrize("change", ["encoder", "image", "crops", "patch_size"])
def test_what_changes_the_features_misses_the_cache(extractor, images, change):
    before = np.array(extractor.extract(images, np.arange(COUNT), "mini"))
    encoder, crops = extractor.encoder, "five"
    if change == "encoder":
        encoder = miniature.encoder(seed=1)
    elif change == "image":
        miniature._Painter(9).paint(images.root / images.names[0])
    elif change == "crops":
        crops = "whole"
    else:
        encoder = dataclasses.replace(encoder, patch_size=40)
    changed = DatasetExtractor(encoder, extractor.cache_dir, crops)
    values = changed.extract(images, np.arange(COUNT), "mini")
    assert values.shape != before.shape or (values != before).any()


def test_interrupted_extraction_goes_on_where_it_was(extractor, images, monkeypatch):
    whole = DatasetExtractor(extractor.encoder, extractor.cache_dir / "whole")
    expected = np.array(whole.extract(images, np.arange(COUNT), "mini"))
    monkeypatch.setattr(feature_store, "SECONDS_BETWEEN_FLUSHES", 0.0)
    counting = _Counting(images, [], fail_at=25)
    with pytest.raises(KeyboardInterrupt):
        extractor.extract(counting, np.arange(COUNT), "mini")
    (partial,) = extractor.directory.iterdir()
    assert partial.name.endswith(".partial")
    done = int((partial / "done").read_text())
    assert done in (8, 16)
    resumed = _Counting(images, [])
    values = extractor.extract(resumed, np.arange(COUNT), "mini")
    assert sorted(resumed.decoded) == list(range(done, COUNT))
    np.testing.assert_array_equal(values, expected)
    assert [p.suffix for p in extractor.directory.iterdir()] != [".partial"]


def test_writers_of_the_same_features_do_not_share_rows(tmp_path):
    """As two evaluations that are started on one run directory."""
    shape = (4, 1, 2)
    ones = np.ones(shape, np.float32)
    first, second = (
        feature_store.Writer(tmp_path / "mini", shape).__enter__() for _ in range(2)
    )
    first.append(ones[:2])
    second.append(ones[:1])
    first.append(ones[2:])
    first.__exit__(None, None, None)
    values = feature_store.find(tmp_path / "mini", shape)
    np.testing.assert_array_equal(values, ones)
    second.append(ones[1:])
    second.__exit__(None, None, None)
    np.testing.assert_array_equal(feature_store.find(tmp_path / "mini", shape), ones)
    assert [path.name for path in tmp_path.iterdir()] == ["mini"]


def test_two_extractions_at_once(extractor, images, tmp_path):
    expected = np.array(extractor.extract(images, np.arange(COUNT), "mini"))
    shared = tmp_path / "shared"

    def extract(_):
        one = DatasetExtractor(extractor.encoder, shared)
        return np.array(one.extract(images, np.arange(COUNT), "mini"))

    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(extract, range(2)):
            np.testing.assert_array_equal(found, expected)
    (encoder,) = shared.iterdir()
    assert len(list(encoder.iterdir())) == 1


@pytest.mark.parametrize("size", [0, 60, 300])
def test_features_that_a_crash_has_damaged_are_extracted_again(
    extractor, images, caplog, size
):
    expected = np.array(extractor.extract(images, np.arange(COUNT), "mini"))
    (array,) = extractor.directory.glob("*/features.npy")
    array.write_bytes(array.read_bytes()[:size])
    again = extractor.extract(images, np.arange(COUNT), "mini")
    np.testing.assert_array_equal(again, expected)
    assert "is damaged" in caplog.text


@pytest.mark.parametrize("file", ["done", "features.npy"])
def test_a_part_that_a_crash_has_damaged_is_begun_again(extractor, images, file):
    with pytest.raises(KeyboardInterrupt):
        extractor.extract(_Counting(images, [], fail_at=25), np.arange(COUNT), "mini")
    (partial,) = extractor.directory.iterdir()
    (partial / file).write_bytes(b"")
    counting = _Counting(images, [])
    extractor.extract(counting, np.arange(COUNT), "mini")
    assert sorted(counting.decoded) == list(range(COUNT))
    assert len(list(extractor.directory.iterdir())) == 1


def test_unreadable_image(extractor, images):
    (images.root / "5.png").write_bytes(b"no image")
    with pytest.raises(errors.ImageError, match=r"5\.png"):
        extractor.extract(images, np.arange(COUNT), "mini")
    values = extractor.extract(images, np.arange(COUNT), "mini", skip_unreadable=True)
    assert np.isnan(values[5]).all() and np.isfinite(np.delete(values, 5, 0)).all()
    opened = feature_store.Features(values, np.arange(COUNT))
    assert opened.readable(np.array([4, 5, 6])).tolist() == [4, 6]


def test_full_disk_is_seen_before(extractor, images, monkeypatch):
    usage = feature_store.shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(feature_store.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(errors.ArniqaError, match="GiB are free"):
        extractor.extract(images, np.arange(COUNT), "mini")


def test_whole_images_of_any_size(images, tmp_path):
    miniature._Painter(1).paint(images.root / "0.png")
    encoder = miniature.encoder()
    values = DatasetExtractor(encoder, tmp_path / "cache", "whole").extract(
        images, np.arange(3), "mini"
    )
    assert values.shape == (3, 1, 12)
    image = images[1]
    views = (image, image_crops.half_scale(image))
    expected = [np.asarray(encoder.apply(encoder.variables, v[None]))[0] for v in views]
    np.testing.assert_allclose(values[1, 0], np.concatenate(expected), atol=3e-5)


def test_unknown_crops():
    with pytest.raises(errors.UsageError, match="expected one of five, whole"):
        DatasetExtractor(miniature.encoder(), "cache", "six")


def test_pruning_keeps_one_encoder(tmp_path, images):
    cache = tmp_path / "cache"
    old = DatasetExtractor(miniature.encoder(0), cache)
    new = DatasetExtractor(miniature.encoder(1), cache)
    for extractor in (old, new):
        extractor.extract(images, np.arange(4), "mini")
    feature_store.prune(cache, keep=new.directory)
    assert list(cache.iterdir()) == [new.directory]
    feature_store.prune(tmp_path / "nothing", keep=new.directory)


def test_full_reference_features():
    rng = np.random.default_rng(0)
    values, reference = rng.normal(size=(6, 5, 3)), rng.normal(size=(2, 5, 3))
    reference_N = np.array([0, 0, 0, 1, 1, 1])
    opened = feature_store.Features(values, np.arange(6), reference, reference_N)
    assert opened.width == 6
    expected = np.concatenate([values[4], abs(values[4] - reference[1])], axis=-1)
    np.testing.assert_array_equal(opened.take(np.array([4]))[0], expected)
    np.testing.assert_allclose(opened.means(np.array([4]))[0], expected.mean(0))
    ((x, y),) = opened.regression_blocks(np.array([4, 0]), np.arange(6.0))
    assert x.shape == (10, 6) and y.tolist() == [4.0] * 5 + [0.0] * 5


@pytest.mark.slow
def test_encoder_of_the_package_shares_a_compilation(images, tmp_path, traces):
    module = SimCLR(arch="tiny", embedding_dim=8)
    for seed in (0, 1):
        key = jax.random.key(seed)
        image = np.zeros((1, 32, 32, 3), np.float32)
        variables = jax.jit(module.init, static_argnames="train")(
            key, image, train=False
        )
        encoder = Encoder(module, variables, f"step {seed}", patch_size=32)
        values = DatasetExtractor(encoder, tmp_path).extract(
            images, np.arange(4), "mini"
        )
        assert values.shape == (4, 5, 2 * encoder.feature_dim)
    assert len(traces) == 1
