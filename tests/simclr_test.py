"""The model: what is normalised, in which order statistics move, which dtypes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arniqa_jax import errors
from arniqa_jax.inference.encoder import Encoder
from arniqa_jax.model import simclr


def _model(**fields) -> simclr.SimCLR:
    return simclr.SimCLR(arch="tiny", embedding_dim=16, **fields)


def _variables(model):
    """Random kernels; all else as `init` gives it, which takes seconds to compile."""
    image = jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), image, train=False))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key == "kernel":
            values = rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))
            return jnp.asarray(values, jnp.float32)
        return jnp.full(leaf.shape, float(path[-1].key in ("scale", "var")))

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture(scope="module")
def images():
    return jax.random.uniform(jax.random.key(1), (6, 32, 32, 3))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_outputs_are_float32_rows_of_length_one(dtype, images):
    model = _model(dtype=dtype)
    variables = _variables(model)
    for output in model.apply(variables, images, train=False):
        assert output.dtype == jnp.float32
        np.testing.assert_allclose(jnp.linalg.norm(output, axis=-1), 1, rtol=1e-5)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_bfloat16_is_what_convolutions_and_products_compute_in(images):
    model = _model(dtype="bfloat16")
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    program = jax.jit(lambda v: model.apply(v, images, train=False)).lower(shapes)
    for operation in ("convolution", "dot_general"):
        lines = [
            line
            for line in program.as_text().splitlines()
            if f"stablehlo.{operation}" in line
        ]
        assert lines
        # On a CPU the sums of a product are float32.
        operands = [line.rsplit(": ", 1)[1].split("->")[0] for line in lines]
        assert all("bf16" in types and "xf32" not in types for types in operands)


def test_the_projector_sees_normalised_features_where_asked(images):
    outputs = {}
    for normalize in (True, False):
        model = _model(normalize_features=normalize)
        variables = _variables(model)
        # A projector that copies the first features, without bias.
        for name, shape in (("projector_0", (64, 64)), ("projector_2", (64, 16))):
            variables["params"][name]["kernel"] = jnp.eye(*shape)
            variables["params"][name]["bias"] = jnp.ones(shape[1])
        apply = jax.jit(functools.partial(model.apply, train=False))
        features, outputs[normalize] = apply(variables, images)
        if normalize:
            expected = features[:, :16] + 2  # both biases; features are not negative
            expected /= jnp.linalg.norm(expected, axis=1, keepdims=True)
            np.testing.assert_allclose(outputs[True], expected, atol=1e-6)
    assert np.abs(outputs[True] - outputs[False]).max() > 1e-3


def test_running_statistics_move_with_view_a_then_with_view_b(images):
    model = _model(projector_norm="batch")
    variables = _variables(model)
    a, b = images[:3], images[3:]
    embed = jax.jit(functools.partial(simclr.embed_views, model, *_parts(variables)))
    z_a, z_b, statistics = embed(a, b)
    swapped_b, swapped_a, swapped = embed(b, a)
    # Each view is normalised by its own batch: the order changes no embedding ...
    np.testing.assert_allclose(z_a, swapped_a, atol=1e-6)
    np.testing.assert_allclose(z_b, swapped_b, atol=1e-6)
    # ... and the statistics, 0 at the start, become 0.09 first + 0.1 second.
    batch_a, batch_b = (_mean(embed(x, x)[2]) / 0.19 for x in (a, b))
    np.testing.assert_allclose(
        _mean(statistics), 0.09 * batch_a + 0.1 * batch_b, atol=1e-5
    )
    np.testing.assert_allclose(
        _mean(swapped), 0.09 * batch_b + 0.1 * batch_a, atol=1e-5
    )


def _parts(variables):
    return variables["params"], variables["batch_stats"]


def _mean(statistics):
    return statistics["encoder"]["bn1"]["mean"]  # 0 at the start


@pytest.mark.parametrize(
    ("field", "value"),
    [("arch", "resnet51"), ("dtype", "float16"), ("projector_norm", "layer")],
)
def test_unknown_values_are_named(field, value):
    with pytest.raises(errors.UsageError, match=f"model.{field}='{value}'"):
        simclr.SimCLR(**{field: value})


def test_an_encoder_takes_bytes_and_is_identified_by_its_bits(images):
    model = _model()
    variables = _variables(model)
    encoder = Encoder(model, variables, "first")
    as_bytes = jnp.round(images * 255).astype(jnp.uint8)
    features, _ = model.apply(
        variables, as_bytes.astype(jnp.float32) / 255, train=False
    )
    np.testing.assert_allclose(encoder.apply(variables, as_bytes), features, atol=1e-6)
    assert encoder.feature_dim == features.shape[1] == 64
    same = Encoder(model, jax.tree.map(jnp.array, variables), "second")
    assert same.fingerprint == encoder.fingerprint
    variables["params"]["encoder"]["bn1"]["bias"] += 1e-7
    changed = Encoder(model, variables, "third")
    assert changed.fingerprint != same.fingerprint
