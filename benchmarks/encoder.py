"""The encoder's part of `benchmarks/step.py`: PyTorch as a baseline, and memory.

    python benchmarks/encoder.py [--torch_python=INTERPRETER]

Run as a script, it prints the comparison: ResNet-50 in training mode at 224 px, with 16
images (--images).
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

_ROOT = pathlib.Path(__file__).parents[1]
_ROUNDS = 2
_SIZE = 224
_SIDES = {
    "ours float32": "float32",
    "ours bfloat16": "bfloat16",
    "PyTorch float32, channels first": "float32 first",
    "PyTorch float32, channels last": "float32 last",
    "PyTorch bfloat16, channels first": "bfloat16 first",
    "PyTorch bfloat16, channels last": "bfloat16 last",
}


def main() -> None:
    """Print the comparison; or, as a child process, print one measurement."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torch_python", default=sys.executable)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--side", choices=list(_SIDES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        measure = _measure_ours if "ours" in arguments.side else _measure_torch
        print(json.dumps(measure(arguments.images, *_SIDES[arguments.side].split())))
        return
    print_yardstick(yardstick(arguments.torch_python, arguments.images))


def yardstick(torch_python: str, images: int = 16) -> dict[str, dict[str, float]]:
    """Return images per second of both sides, `forward` and `forward + backward`."""
    sides = list(_SIDES)
    with_torch = [torch_python, "-c", "import torch"]
    if subprocess.run(with_torch, capture_output=True).returncode:
        print("\nPyTorch is not installed: measuring only this package", flush=True)
        sides = [side for side in sides if "ours" in side]
    best = {side: {} for side in sides}
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
        environment["JAX_COMPILATION_CACHE_DIR"] = cache
        for side in sides * _ROUNDS:
            python = sys.executable if "ours" in side else torch_python
            done = subprocess.run(
                [python, __file__, f"--side={side}", f"--images={images}"],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                env=environment,
            )
            for name, rate in json.loads(done.stdout.splitlines()[-1]).items():
                best[side][name] = max(rate, best[side].get(name, 0))
    return best


def print_yardstick(best: dict[str, dict[str, float]]) -> None:
    """Print the rates, and the ratio of ours to each rate of the same dtype."""
    print(f"\nResNet-50, {_SIZE} px, training mode, images a second (in brackets, ours")
    print(f"{'of the same type over it)':34}{'forward':>10}{'':9}forward + backward")
    for side, rates in best.items():
        ours = best[f"ours {_SIDES[side].split()[0]}"]
        cells = "".join(
            f"{rate:10.1f}" + (f" ({ours[name] / rate:5.2f})" if rates != ours else "")
            for name, rate in rates.items()
        )
        print(f"{side:34}{cells}")


def _rates(images: int, forward, gradient) -> dict[str, float]:
    rates = {}
    for name, function in (("forward", forward), ("forward + backward", gradient)):
        function()
        times = []
        for _ in range(3):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        rates[name] = images / min(times)
    return rates


def _measure_ours(images: int, dtype: str) -> dict[str, float]:
    import jax
    import jax.numpy as jnp

    from arniqa_jax.model import resnet

    model = resnet.ResNet(resnet.ARCHITECTURES["resnet50"], dtype=jnp.dtype(dtype))
    x = jax.random.normal(jax.random.key(0), (images, _SIZE, _SIZE, 3))
    x = x.astype(dtype)
    variables = jax.jit(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)
    )()

    @jax.jit
    def forward(variables, x):
        return model.apply(variables, x, train=True, mutable=["batch_stats"])

    @jax.jit
    def gradient(variables, x):
        def loss(params):
            features, updated = forward({**variables, "params": params}, x)
            return features.mean(), updated

        return jax.value_and_grad(loss, has_aux=True)(variables["params"])

    return _rates(
        images,
        lambda: jax.block_until_ready(forward(variables, x)),
        lambda: jax.block_until_ready(gradient(variables, x)),
    )


def _measure_torch(images: int, dtype: str, layout: str) -> dict[str, float]:
    import torch

    sys.path.append(str(_ROOT / "tests" / "golden"))
    import plain_resnet

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    order = {"first": torch.contiguous_format, "last": torch.channels_last}[layout]
    model = plain_resnet.ResNet50().train().to(device, memory_format=order)
    x = torch.randn(images, 3, _SIZE, _SIZE, device=device).to(memory_format=order)

    def forward():
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            return model(x)

    def finish():
        if device == "cuda":
            torch.cuda.synchronize()

    def forward_alone():
        with torch.no_grad():
            forward()
        finish()

    def gradient():
        model.zero_grad()
        forward().mean().backward()
        finish()

    return _rates(images, forward_alone, gradient)


def _bytes_by_arithmetic(config) -> dict[str, int]:
    """Return the bytes that the gradient stores per pair, by the shapes of the layers.

    Each convolution stores its result and the result of BatchNorm and ReLU. For the
    last convolution of a block, ReLU follows the sum. With rematerialisation, each
    block stores its result, and one block at a time also stores its inner activations.
    """
    from arniqa_jax.model import resnet

    block, stages, width = resnet.ARCHITECTURES[config.model.arch]
    side = -(-config.data.patch_size // 2)
    stem = 2 * side**2 * width
    side = -(-side // 2)
    results, insides = [side**2 * width], []
    channels = width
    for stage, blocks in enumerate(stages):
        for index in range(blocks):
            stride = 2 if stage and not index else 1
            narrow, wide = width * 2**stage, width * 2**stage * block.expansion
            out = -(-side // stride)
            inside = 2 * out**2 * narrow + out**2 * wide
            if block is resnet.Bottleneck:
                inside += 2 * side**2 * narrow
            if stride > 1 or channels != wide:
                inside += out**2 * wide
            insides.append(inside)
            results.append(out**2 * wide)
            side, channels = out, wide
    item = np.dtype("float32").itemsize if config.model.dtype == "float32" else 2
    crops = 4
    kept = stem + sum(results)
    return {
        "everything kept": crops * item * (kept + sum(insides)),
        "rematerialised": crops * item * (kept + max(insides)),
    }


def activations(config, state) -> dict[str, dict[str, float]]:
    """Return the bytes per pair by arithmetic and by the compiler, and batch sizes.

    The compiler's figure is the growth of the gradient's temporaries from 2 to 4 pairs.
    The batch sizes are those that should fit each device.
    """
    import jax

    from arniqa_jax.model import losses
    from arniqa_jax.training import train_step
    from arniqa_jax.weights import encoders

    table = {}
    constant = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    constant += sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))  # gradients
    for name, arithmetic in _bytes_by_arithmetic(config).items():
        changed = config.copy_and_resolve_references()
        changed.model.rematerialize = name == "rematerialised"
        model = encoders.build_model(changed)

        def gradient(state, a, b, model=model):
            return train_step._gradients(model, state, a, b, losses.contrast, 1)

        planned = []
        for pairs in (2, 4):
            size = config.data.patch_size
            view = jax.ShapeDtypeStruct((2 * pairs, size, size, 3), "float32")
            compiled = jax.jit(gradient).lower(state, view, view).compile()
            planned.append(compiled.memory_analysis().temp_size_in_bytes)
        by_compiler = (planned[1] - planned[0]) / 2
        table[name] = {"arithmetic": arithmetic, "compiler": by_compiler}
        for gigabytes in (16, 40, 80):
            free = 0.9 * gigabytes * 1e9 - constant
            fitting = int(free // max(arithmetic, by_compiler))
            table[name][f"pairs in {gigabytes} GB"] = fitting
    return table


def print_activations(table: dict[str, dict[str, float]]) -> None:
    """Print MB per pair; the batches are estimates that were not tried on a device."""
    print("\nmemory of a pair (2 views x 2 scales), and an ESTIMATE of the pairs that")
    print("fit a device: 90 % of it, less the state and the gradients")
    for name, row in table.items():
        print(
            f"{name:18}{row['arithmetic'] / 1e6:8.0f} MB by arithmetic"
            f"{row['compiler'] / 1e6:8.0f} MB by this backend's compiler",
            *(f"{pairs} in {key.split('pairs in ')[1]}" for key, pairs in row.items()
              if key.startswith("pairs")),
            sep="  ",
        )  # fmt: skip


if __name__ == "__main__":
    main()
