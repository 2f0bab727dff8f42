"""Inference with folded BatchNorm: wide maps of large images, two at a time on a CPU.

That the folded encoder equals the plain one is tested beside the golden features.
"""

import jax
import jax.export
import numpy as np
import pytest

from arniqa_jax.inference import folded_encoder
from arniqa_jax.model import resnet

_SIDE = 128  # the smallest that counts as large


@pytest.fixture(scope="module")
def weights():
    model = resnet.ResNet(resnet.ARCHITECTURES["tiny"])
    image = np.zeros((1, 32, 32, 3), np.float32)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), image, train=False))
    rng = np.random.default_rng(1)

    def draw(leaf):
        if leaf.ndim == 4:
            wide = rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))
            return wide.astype(np.float32)
        return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)

    variables = jax.tree.map(draw, shapes)
    return folded_encoder.fold(variables["params"], variables["batch_stats"])


def _images(count, side=_SIDE):
    return np.random.default_rng(0).random((count, side, side, 3), np.float32)


@pytest.mark.slow
def test_an_image_has_the_features_it_has_alone(weights):
    images = _images(4)
    together = jax.jit(folded_encoder.embed)(weights, images)
    alone = jax.lax.map(
        lambda image: folded_encoder.embed(weights, image[None])[0], images
    )
    np.testing.assert_allclose(together, alone, atol=1e-6)


@pytest.mark.slow
def test_gradients_with_respect_to_images_and_weights(weights):
    def loss(weights, images):
        return (folded_encoder.embed(weights, images) ** 3).sum()

    gradient = jax.jit(jax.grad(loss, (0, 1)))
    images = _images(3)
    padded = gradient(weights, np.concatenate([images, images[:1]]))
    three, one = gradient(weights, images), gradient(weights, images[:1])
    together = jax.tree.map(np.add, three[0], one[0])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max()),
        padded,
        (together, np.concatenate([three[1], one[1]])),
    )


@pytest.mark.parametrize(
    ("platform", "count", "side", "in_pairs"),
    [
        ("cpu", 4, _SIDE, True), ("cpu", 3, _SIDE, False),
        ("cpu", 4, _SIDE // 2, False), ("cuda", 4, _SIDE, False),
        ("tpu", 4, _SIDE, False),
    ],
)  # fmt: skip
def test_pairs_are_for_large_images_on_cpus(weights, platform, count, side, in_pairs):
    """Only the program that takes pairs has a loop."""
    images = jax.ShapeDtypeStruct((count, side, side, 3), np.float32)
    traced = jax.jit(folded_encoder.embed).trace(weights, images)
    program = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.while" in program) == in_pairs


def test_a_symbolic_number_of_images(weights):
    (n,) = jax.export.symbolic_shape("n")
    shape = jax.ShapeDtypeStruct((2 * n, _SIDE, _SIDE, 3), np.float32)
    program = jax.export.export(jax.jit(folded_encoder.embed))(weights, shape)
    images = _images(4)
    for count in (2, 4):
        np.testing.assert_allclose(
            program.call(weights, images[:count]),
            folded_encoder.embed(weights, images[:count]),
            atol=1e-6,
        )
