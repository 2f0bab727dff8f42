"""Measure what devices exchange in a step, and the cost of a step and of NT-Xent.

    python benchmarks/scaling.py [--arch=tiny --size=64 --devices=1,2,4,8]
        [--batch_sizes=8,16,32,64] [--rows=64,1024,4096,16384]

The devices are simulated on the CPU. So bytes are those of real devices, but times are
not, because all devices share the cores. Bytes are what a device sends, read from the
compiled program: a ring sends 2 (n - 1) / n of what it reduces and (n - 1) / n of what
it gathers. The least possible is one all-reduce of the gradients, one of two numbers
per channel and batch normalisation (forward and backward), and one all-gather of the
embeddings. Memory is XLA's plan for temporaries on one device.
"""

import argparse
import functools
import re
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from arniqa_jax.distributed import sharding
from arniqa_jax.model import losses, simclr
from arniqa_jax.training import optimizers, train_step

_MAX_DEVICES = 8
_EMBEDDING_DIM = 128
_OPTIONS = {"max_distortions": 4, "num_levels": 5, "pristine_prob": 0.05, "tile": 0}
_COLLECTIVE = re.compile(
    r"= (?P<type>\S.*?) (?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|"
    r"collective-permute|collective-broadcast)(?:-start)?\("
)
_ARRAY = re.compile(r"(pred|[a-z]+?)(\d*)\[([\d,]*)\]")


class Collective(NamedTuple):
    """One operation that devices execute together.

    Attributes:
      kind: its name in HLO, for example `all-reduce`.
      shapes: shapes of its results on one device.
      bytes: size of its results on one device.
    """

    kind: str
    shapes: tuple[tuple[int, ...], ...]
    bytes: int

    def sent(self, devices: int) -> float:
        """Return the bytes that each device of a ring sends."""
        rounds = 2 if self.kind == "all-reduce" else 1
        return rounds * (devices - 1) / devices * self.bytes


def collectives(hlo: str) -> list[Collective]:
    """Return the collectives in the text of a compiled program."""
    found = []
    for match in _COLLECTIVE.finditer(hlo):
        shapes, total = [], 0
        for _, bits, dims in _ARRAY.findall(match["type"]):
            shape = tuple(int(n) for n in dims.split(",") if n)
            shapes.append(shape)
            total += int(bits or 8) // 8 * int(np.prod(shape))  # pred is a byte
        found.append(Collective(match["kind"], tuple(shapes), total))
    return found


def mesh_of(devices: int) -> Mesh:
    """Return a mesh of the first devices, along `data`."""
    return jax.make_mesh(
        (devices,),
        ("data",),
        axis_types=(AxisType.Auto,),
        devices=jax.devices()[:devices],
    )


class Step(NamedTuple):
    """A compiled step and its arguments."""

    compiled: jax.stages.Compiled
    state: train_step.TrainState
    batch: dict[str, jax.Array]
    key: jax.Array


def compile_step(
    arch: str, size: int, batch_size: int, devices: int, batch_norm_groups: int = 1
) -> Step:
    """Return the compiled step of pre-training with SGD, for a batch of noise."""
    model = simclr.SimCLR(
        arch=arch, embedding_dim=_EMBEDDING_DIM, batch_norm_groups=batch_norm_groups
    )
    optimizer = optimizers.optimizer(
        name="sgd", schedule=lambda _: 1e-3, momentum=0.9, weight_decay=1e-4
    )
    mesh = mesh_of(devices)
    step = train_step.make_step(
        model,
        optimizer,
        lambda _: 1e-3,
        mesh,
        temperature=0.1,
        accumulation=1,
        degradation_options=_OPTIONS,
    )
    variables = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)
    state = jax.device_put(
        train_step.initial_state(variables, optimizer), sharding.replicated(mesh)
    )
    rng = np.random.default_rng(0)
    batch = {
        "images": rng.integers(256, size=(batch_size, 2, 2, size, size, 3)),
        "seed": rng.integers(2**32, size=batch_size),
        "skipped": np.zeros((batch_size, 2)),
        "stop": np.zeros(batch_size),
    }
    types = {"images": np.uint8, "seed": np.uint32}
    batch = {name: v.astype(types.get(name, np.int32)) for name, v in batch.items()}
    batch = sharding.put_batch(batch, mesh)
    key = train_step.run_key(27, mesh)
    return Step(step.lower(state, batch, key).compile(), state, batch, key)


def least_possible(step: Step) -> list[Collective]:
    """Return the collectives of a step that exchanges nothing twice."""
    batch_size = step.batch["images"].shape[0]
    parameters = sum(leaf.size for leaf in jax.tree.leaves(step.state.params))
    statistics = sum(leaf.size for leaf in jax.tree.leaves(step.state.batch_stats))
    # The tree contains both mean and variance. There are two views, each forward and
    # backward.
    return [
        Collective("all-reduce", (), 4 * parameters),
        Collective("all-reduce", (), 4 * 4 * statistics),
        Collective("all-gather", (), 4 * 4 * batch_size * _EMBEDDING_DIM),
    ]


def table_of_collectives(arguments) -> None:
    """Print what a device sends, by the number of devices."""
    batch_size = max(arguments.batch_sizes)
    print(f"\n{arguments.arch}, {batch_size} pairs: MiB that a device sends in a step")
    print("devices  operations  gradients  statistics  embeddings  other  all / least")
    for devices in arguments.devices:
        step = compile_step(arguments.arch, arguments.size, batch_size, devices)
        found = collectives(step.compiled.as_text())
        parts = split(found, step)
        least = sum(c.sent(devices) for c in least_possible(step))
        sent = [sum(c.sent(devices) for c in part) for part in parts]
        ratio = sum(sent) / least if least else 1.0
        figures = "  ".join(f"{x / 2**20:9.3f}" for x in sent)
        print(f"{devices:7}  {len(found):10}  {figures}  {ratio:11.3f}")


def split(found: list[Collective], step: Step) -> tuple[list[Collective], ...]:
    """Return the collectives of gradients, statistics, embeddings, and the rest."""
    kernels = {leaf.shape for leaf in jax.tree.leaves(step.state.params)}
    kernels = {shape for shape in kernels if len(shape) > 1}
    parts = ([], [], [], [])
    for one in found:
        if one.kind == "all-reduce" and kernels & set(one.shapes):
            parts[0].append(one)
        elif one.kind == "all-reduce" and any(one.shapes):
            parts[1].append(one)
        elif one.kind == "all-gather" and one.shapes[0][-1] == _EMBEDDING_DIM:
            parts[2].append(one)
        else:
            parts[3].append(one)
    return parts


def table_of_steps(arguments) -> None:
    """Print time and memory by batch size, on the largest number of devices."""
    devices = max(arguments.devices)
    print(f"\n{arguments.arch}, {devices} devices: a step by batch size")
    print("pairs  seconds  ms / pair  temporary MiB / device  MiB / pair")
    for batch_size in arguments.batch_sizes:
        step = compile_step(arguments.arch, arguments.size, batch_size, devices)
        memory = step.compiled.memory_analysis().temp_size_in_bytes / 2**20
        state, times = step.state, []
        for _ in range(arguments.repeats + 1):
            start = time.perf_counter()
            state, metrics, _ = step.compiled(state, step.batch, step.key)
            jax.block_until_ready(metrics)
            times.append(time.perf_counter() - start)
        seconds = min(times[1:])
        print(
            f"{batch_size:5}  {seconds:7.2f}  {1000 * seconds / batch_size:9.1f}  "
            f"{memory:22.1f}  {memory * devices / batch_size:10.2f}"
        )


def plain_nt_xent(a_ND: jax.Array, b_ND: jax.Array) -> jax.Array:
    """Return NT-Xent with all similarities at once, as it is usually written."""
    a_ND, b_ND = losses.l2_normalize(a_ND), losses.l2_normalize(b_ND)
    z_MD = jnp.concatenate([a_ND, b_ND])
    logits_MM = jnp.matmul(z_MD, z_MD.T, precision="highest") / 0.1
    logits_MM = jnp.where(jnp.eye(len(z_MD), dtype=bool), -jnp.inf, logits_MM)
    positives_N = jnp.sum(a_ND * b_ND, axis=-1) / 0.1
    return jax.nn.logsumexp(logits_MM, axis=-1).mean() - positives_N.mean()


def table_of_losses(arguments) -> None:
    """Print loss and gradient in plain form and in blocks, on one and all devices."""
    devices = max(arguments.devices)
    sharded = jax.shard_map(
        functools.partial(losses.contrast, axis="data"),
        mesh=mesh_of(devices),
        in_specs=P("data"),
        out_specs=P(),
    )
    forms = {
        "plain": plain_nt_xent,
        "blocks": losses.nt_xent,
        f"blocks x {devices}": lambda a, b: sharded(a, b).loss,
    }
    print("\nNT-Xent with its gradient; differences to plain, relative to the largest")
    print("rows 4N  form        loss        gradient diff.  seconds  MiB / device")
    for rows in arguments.rows:
        rng = np.random.default_rng(0)
        views = rng.normal(size=(2, rows // 2, _EMBEDDING_DIM)).astype(np.float32)
        expected = None
        for name, form in forms.items():
            both = jax.jit(jax.value_and_grad(form, (0, 1))).lower(*views).compile()
            times = []
            for _ in range(arguments.repeats + 1):
                start = time.perf_counter()
                loss, grads = jax.block_until_ready(both(*views))
                times.append(time.perf_counter() - start)
            grads = np.stack(grads)
            expected = grads if expected is None else expected
            difference = np.abs(grads - expected).max() / np.abs(expected).max()
            memory = both.memory_analysis().temp_size_in_bytes / 2**20
            print(
                f"{rows:7}  {name:10}  {loss:10.6f}  {difference:14.1e}  "
                f"{min(times[1:]):7.3f}  {memory:12.1f}"
            )


def main():
    """Print the three tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def numbers(text):
        return [int(number) for number in text.split(",")]

    parser.add_argument("--arch", default="tiny", help="resnet18 and so on; tiny")
    parser.add_argument("--size", type=int, default=64, help="side of a crop, pixels")
    parser.add_argument("--devices", type=numbers, default=[1, 2, 4, 8])
    parser.add_argument("--batch_sizes", type=numbers, default=[8, 16, 32, 64])
    parser.add_argument("--rows", type=numbers, default=[64, 1024, 4096, 16384])
    parser.add_argument("--repeats", type=int, default=3, help="the fastest counts")
    arguments = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", _MAX_DEVICES)
    table_of_collectives(arguments)
    table_of_steps(arguments)
    table_of_losses(arguments)


if __name__ == "__main__":
    main()
