"""Inference with folded BatchNorm: wide maps of large images, one by one on a CPU.

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
    of_weights, of_images = gradient(weights, images)
    alone = [gradient(weights, image[None]) for image in images]
    summed = jax.tree.map(lambda *g: sum(g), *(one for one, _ in alone))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max()),
        (of_weights, of_images),
        (summed, np.concatenate([one for _, one in alone])),
    )


@pytest.mark.parametrize(
    ("platform", "count", "side", "one_by_one"),
    [
        ("cpu", 4, _SIDE, True), ("cpu", 1, _SIDE, False),
        ("cpu", 4, _SIDE // 2, False), ("cuda", 4, _SIDE, False),
        ("tpu", 4, _SIDE, False),
    ],
)  # fmt: skip
def test_large_images_go_one_by_one_on_cpus(weights, platform, count, side, one_by_one):
    """Only this program has a loop."""
    images = jax.ShapeDtypeStruct((count, side, side, 3), np.float32)
    traced = jax.jit(folded_encoder.embed).trace(weights, images)
    program = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.while" in program) == one_by_one


def test_a_symbolic_number_of_images(weights):
    (n,) = jax.export.symbolic_shape("n")
    shape = jax.ShapeDtypeStruct((n, _SIDE, _SIDE, 3), np.float32)
    program = jax.export.export(jax.jit(folded_encoder.embed))(weights, shape)
    images = _images(3)
    for count in (1, 3):
        np.testing.assert_allclose(
            program.call(weights, images[:count]),
            folded_encoder.embed(weights, images[:count]),
            atol=1e-6,
        )
