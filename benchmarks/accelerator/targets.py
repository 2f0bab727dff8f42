"""Accelerators that programs can be compiled for, on a machine without one.

A target is named by its kind and its shape: `v5e:2x4`, `v6e:16x16`, `h100`. The
compilers come from packages: `libtpu` for TPUs, the plugin for CUDA for the H100.
"""

import dataclasses
import difflib
import importlib.util
import os
import re

import numpy as np

from arniqa_jax import errors

# Sources: cloud.google.com/tpu/docs (v4, v5e, v5p, v6e: memory, its bandwidth, and the
# bandwidth between chips, over all links and both directions); NVIDIA's H100 data sheet
# (SXM). The clock of a TPU is that of the compiler's cycles.
_GB = 10**9


@dataclasses.dataclass(frozen=True)
class Chip:
    """The figures of one device.

    Attributes:
      memory: bytes of HBM.
      bandwidth: bandwidth of the HBM, bytes per second.
      clock: cycles per second.
      interconnect: bytes per second between the chips, over all links of a chip.
      accelerator: libtpu's name of a slice of these chips; empty for a GPU.
      cores: cores per chip that count in the name of a slice.
      dimensions: number of dimensions of a slice's shape.
    """

    memory: int
    bandwidth: float
    clock: float
    interconnect: float
    accelerator: str = ""
    cores: int = 1
    dimensions: int = 2


CHIPS = {
    "v4": Chip(32 * 2**30, 1228 * _GB, 1.05e9, 300 * _GB, "v4", 2, 3),
    "v5e": Chip(16 * 2**30, 819 * _GB, 1.5e9, 200 * _GB, "v5litepod"),
    "v5p": Chip(95 * 2**30, 2765 * _GB, 1.75e9, 600 * _GB, "v5p", 2, 3),
    "v6e": Chip(32 * 2**30, 1640 * _GB, 1.75e9, 448 * _GB, "v6e"),
    "h100": Chip(80 * 2**30, 3352 * _GB, 1.98e9, 900 * _GB),
}
# XLA compiles for this description. The fields are those of XLA's
# `GpuTargetConfigProto`, the values are NVIDIA's for the H100 SXM5.
_H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  device_memory_size: 84943110144
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 10 }
"""
_EXAMPLES = "v5e:2x4, v5e:8x8, v6e:16x16, v5p:2x2x2, h100"


@dataclasses.dataclass(frozen=True)
class Target:
    """A number of chips to compile for.

    Attributes:
      name: the name as given.
      kind: a key of `CHIPS`.
      shape: shape of the slice, such as (2, 4); for GPUs, their number.
    """

    name: str
    kind: str
    shape: tuple[int, ...]

    @property
    def chip(self) -> Chip:
        """One device of the target."""
        return CHIPS[self.kind]

    @property
    def is_tpu(self) -> bool:
        """Whether the target consists of TPUs."""
        return bool(self.chip.accelerator)

    def mesh(self, devices: int | None = None):
        """Return a mesh of the target, or of its first devices, along `data`.

        Raises:
          UsageError: the compiler does not know this topology.
        """
        import jax
        from jax.experimental import topologies

        try:
            if self.is_tpu:
                sides = "x".join(map(str, self.shape))
                topology = topologies.get_topology_desc(
                    platform="tpu", topology_name=f"{self.kind}:{sides}"
                )
            else:
                topology = topologies.get_topology_desc(
                    platform="cuda",
                    topology_name="described",
                    topology=f"1x1x{self.shape[0]}",
                    target_config=_H100,
                )
        except (RuntimeError, ValueError, NotImplementedError) as error:
            raise errors.UsageError(
                f"--target={self.name}: the compiler does not know it "
                f"({_first_line(error)}); try one of {_EXAMPLES}"
            ) from error
        chosen = topology.devices[:devices]
        if devices and len(chosen) < devices:
            raise errors.UsageError(
                f"--devices={devices}: {self.name} has {len(chosen)}"
            )
        return jax.sharding.Mesh(
            np.array(chosen), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
        )


def parse(name: str) -> Target:
    """Return the target with this name, such as `v5e:2x4`.

    Raises:
      UsageError: there is no such accelerator.
    """
    kind, _, shape = name.lower().partition(":")
    if kind not in CHIPS:
        near = difflib.get_close_matches(kind, CHIPS, n=1, cutoff=0)[0]
        raise errors.UsageError(
            f"--target={name}: there is no accelerator {kind!r}; did you mean "
            f"{near!r}? Examples: {_EXAMPLES}"
        )
    dimensions = CHIPS[kind].dimensions if CHIPS[kind].accelerator else 1
    shape = shape or "x".join("1" * dimensions)
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)" + f"{{{dimensions - 1}}}", shape):
        raise errors.UsageError(
            f"--target={name}: a slice of {kind} has {dimensions} dimension"
            f"{'s' * (dimensions > 1)}. Examples: {_EXAMPLES}"
        )
    return Target(name, kind, tuple(int(side) for side in shape.split("x")))


def prepare(target: Target, dump: str = "") -> None:
    """Set the environment that the compiler of a target reads when it is loaded.

    A process can serve targets of one kind of slice only, so call this once, before the
    first mesh is made.

    Args:
      target: the target to compile for.
      dump: a folder where the TPU compiler writes its bundles.

    Raises:
      UsageError: the package with the compiler is not installed.
    """
    # Programs are only compiled, so the devices of this machine are not used.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if not target.is_tpu:
        plugins = ("jax_cuda13_plugin", "jax_cuda12_plugin")
        if not any(importlib.util.find_spec(plugin) for plugin in plugins):
            raise errors.UsageError(
                f"--target={target.name}: the compiler for it is not installed; "
                "`pip install 'jax[cuda13]'` brings it"
            )
        return
    if not importlib.util.find_spec("libtpu"):
        raise errors.UsageError(
            f"--target={target.name}: the compiler for it is not installed; "
            "`pip install 'jax[tpu]'` brings it (libtpu)"
        )
    cores = int(np.prod(target.shape)) * target.chip.cores
    settings = {
        # There is no cloud metadata server.
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": f"{target.chip.accelerator}-{cores}",
        "TPU_WORKER_HOSTNAMES": "localhost",
        # Several processes may compile at once, because none of them uses a device.
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    for variable, value in settings.items():
        os.environ.setdefault(variable, value)
    if dump:
        # Of about seventy listings of each operation, only the last one is read.
        options = (
            f"--xla_jf_dump_to={dump} --xla_jf_dump_llo_text=true "
            "--xla_jf_dump_llo_pass_label_regex=^final_bundles|deduplication"
        )
        given = os.environ.get("LIBTPU_INIT_ARGS", "")
        os.environ["LIBTPU_INIT_ARGS"] = f"{given} {options}".strip()


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
