"""The encoder's topology, and BatchNorm against PyTorch's rules written in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arniqa_jax import errors
from arniqa_jax.model import convolution, resnet


@pytest.mark.parametrize(
    ("arch", "parameters", "features"),
    [
        # torchvision's published counts less those of `fc`.
        ("resnet18", 11_689_512 - 513_000, 512),
        ("resnet34", 21_797_672 - 513_000, 512),
        ("resnet50", 25_557_032 - 2_049_000, 2048),
    ],
)
def test_number_of_parameters(arch, parameters, features):
    model = resnet.ResNet(resnet.ARCHITECTURES[arch])
    variables = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False)
    )
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert count == parameters
    assert resnet.ARCHITECTURES[arch].feature_dim == features


def test_names_map_to_those_of_torchvision():
    model = resnet.ResNet(resnet.ARCHITECTURES["resnet50"])
    variables = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False)
    )
    block = variables["params"]["layer2_0"]
    assert block["downsample_0"]["kernel"].shape == (1, 1, 256, 512)
    assert block["conv2"]["kernel"].shape == (3, 3, 128, 128)
    assert sorted(block) == [
        *("bn1", "bn2", "bn3", "conv1", "conv2", "conv3"),
        *("downsample_0", "downsample_1"),
    ]


def test_strided_convolution_pads_on_both_sides_as_pytorch_does():
    conv = convolution.Conv(1, 3, 2)
    image = jnp.arange(16.0).reshape(1, 4, 4, 1)
    corner = jnp.zeros((3, 3, 1, 1)).at[0, 0].set(1)  # reads the pixel above and left
    out = conv.apply({"params": {"kernel": corner}}, image)
    # Output (i, j) reads pixel (2i - 1, 2j - 1); TensorFlow's SAME would read (2i, 2j).
    np.testing.assert_array_equal(out[0, :, :, 0], [[0, 0], [0, 5]])


def _normalise(x, **attributes):
    norm = resnet.BatchNorm(**attributes)
    variables = norm.init(jax.random.key(0), x, train=False)
    return norm.apply(variables, x, train=True, mutable=["batch_stats"])


def test_batch_norm_normalises_and_keeps_the_unbiased_variance():
    x = np.random.default_rng(0).normal(3, 2, (4, 5, 6, 2)).astype(np.float32)
    y, updated = _normalise(x)
    flat = x.reshape(-1, 2).astype(np.float64)
    expected = (flat - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)
    np.testing.assert_allclose(y.reshape(-1, 2), expected, atol=1e-5)
    statistics = updated["batch_stats"]
    np.testing.assert_allclose(statistics["mean"], 0.1 * flat.mean(0), rtol=1e-5)
    unbiased = 0.9 + 0.1 * flat.var(0, ddof=1)
    np.testing.assert_allclose(statistics["var"], unbiased, rtol=1e-5)


def test_batch_norm_groups_are_normalised_apart():
    x = np.random.default_rng(0).normal(size=(6, 3, 3, 2)).astype(np.float32)
    x[3:] += 10
    y, updated = _normalise(x, groups=2)
    for half in (slice(0, 3), slice(3, 6)):
        alone, _ = _normalise(x[half])
        np.testing.assert_allclose(y[half], alone, atol=1e-6)
    mean = 0.1 * x.mean((0, 1, 2))
    np.testing.assert_allclose(updated["batch_stats"]["mean"], mean, rtol=1e-5)


def test_batch_norm_views_are_as_if_one_came_after_the_other():
    x = np.random.default_rng(0).normal(size=(8, 3, 3, 2)).astype(np.float32)
    x[1::2] += 10
    y, updated = _normalise(x, views=2, groups=2)
    statistics, norm = None, resnet.BatchNorm(groups=2)
    for view in (0, 1):
        alone, once = _normalise(x[view::2], groups=2)
        np.testing.assert_allclose(y[view::2], alone, atol=1e-6)
        if view == 1:
            variables = {"params": {"scale": jnp.ones(2), "bias": jnp.zeros(2)}}
            _, once = norm.apply(
                variables | statistics, x[1::2], train=True, mutable=["batch_stats"]
            )
        statistics = once
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), updated, statistics
    )


def test_batch_norm_groups_that_do_not_divide_are_an_error():
    with pytest.raises(errors.UsageError, match=r"groups=4 must divide .* 6"):
        _normalise(np.ones((6, 2, 2, 1), np.float32), groups=4)


def test_batch_norm_in_evaluation_uses_the_running_statistics():
    x = np.random.default_rng(0).normal(size=(2, 3, 3, 2)).astype(np.float32)
    variables = {
        "params": {"scale": jnp.array([1.0, 2.0]), "bias": jnp.array([0.0, 1.0])},
        "batch_stats": {"mean": jnp.array([1.0, 0.5]), "var": jnp.array([4.0, 0.25])},
    }
    y = resnet.BatchNorm().apply(variables, x, train=False)
    expected = (x - [1, 0.5]) / np.sqrt(np.array([4, 0.25]) + 1e-5) * [1, 2] + [0, 1]
    np.testing.assert_allclose(y, expected, atol=1e-5)
