"""The step compiled for a TPU: its cost, and the absence of the forms for XLA:CPU.

The compiler for TPUs is in `libtpu`, which `.ci/run` installs. Where it is missing, the
test that needs it is skipped.
"""

import functools
import importlib.util
import json
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arniqa_jax.inference.encoder import Encoder
from arniqa_jax.model import convolution, cpu_kernels, losses, simclr

_ROOT = pathlib.Path(__file__).parents[1]
# Of the step below for four chips (v5e:2x2), by libtpu 0.0.42.1. The bytes are those
# that the compiler counts; temporaries and code are those of one chip.
_RECORDED = {
    "compiler_bytes": 1.414e9,
    "temporaries": 32.5e6,
    "program_bytes": 32.9e6,
}
_DRIFT = 0.1
# One for each BatchNorm of the main path and direction (those of the shortcuts travel
# with others), the gradients, the sums of the loss and of the metrics; and the gathers
# of the embeddings for NT-Xent, forward and backward.
_COLLECTIVES = {"all-reduce": 37, "all-gather": 2}


def _traced() -> jax.stages.Traced:
    """Trace the gradient of the loss through ResNet-18."""
    model = simclr.SimCLR(arch="resnet18")
    variables = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False)
    )

    @jax.jit
    def gradient(variables, view_a, view_b):
        def loss(params):
            statistics = variables["batch_stats"]
            a, b, _ = simclr.embed_views(model, params, statistics, view_a, view_b)
            return losses.nt_xent(a, b)

        return jax.grad(loss)(variables["params"])

    view = jax.ShapeDtypeStruct((4, 64, 64, 3), jnp.float32)
    return gradient.trace(variables, view, view)


@functools.cache
def _program(platform: str) -> str:
    """Return the gradient, lowered for a platform."""
    return _traced().lower(lowering_platforms=(platform,)).as_text()


def _marked(function):
    """Return the function followed by tan, which marks its result in the program."""

    def with_mark(*arguments):
        return jax.tree.map(jnp.tan, function(*arguments))

    return with_mark


@pytest.mark.parametrize("name", ["convolve_reverse_only", "max_pool", "normalize"])
def test_forms_for_the_cpu_are_in_its_program_alone(name, monkeypatch):
    monkeypatch.setattr(cpu_kernels, name, _marked(getattr(cpu_kernels, name)))
    traced = _traced()
    for platform in ("cpu", "cuda", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert ("stablehlo.tan" in text) == (platform == "cpu")


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_convolutions_of_an_accelerator_are_convolutions(platform, monkeypatch):
    """And their gradients: as many, and as few other products, as with JAX's own."""

    def of_jax(x, kernel, stride, **_):
        padding = [(side // 2, side // 2) for side in kernel.shape[:2]]
        layout = ("NHWC", "HWIO", "NHWC")
        strides = (stride, stride)
        return jax.lax.conv_general_dilated(
            x, kernel, strides, padding, dimension_numbers=layout
        )

    found = _program(platform)
    monkeypatch.setattr(convolution, "convolve", of_jax)
    expected = _traced().lower(lowering_platforms=(platform,)).as_text()
    assert "stablehlo.convolution" in expected and "stablehlo.dot_general" in expected
    for product in ("stablehlo.convolution", "stablehlo.dot_general"):
        assert found.count(product) == expected.count(product)


def _precisions(text: str) -> set[str]:
    """Return the precisions of the convolutions in a lowered program."""
    lines = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert lines
    found = [set(re.findall(r"precision (\w+)", line)) for line in lines]
    assert all(found)
    return set().union(*found)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_training_is_fast_and_scoring_computes_in_float32(platform):
    """DEFAULT is bfloat16 passes on a TPU and TF32 on a GPU, HIGHEST is float32."""
    assert _precisions(_program(platform)) == {"DEFAULT"}
    module = simclr.SimCLR(arch="tiny")
    key, image = jax.random.key(0), jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(lambda: module.init(key, image, train=False))
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)
    for precision in ("highest", "default"):
        encoder = Encoder(module, variables, "tiny", precision=precision)
        traced = jax.jit(encoder.apply).trace(variables, image.astype(jnp.uint8))
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert _precisions(text) == {precision.upper()}
    assert Encoder(module, variables, "tiny").precision == "highest"


@pytest.mark.slow
def test_the_step_that_libtpu_compiles(tmp_path):
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed: no compiler for TPUs")
    file = tmp_path / "figures.json"
    done = subprocess.run(
        [
            *(sys.executable, "benchmarks/accelerators.py", "--target=v5e:2x2"),
            *("--config=configs/pretrain.py", "--config.model.arch=resnet18"),
            *("--config.model.dtype=bfloat16", "--config.data.patch_size=64"),
            *("--config.train.batch_size=16", "--what=step", "--nobundles"),
            f"--json={file}",
        ],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    step = json.loads(file.read_text())["programs"]["step"]
    figures = {**step, **step["memory"]}
    for name, recorded in _RECORDED.items():
        assert figures[name] == pytest.approx(recorded, rel=_DRIFT), name
    numbers = {kind: found["count"] for kind, found in step["collectives"].items()}
    assert numbers == pytest.approx(_COLLECTIVES, rel=_DRIFT)
