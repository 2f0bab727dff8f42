"""The Python API: accepted images, scores against the definition, the gradient."""

import dataclasses
import itertools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_model
from PIL import Image

import arniqa_jax
from arniqa_jax import errors
from arniqa_jax.data import crops as image_crops
from arniqa_jax.distributed import cpus
from arniqa_jax.inference import extractor, preprocessing
from arniqa_jax.inference.encoder import Encoder
from arniqa_jax.scoring import heat_map, rows

SIZES = [(40, 60), (100, 33), (1, 1), (31, 300), (64, 64), (7, 90), (64, 64)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return small_model.write(tmp_path_factory.mktemp("models") / "one", "live")


@pytest.fixture(scope="module")
def model(directory):
    return arniqa_jax.load(directory)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(1)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]


def _plain(model, image):
    """Crop by crop, without folding: the definition."""
    crops = preprocessing.evaluation_crops(image, 32)
    encoder = model.encoder
    full, half = (
        np.asarray(encoder.apply(encoder.variables, crops[:, scale]))
        for scale in (0, 1)
    )
    return np.concatenate([full, half], axis=-1)


def test_features_and_scores_are_those_of_the_definition(model, images):
    features = model.features(images)
    assert features.shape == (len(images), 5, 128) and features.dtype == np.float32
    expected = np.stack([_plain(model, image) for image in images])
    np.testing.assert_allclose(features, expected, atol=1e-5)
    scores = model.score(images)
    assert scores.shape == (len(images),) and scores.dtype == np.float32
    raw = expected.astype(np.float64).mean(1) @ model.regressor.weights_D + 50
    np.testing.assert_allclose(model.score(images, raw=True), raw, atol=1e-3)
    np.testing.assert_allclose(scores, 1 - (raw - 1) / 99, atol=1e-5)


def test_a_score_in_bfloat16(directory, model, images):
    narrow = arniqa_jax.load(directory, precision="bfloat16")
    scores = narrow.score(images)
    difference = np.abs(scores - model.score(images)).max()
    assert scores.dtype == np.float32 and 1e-5 < difference < 0.02
    assert narrow.fingerprint != model.fingerprint
    kernel = narrow.extractor.weights["conv1"]["kernel"]
    assert kernel.dtype == "bfloat16"


@pytest.fixture
def traces(monkeypatch):
    """The shapes of images that the encoder was traced for: one for each program."""
    shapes, embed = [], Encoder.embed

    def noting(self, weights, images):
        shapes.append(images.shape)
        return embed(self, weights, images)

    monkeypatch.setattr(Encoder, "embed", noting)
    return shapes


def test_one_compilation_serves_every_size(model, images, traces):
    # An encoder that no other test has compiled.
    encoder = dataclasses.replace(model.encoder, patch_size=24)
    crops = extractor.Extractor(encoder)
    assert len(list(crops.embed((0, crops.view(image)) for image in images))) == 7
    assert len(traces) == 1


def test_whole_images_go_in_groups_of_one_size_and_keep_their_order(directory, images):
    model = arniqa_jax.load(directory, crops="whole")
    images = [images[0], images[2]]
    many = images * 9  # of each more than the 8 of a batch
    features = model.features(many)
    assert features.shape == (len(many), 1, 128)
    for image, found in zip(images, features, strict=False):
        encoder = model.encoder
        scales = (image, image_crops.half_scale(image))
        expected = [encoder.apply(encoder.variables, scale[None]) for scale in scales]
        np.testing.assert_allclose(found, np.concatenate(expected, 1), atol=1e-5)
    np.testing.assert_array_equal(features[: len(images)], features[-len(images) :])


def test_the_order_holds_beside_unreadable_ones_and_full_windows(model, images):
    stream = [
        (i, None if i % 3 == 0 else model.extractor.view(images[i % len(images)]))
        for i in range(60)
    ]
    found = list(model.extractor.embed(iter(stream)))
    assert [tag for tag, _ in found] == list(range(60))
    assert all((values is None) == (tag % 3 == 0) for tag, values in found)
    features = model.features(images)
    for tag, values in found:
        if values is not None:
            np.testing.assert_array_equal(values, features[tag % len(images)])


def test_a_cpu_computes_as_many_images_at_a_time_as_it_has_cores(
    directory, images, monkeypatch
):
    devices = len(jax.local_devices())  # each takes an image
    monkeypatch.setattr(cpus, "available_cpus", lambda: 3 * devices)
    model = arniqa_jax.load(directory)
    together = threading.Barrier(3, timeout=600)  # each waits there for two others
    embed_batch = model.extractor.embed_batch

    def embed_beside_others(views):
        together.wait()
        return embed_batch(views)

    monkeypatch.setattr(model.extractor, "embed_batch", embed_beside_others)
    model.score([images[0]] * 6 * devices)


def test_a_stream_that_is_left_ends_its_threads(model, images):
    views = ((i, model.extractor.view(images[0])) for i in itertools.count())
    stream = model.extractor.embed(views)
    next(stream)
    assert any(thread.name.startswith("embed") for thread in threading.enumerate())
    stream.close()
    for thread in threading.enumerate():
        if thread.name.startswith("embed"):
            thread.join(60)
            assert not thread.is_alive()


def test_few_images_of_many_sizes_do_not_wait_for_ever(directory, monkeypatch):
    model = arniqa_jax.load(directory, crops="whole")
    monkeypatch.setattr(extractor, "WAITING_BATCHES", 1)
    seen = []

    def views():
        for i in range(100):
            seen.append(i)
            size = (8, 8) if i == 0 else (9, 9)
            yield i, model.extractor.view(np.zeros((*size, 3), np.uint8))

    tags = []
    for tag, _ in model.extractor.embed(views()):
        tags.append(tag)
        assert len(seen) <= tag + 5 * model.extractor.batch_size
    assert tags == list(range(100))


def test_takes_paths_pillow_images_and_arrays(model, images, tmp_path):
    image = images[0]
    Image.fromarray(image).save(tmp_path / "a.png")
    pillow = Image.fromarray(image)
    as_float = image.astype(np.float32) / 255
    given = [tmp_path / "a.png", str(tmp_path / "a.png"), pillow, image, as_float]
    scores = model.score(given)
    np.testing.assert_array_equal(scores, np.full(5, scores[0]))
    assert model.score([]).shape == (0,)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4), np.uint8), r"image 1: expected an array \(H, W, 3\)"),
        (np.full((4, 4, 3), 2.0), r"image 1: .*in \[0, 1\], found float64 from 2"),
        (np.zeros((4, 4, 3), np.int32), r"image 1: expected uint8"),
        ("missing.png", r"missing\.png: unreadable: No such file"),
    ],
)
def test_a_bad_image_is_named(model, images, image, message):
    with pytest.raises(errors.ImageError, match=message):
        model.score([images[0], image])


def test_a_single_image_is_wrong_use(model):
    with pytest.raises(errors.UsageError, match="expected a list of images"):
        model.score("photo.png")


def test_score_fn_is_the_score_and_has_derivatives(model):
    y, x = np.mgrid[:80, :50] / 80
    image = np.stack([x, y, (x + y) / 2], axis=-1)
    image = np.rint(255 * image) / 255
    expected = model.score([image])
    batch = jnp.asarray(image[None], jnp.float32)
    found = jax.jit(model.score_fn)(model.params, batch)
    np.testing.assert_allclose(found, expected, atol=2e-3)

    def loss(images):
        return model.score_fn(model.params, images).mean()

    gradient = jax.jit(jax.grad(loss))(batch)
    step = 1e-3 * gradient / jnp.linalg.norm(gradient.ravel())
    change = (loss(batch + step) - loss(batch - step)) / 2e-3
    np.testing.assert_allclose(change, jnp.linalg.norm(gradient.ravel()), rtol=0.05)
    forward = jax.jit(lambda x, change: jax.jvp(loss, (x,), (change,))[1])(batch, step)
    np.testing.assert_allclose(forward, jnp.vdot(gradient, step), rtol=1e-3)


@pytest.mark.parametrize("crops", ["whole", "whole_std"])
def test_score_fn_of_whole_images(tmp_path, crops):
    model = arniqa_jax.load(small_model.write(tmp_path / "m", "live", crops=crops))
    # Away from black and white, where Pillow clips between its two passes too.
    image = np.random.default_rng(0).integers(64, 192, (160, 96, 3), np.uint8)
    batch = jnp.asarray(image[None] / 255, jnp.float32)
    found = jax.jit(model.score_fn)(model.params, batch)
    # The deviation over a few positions feels the rounding of the half-scale image.
    np.testing.assert_allclose(found, model.score([image]), atol=1e-2)
    flat = jnp.full((1, 32, 32, 3), 0.5)  # a deviation of 0 has no gradient
    gradient = jax.grad(lambda images: model.score_fn(model.params, images).sum())(flat)
    assert jnp.isfinite(gradient).all()


def test_whole_std_is_the_deviation_over_the_positions(directory, images):
    model = arniqa_jax.load(directory, crops="whole_std")
    (features,) = model.features([images[1]])[0]
    scales = (images[1], image_crops.half_scale(images[1]))
    for scale, found in zip(scales, np.split(features, 2), strict=True):
        pixels = jnp.asarray(scale[None] / 255, jnp.float32)
        maps = model.encoder.feature_map(model.extractor.weights, pixels)
        expected = np.std(np.float64(maps), (0, 1, 2))
        np.testing.assert_allclose(
            found, expected / np.linalg.norm(expected), atol=1e-5
        )


def test_no_map_of_deviations(directory, images):
    model = arniqa_jax.load(directory, crops="whole_std")
    with pytest.raises(errors.UsageError, match="crops=five or crops=whole"):
        model.quality_map(images[0])
    score_rows = rows.ScoreRows(directory, crops="whole_std", map_folder="maps")
    with pytest.raises(errors.UsageError, match="crops=five or crops=whole"):
        _ = score_rows.scorer  # before the table is opened


def test_half_scale_of_score_fn_is_that_of_pillow():
    # Away from black and white, where Pillow clips between its two passes too.
    image = np.random.default_rng(0).integers(64, 192, (90, 61, 3), np.uint8)
    crops = preprocessing.differentiable_crops(jnp.float32(image[None] / 255), 32)
    expected = preprocessing.evaluation_crops(image, 32)
    np.testing.assert_allclose(crops[0, :, 0] * 255, expected[:, 0], atol=1e-3)
    # Pillow rounds after each of its two passes.
    np.testing.assert_allclose(crops[0, :, 1] * 255, expected[:, 1], atol=1.01)


def test_choice_of_a_regressor(tmp_path):
    directory = small_model.write(tmp_path / "two", "live", "csiq")
    with pytest.raises(errors.UsageError, match="choose one of csiq, live"):
        arniqa_jax.load(directory)
    with pytest.raises(errors.UsageError, match=r"no regressor 'mine'.*csiq, live"):
        arniqa_jax.load(f"{directory}:mine")
    assert arniqa_jax.load(f"{directory}:csiq").regressor.dataset == "csiq"
    with pytest.raises(errors.CheckpointError, match=r"did you mean kadid10k\?"):
        arniqa_jax.load("kadid-10k")
    with pytest.raises(errors.CheckpointError, match=r"no model 'other'\. Expected"):
        arniqa_jax.load("other")


def test_without_a_regressor_there_are_features(tmp_path, images):
    model = arniqa_jax.load(small_model.write(tmp_path / "none"))
    assert model.features(images[:1]).shape == (1, 5, 128)
    with pytest.raises(errors.UsageError, match="has no regressor"):
        model.score(images[:1])


def test_quality_map(model, images, traces):
    image = np.random.default_rng(0).integers(0, 256, (80, 70, 3), np.uint8)
    scores = model.quality_map(image, stride=20)
    assert scores.shape == (4, 3) and scores.dtype == np.float32
    window = image[48:80, 38:70]  # the last one ends with the image
    half = image_crops.half_scale(image)
    top, left = (48 + 16) // 2 - 16, (38 + 16) // 2 - 16
    pair = np.stack([window, image_crops.window(half, top, left, 32)])
    features = model.encoder.apply(model.encoder.variables, pair).reshape(1, 1, -1)
    expected = model.scores_of(np.asarray(features))
    np.testing.assert_allclose(scores[-1, -1], expected[0, 0], atol=1e-5)
    traces.clear()
    assert model.quality_map(images[2]).shape == (1, 1)
    assert traces == []  # the program of the other image serves this one
    drawn = heat_map.overlay(image, scores)
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
