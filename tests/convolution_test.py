"""The fast forms of the layers against the plain ones: values, gradients, init."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from arniqa_jax.model import batch_norm, convolution, cpu_kernels, plain, resnet


def _value_and_gradients(function, *arguments):
    """The result, and the gradients of its product with fixed numbers."""
    shape = jax.eval_shape(function, *arguments).shape
    numbers = np.random.default_rng(5).normal(size=shape).astype(np.float32)

    @jax.jit
    def both(arguments):
        result, gradients_of = jax.vjp(function, *arguments)
        return result, *gradients_of(numbers)

    return both(arguments)


def _assert_equal(got, expected):
    """Within 1e-5 of the largest value: the order of the sums is another."""
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(other).max())


def _plain_convolution(x, kernel, stride=1):
    margin = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), [(margin, margin)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip


@pytest.mark.parametrize("reverse_only", [False, True])
@pytest.mark.parametrize("side", [8, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [(3, 12), (12, 3)])
@pytest.mark.parametrize("size", [1, 3])
def test_convolution(size, channels, stride, side, reverse_only):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, side, side, channels[0])).astype(np.float32)
    kernel = rng.normal(size=(size, size, *channels)).astype(np.float32)

    _assert_equal(
        _value_and_gradients(
            lambda x, k: convolution.convolve(x, k, stride, reverse_only=reverse_only),
            x,
            kernel,
        ),
        _value_and_gradients(lambda x, k: _plain_convolution(x, k, stride), x, kernel),
    )


@pytest.mark.parametrize("reverse_only", [False, True])
@pytest.mark.parametrize(
    ("stride", "sides"),
    [
        pytest.param(1, (8, 8), marks=pytest.mark.slow),
        (1, (7, 9)),
        pytest.param(2, (14, 14), marks=pytest.mark.slow),
        (2, (13, 17)),
    ],
)
def test_a_convolution_in_winograds_form(stride, sides, reverse_only):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *sides, 64)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 64, 65)).astype(np.float32)
    _assert_equal(
        _value_and_gradients(
            lambda x, k: convolution.convolve(x, k, stride, reverse_only=reverse_only),
            x,
            kernel,
        ),
        _value_and_gradients(lambda x, k: _plain_convolution(x, k, stride), x, kernel),
    )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 3])
def test_a_bfloat16_convolution(size, stride):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 14, 14, 64)), jnp.bfloat16)
    kernel = jnp.asarray(rng.normal(size=(size, size, 64, 64)), jnp.bfloat16)
    function = jax.jit(lambda x, k: convolution.convolve(x, k, stride))
    got = function(x, kernel)
    assert got.dtype == jnp.bfloat16
    expected = _plain_convolution(
        x.astype(jnp.float32), kernel.astype(jnp.float32), stride
    )
    np.testing.assert_allclose(
        got.astype(jnp.float32), expected, atol=0.01 * np.abs(expected).max()
    )
    # XLA:CPU uses bfloat16 instructions only for products with a float32 result.
    text = function.lower(x, kernel).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert products
    for line in products:
        operands, result = line.rsplit(": ", 1)[1].split(" -> ")
        assert operands.count("xbf16>") == 2 and result.endswith("xf32>")


def test_a_stem_whose_gradient_is_products():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 15, 14, 3)).astype(np.float32)
    kernel = rng.normal(size=(7, 7, 3, 64)).astype(np.float32)
    _assert_equal(
        _value_and_gradients(
            lambda x, k: convolution.convolve(x, k, 2, reverse_only=True), x, kernel
        ),
        _value_and_gradients(lambda x, k: _plain_convolution(x, k, 2), x, kernel),
    )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("sides", [(1, 1), (1, 4), (3, 2), (5, 6), (7, 8)])
def test_winograds_form_of_any_size(sides, stride):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *sides, 3)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 3, 2)).astype(np.float32)
    got = cpu_kernels.winograd(x, kernel, stride)
    expected = _plain_convolution(x, kernel, stride)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, atol=1e-5)


def _program(platform, shape=(2, 7, 7, 64), channels=64, stride=1, dtype="float32"):
    """A lowered 3x3 convolution."""
    x = jax.ShapeDtypeStruct(shape, dtype)
    kernel = jax.ShapeDtypeStruct((3, 3, shape[-1], channels), dtype)
    traced = jax.jit(convolution.convolve, static_argnums=2).trace(x, kernel, stride)
    return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize("stride", [1, 2])
def test_winograds_form_is_of_cpus_alone(platform, stride):
    program = _program(platform, (2, 14, 14, 64), stride=stride)
    assert ("stablehlo.convolution" in program) == (platform != "cpu")
    assert ("stablehlo.dot_general" in program) == (platform == "cpu")


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize(("of", "stride"), [("x", 1), ("kernel", 1), ("kernel", 2)])
def test_gradients_as_products_are_of_cpus_alone(platform, of, stride):
    shapes = {"x": (2, 14, 14, 64), "kernel": (3, 3, 64, 64)}
    gradient = jax.grad(
        lambda arrays: convolution.convolve(
            arrays["x"], arrays["kernel"], stride, reverse_only=True
        ).sum()
    )
    structs = {
        name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in shapes.items()
    }
    traced = jax.jit(lambda arrays: gradient(arrays)[of]).trace(structs)
    program = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.convolution" in program) == (platform != "cpu")
    assert ("stablehlo.dot_general" in program) == (platform == "cpu")
    # A transposed kernel would be transposed again in each of Winograd's products.
    if (platform, of) == ("cpu", "x"):
        assert "stablehlo.transpose" not in program


@pytest.mark.parametrize(
    "other",
    [
        {"shape": (2, 7, 7, 63)}, {"channels": 63}, {"shape": (2, 6, 8, 64)},
        {"stride": 2},
    ],
    ids=str,
)  # fmt: skip
def test_winograds_form_is_not_where_it_would_not_pay(other):
    assert "stablehlo.convolution" in _program("cpu", **other)


@pytest.mark.parametrize("size", [1, 3, 7])
def test_a_convolution_starts_as_one_of_linen(size):
    ours = convolution.Conv(8, size, 2, name="conv")
    linens = nn.Conv(
        8, (size, size), 2, size // 2, use_bias=False, name="conv",
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
    )  # fmt: skip
    x = jnp.ones((1, 8, 8, 4))
    got, expected = (m.init(jax.random.key(3), x) for m in (ours, linens))
    jax.tree.map(np.testing.assert_array_equal, got, expected)


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (1, 7, 9, 2)])
@pytest.mark.parametrize("form", [cpu_kernels.max_pool, convolution.max_pool])
def test_max_pool(form, shape):
    # Few different values, so that nearly every window has a tie.
    x = np.random.default_rng(0).integers(-2, 2, shape).astype(np.float32)
    _assert_equal(
        _value_and_gradients(form, x),
        _value_and_gradients(plain.max_pool, x),
    )


def test_max_pool_passes_on_what_is_not_a_number():
    x = np.zeros((1, 4, 4, 1), np.float32)
    x[0, 1, 1] = np.nan
    expected = np.isnan(plain.max_pool(x))
    assert expected.sum() == 4
    np.testing.assert_array_equal(np.isnan(convolution.max_pool(x)), expected)


@pytest.mark.parametrize("groups", [1, 2])
def test_batch_norm_and_relu(groups):
    rng = np.random.default_rng(0)
    x = rng.normal(1, 2, (4, 5, 5, 3)).astype(np.float32)
    scale, bias = rng.normal(size=(2, 3)).astype(np.float32)
    scale += 1

    def ours(x, scale, bias):
        norm = batch_norm.BatchNorm(groups=groups)
        variables = {
            "params": {"scale": scale, "bias": bias},
            "batch_stats": {"mean": jnp.zeros(3), "var": jnp.ones(3)},
        }
        y, _ = norm.apply(variables, x, train=True, mutable=["batch_stats"])
        return nn.relu(y)

    def derived(x, scale, bias):
        grouped = x.reshape(groups, -1, 3)
        mean = grouped.mean(1, keepdims=True)
        deviation = jnp.sqrt(grouped.var(1, keepdims=True) + 1e-5)
        h = ((grouped - mean) / deviation).reshape(x.shape)
        row = (1, 1, 1, 3)
        return nn.relu(h * scale.reshape(row) + bias.reshape(row))

    arguments = (x, scale, bias)
    _assert_equal(
        _value_and_gradients(ours, *arguments),
        _value_and_gradients(derived, *arguments),
    )


@pytest.mark.slow
def test_rematerialisation_changes_memory_only():
    """The same parameters by name and value, the same gradients."""
    x = jax.random.uniform(jax.random.key(1), (2, 32, 32, 3))
    results, convolutions = {}, []
    for rematerialize in (False, True):
        model = resnet.ResNet(resnet.ARCHITECTURES["tiny"], rematerialize=rematerialize)
        init = jax.jit(model.init, static_argnames="train")
        variables = init(jax.random.key(0), x, train=False)

        def loss(params, model=model, variables=variables):
            y, updated = model.apply(
                {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
            )
            return (y**2).sum(), updated

        gradient = jax.jit(jax.grad(loss, has_aux=True))
        program = gradient.lower(variables["params"]).as_text()
        convolutions.append(program.count("stablehlo.convolution"))
        results[rematerialize] = (variables, gradient(variables["params"]))
    # The blocks are computed again for the gradients.
    assert convolutions[1] > convolutions[0]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        *results.values(),
    )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 3])
def test_forward_mode_agrees_with_reverse_mode(size, stride):
    rng = np.random.default_rng(0)
    x, direction = rng.normal(size=(2, 2, 8, 8, 64)).astype(np.float32)
    kernel = rng.normal(size=(size, size, 64, 64)).astype(np.float32)

    def total(x):
        return jnp.sum(jnp.square(convolution.convolve(x, kernel, stride)))

    _, forward = jax.jvp(total, (x,), (direction,))
    reverse = jnp.sum(jax.grad(total)(x) * direction)
    np.testing.assert_allclose(forward, reverse, rtol=1e-4)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_each_platform_gets_its_form_of_max_pooling_alone(platform):
    @jax.jit
    def gradient(x):
        return jax.grad(lambda x: convolution.max_pool(x).sum())(x)

    x = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
    program = gradient.trace(x).lower(lowering_platforms=(platform,)).as_text()
    # The other form is not there, not even behind a choice at run time.
    assert ("select_and_scatter" in program) == (platform != "cpu")
    assert ("stablehlo.select " in program) == (platform == "cpu")
