"""Whole images in tiles give the features of one pass, in memory that does not grow."""

import jax
import numpy as np
import pytest
import small_model

from arniqa_jax.inference import extractor, folded_encoder, tiles
from arniqa_jax.inference.encoder import Encoder
from arniqa_jax.inference.extractor import Extractor
from arniqa_jax.model.simclr import SimCLR
from arniqa_jax.weights import encoders, torch_names


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    directory = small_model.write(tmp_path_factory.mktemp("models") / "one")
    return encoders.load(directory, "best")


def test_each_position_comes_from_one_tile_that_sees_all_of_it(monkeypatch):
    monkeypatch.setattr(tiles, "SIDE", 384)
    radius = 97
    for side in (*range(1, 70, 7), 383, 384, 385, 400, 511, 512, 513, 1000, 1031):
        seen = []
        for span in tiles.spans(side, radius):
            assert 0 < span.size <= 384 and span.start % 32 == 0
            assert span.start + span.size <= side
            for position in range(span.first, span.stop):
                at = span.start + 32 * position
                seen.append(at)
                assert span.start == 0 or at - radius >= span.start
                end = span.start + span.size
                assert end == side or at + radius < end
        assert seen == list(range(0, side, 32))


@pytest.mark.parametrize(
    ("size", "crops"),
    [
        pytest.param((700, 500), "whole", marks=pytest.mark.slow),
        ((401, 1031), "whole"),
        ((401, 1031), "whole_std"),
        pytest.param((130, 1500), "whole", marks=pytest.mark.slow),
    ],
)
def test_features_are_those_of_one_pass(encoder, size, crops, monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    image[: size[0] // 2] //= 4  # not the same everywhere
    whole = Extractor(encoder, crops=crops)
    stream = [(0, whole.view(image))]
    ((_, expected),) = whole.embed(stream)
    monkeypatch.setattr(tiles, "SIDE", 384)
    ((_, found),) = whole.embed(stream)
    assert found.shape == expected.shape == (1, 128)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert (found[:, :64] != expected[:, :64]).any()  # it did go in tiles


@pytest.mark.parametrize(
    ("arch", "radius"), [("resnet18", 217), ("resnet34", 449), ("resnet50", 213)]
)
def test_the_receptive_radius(arch, radius):
    """The receptive fields of torchvision's ResNets are 435, 899 and 427 pixels."""
    variables = torch_names.abstract_variables(SimCLR(arch=arch), projector=False)
    encoder = Encoder(SimCLR(arch=arch), variables, arch)
    weights = jax.eval_shape(encoder.fold, variables)
    assert folded_encoder.receptive_radius(weights) == radius


def test_batches_of_large_images_are_small(encoder, monkeypatch):
    devices = jax.devices()[:1]
    monkeypatch.setattr(extractor, "PIXELS_PER_DEVICE", 3 * 64 * 64)
    whole = Extractor(encoder, crops="whole", batch_size=8, devices=devices)
    sizes = []
    embed_batch = whole.embed_batch
    monkeypatch.setattr(
        whole,
        "embed_batch",
        lambda views: sizes.append(len(views)) or embed_batch(views),
    )
    views = [(i, whole.view(np.zeros((64, 64, 3), np.uint8))) for i in range(7)]
    assert len(list(whole.embed(views))) == 7
    assert sizes == [3, 3, 1]
