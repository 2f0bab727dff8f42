"""Guards of the step's speed: its lowered programs, and its transfers.

The programs are lowered from shapes, not compiled. No test depends on time.
"""

import importlib
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arniqa_jax import config_files
from arniqa_jax.distributed import sharding
from arniqa_jax.model import losses, simclr
from arniqa_jax.training import loop, optimizers, throughput, train_step
from arniqa_jax.weights import encoders
from benchmarks import soak
from configs import pretrain


def _make_step(config):
    """The step of a config on one device, and the shapes of its arguments."""
    model = encoders.build_model(config)
    schedule = optimizers.learning_rate_schedule(
        **config.schedule, learning_rate=config.optimizer.learning_rate,
        batch_size=config.train.batch_size, steps_per_epoch=10, total_steps=100,
    )  # fmt: skip
    optimizer = optimizers.optimizer(
        name=config.optimizer.name, schedule=schedule,
        momentum=config.optimizer.momentum, weight_decay=config.optimizer.weight_decay,
    )  # fmt: skip
    mesh = jax.make_mesh(
        (1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,),
        devices=jax.devices()[:1],
    )  # fmt: skip
    step = train_step.make_step(
        model, optimizer, schedule, mesh, temperature=config.loss.temperature,
        accumulation=config.train.accumulation,
        degradation_options=dict(**config.degradation),
    )  # fmt: skip
    state = jax.eval_shape(
        lambda variables: train_step.initial_state(variables, optimizer),
        encoders.abstract_variables(model),
    )
    batch = train_step.abstract_batch(config.train.batch_size, config.data.patch_size)
    return step, (state, batch, jax.eval_shape(lambda: jax.random.key(0)))


def _config(name: str):
    return importlib.import_module(f"configs.{name}").get_config()


# `evaluate` trains nothing.
@pytest.mark.parametrize("name", sorted({*config_files.names()} - {"evaluate"}))
def test_the_program_of_a_config(name):
    """One trace; the state is donated; the program never talks to the host."""
    config = _config(name)
    config.update_from_flattened_dict(
        {"model.arch": "tiny", "data.patch_size": 64, "train.batch_size": 16}
    )
    step, arguments = _make_step(config)
    traced = step.trace(*arguments)
    assert step.trace(*arguments).jaxpr is traced.jaxpr  # the first one, kept
    text = traced.lower().as_text()
    state = jax.tree.leaves(arguments[0])
    main = re.search(r"func.func public @main\((.*?)\) ->", text, re.DOTALL)[1]
    assert main.count("tf.aliasing_output") == len(state)
    for talk in ("callback", "infeed", "outfeed", "stablehlo.send"):
        assert talk not in text
    # The images come as bytes, once.
    assert main.count("xui8>") == 1


def test_bfloat16_leaves_float32_products_to_the_loss():
    """In the forward and the backward pass of the pod's model, a ResNet-50."""
    pairs = 12  # 48 embeddings: no other axis has this length
    model = encoders.build_model(_config("pod"))
    assert (model.arch, model.dtype) == ("resnet50", "bfloat16")
    state = jax.eval_shape(
        lambda variables: train_step.TrainState(0, **variables, opt_state=()),
        encoders.abstract_variables(model),
    )
    view = jax.ShapeDtypeStruct((2 * pairs, 64, 64, 3), jnp.float32)
    text = (
        jax.jit(
            lambda s, a, b: train_step._gradients(model, s, a, b, losses.contrast, 1)
        )
        .lower(state, view, view)
        .as_text()
    )
    products = re.findall(
        r"stablehlo\.(convolution|dot_general).* : (\(.*\) -> .*)", text
    )
    wide = [types for _, types in products if "f32" in types.replace("bf16", "")]
    assert 0 < len(wide) < len(products)
    assert all(f"{4 * pairs}x" in types for types in wide)


@pytest.mark.slow
def test_the_loop_sends_the_batch_and_fetches_the_metrics(monkeypatch, tmp_path):
    """Each once a step, explicitly; anything else on the way is an error."""
    config = pretrain.get_config()
    config.update_from_flattened_dict(
        {
            "data.patch_size": 64,
            "data.workers": 0,
            "model.arch": "tiny",
            "model.init": "random",
            "train.batch_size": 8,
            "train.steps": 5,
            "train.picture_every": 0,
            "train.checkpoint_every": 100,
            "evaluation.every_epochs": 0,
            "evaluation.datasets": "csv:scored/table.csv",
            "evaluation.root": str(tmp_path),
            "evaluation.figures": False,
        }
    )
    soak.write_scored(tmp_path / "scored")
    calls = []
    make_step, put, get = train_step.make_step, sharding.put_batch, jax.device_get

    def make_guarded_step(*args, **options):
        step = make_step(*args, **options)

        def lower(*abstract):
            calls.append("compile")
            compiled = step.lower(*abstract).compile()

            def run(*arguments):
                with pytest.raises(Exception, match="Disallowed host-to-device"):
                    jnp.add(np.ones(3), 1)
                calls.append("step")
                return compiled(*arguments)

            return types.SimpleNamespace(compile=lambda: run)

        return types.SimpleNamespace(lower=lower)

    monkeypatch.setattr(train_step, "make_step", make_guarded_step)
    monkeypatch.setattr(
        sharding, "put_batch", lambda *a: (calls.append("put"), put(*a))[1]
    )
    monkeypatch.setattr(jax, "device_get", lambda x: (calls.append("get"), get(x))[1])
    assert loop.run(config, tmp_path / "run") == 0
    # Compiled once. The metrics of a step are fetched when the next one is under way.
    expected = ["compile", "put", "step", *["put", "step", "get"] * 4, "get"]
    training, evaluation = calls[: len(expected)], calls[len(expected) :]
    assert training == expected
    assert "step" not in evaluation


def test_flops_of_resnet50_by_hand():
    """Products and sums of all convolutions and of the projector."""

    def convolution(side, stride, size, inputs, outputs):
        return 2 * (side // stride) ** 2 * size**2 * inputs * outputs

    flops = convolution(224, 2, 7, 3, 64)
    inputs, side = 64, 56
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 * 2**stage
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            flops += convolution(side, 1, 1, inputs, width)
            flops += convolution(side, stride, 3, width, width)
            if not block:
                flops += convolution(side, stride, 1, inputs, 4 * width)
            side //= stride
            inputs = 4 * width
            flops += convolution(side, 1, 1, width, inputs)
    # What the literature gives for ResNet-50 without its classifier.
    assert flops == pytest.approx(2 * 4.09e9, rel=1e-3)
    flops += 2 * 2048 * (2048 + 128)  # the projector
    assert throughput.model_flops(simclr.SimCLR(), 224) == flops


def test_flops_are_counted_where_the_compiler_gives_no_count(monkeypatch):
    """On a GPU `Lowered.cost_analysis` is None."""
    monkeypatch.setattr(jax.stages.Lowered, "cost_analysis", lambda _: None)
    assert throughput.model_flops(simclr.SimCLR(arch="tiny"), 64) > 1e6


def test_share_of_peak(monkeypatch):
    model = simclr.SimCLR(arch="tiny", dtype="bfloat16")

    here = sharding.make_mesh()
    meter = throughput.Throughput(model, 64, 32, here)
    # The peak of a CPU is not known.
    assert meter.of(0.5) == {"seconds": 0.5, "images_per_second": 64}
    monkeypatch.setattr(throughput, "peak_flops", lambda *_: 312e12)
    fields = throughput.Throughput(model, 64, 32, here).of(0.5)
    flops = 3 * 32 * throughput.model_flops(model, 64)
    assert fields["images_per_second"] == 64
    assert fields["share_of_peak"] == pytest.approx(flops / 0.5 / (8 * 312e12))


@pytest.mark.parametrize(
    ("kind", "dtype", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989e12),
        ("NVIDIA H100 PCIe", "bfloat16", 756e12),
        ("Tesla V100-SXM2-16GB", "float32", 15.7e12),
        ("Tesla V100-SXM2-16GB", "bfloat16", None),
        ("TPU v5 lite", "bfloat16", 197e12),
        ("TPU v5p", "bfloat16", 459e12),
        ("cpu", "float32", None),
    ],
)
def test_peaks(kind, dtype, expected):
    assert throughput.peak_flops(kind, dtype) == expected
