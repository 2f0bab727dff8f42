"""Devices: the mesh, the two shardings, host batches onto devices, several processes.

One mesh axis, `data`. At 25 M parameters every device holds all of them; only the batch
is divided.
"""

import os
import socket
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from arniqa_jax import errors
from arniqa_jax.distributed import agreement

# What JAX needs of a Slurm task's environment.
_SLURM = {
    "SLURM_JOB_ID",
    "SLURM_STEP_NODELIST",
    "SLURM_NTASKS",
    "SLURM_PROCID",
    "SLURM_LOCALID",
}


def start_processes(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    heartbeat_seconds: int = 60,
) -> None:
    """Joins the processes of one run; does nothing where there is but one.

    Without arguments, those that a cluster has started: the hosts of a TPU slice, the
    tasks of a Slurm step, the ranks of `mpirun`.

    Args:
      coordinator: `host:port` of process 0.
      num_processes: how many there are.
      process_id: which one this is, from 0.
      heartbeat_seconds: a process that was silent for so long is taken for dead, and
        the others end.

    Raises:
      UsageError: some of the three are missing, or they contradict each other, or the
        port is in use.
    """
    given = [v is not None for v in (coordinator, num_processes, process_id)]
    options = {}
    if any(given):
        if not all(given):
            raise errors.UsageError(
                "several processes need all of --coordinator, --num_processes and "
                "--process_id; give the missing ones"
            )
        if not 0 <= process_id < num_processes:
            raise errors.UsageError(
                f"--process_id={process_id} has to be in 0..{num_processes - 1}, below "
                f"--num_processes={num_processes}"
            )
        _check_address(coordinator, process_id)
        options = {
            "coordinator_address": coordinator,
            "num_processes": num_processes,
            "process_id": process_id,
        }
        logging.info(
            "process %d of %d: meeting at %s", process_id, num_processes, coordinator
        )
    elif not started_by_cluster(os.environ, jax.config.jax_platforms):
        return
    else:
        options = {"local_device_ids": _devices_of_slurm_task(os.environ)}
    # Its notifier would swallow SIGTERM from here to the end of the process; the loop
    # agrees on a stop by itself, and elsewhere the signal has to end the process.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        **options,
        # Its own heartbeats are the second line, behind `agreement.watch`.
        heartbeat_timeout_seconds=2 * heartbeat_seconds,
        shutdown_timeout_seconds=2 * heartbeat_seconds,
    )
    sys.excepthook = agreement.leave_after_traceback
    agreement.watch(heartbeat_seconds)
    _introduce_devices()
    if jax.process_index() > 0:
        # What happens is told once; what goes wrong, by each.
        logging.set_verbosity(logging.WARNING)


def started_by_cluster(environment: Mapping[str, str], platforms: str | None) -> bool:
    """Whether this is one of several processes that JAX can find the others of.

    Args:
      environment: the environment variables.
      platforms: JAX's, which begin with `tpu` where JAX has found itself on a TPU VM.

    Raises:
      UsageError: Open MPI in a version that JAX cannot ask.
    """
    if (platforms or "").startswith("tpu"):
        hosts = environment.get("TPU_PROCESS_ADDRESSES") or environment.get(
            "TPU_WORKER_HOSTNAMES"
        )
        if hosts:
            return "," in hosts or int(environment.get("MEGASCALE_NUM_SLICES", 1)) > 1
        # Outside GKE the metadata server alone knows; JAX asks it.
        return "TPU_SKIP_MDS_QUERY" not in environment
    ranks = int(environment.get("OMPI_COMM_WORLD_SIZE", 1))
    if ranks > 1:
        if "OMPI_MCA_orte_hnp_uri" not in environment:
            raise errors.UsageError(
                f"mpirun has started {ranks} processes, but this version of it does "
                "not say where they can meet (version 4 does); add --coordinator="
                f"HOST:PORT --num_processes={ranks} "
                "--process_id=$OMPI_COMM_WORLD_RANK"
            )
        return True
    # A batch script itself has SLURM_NTASKS too, but is no task of a step.
    return environment.keys() >= _SLURM and int(environment["SLURM_NTASKS"]) > 1


def _devices_of_slurm_task(environment: Mapping[str, str]) -> list[int] | None:
    """All GPUs of the node for its only task, which JAX would give the first alone."""
    gpus = environment.get("SLURM_GPUS_ON_NODE")
    alone = environment.get("SLURM_STEP_NUM_NODES") == environment.get("SLURM_NTASKS")
    return list(range(int(gpus))) if gpus and alone else None


def _introduce_devices() -> None:
    """Has all devices, and one of each process, do something together once.

    On CPUs they have 30 seconds for their first meeting, which they would miss later,
    when one process compiles for longer than another; then nothing presses them.
    """
    agreement.wait_for_all("all processes have started")
    mesh = make_mesh()
    ones = np.ones(mesh.size, np.float32)
    ones = jax.make_array_from_callback(ones.shape, over_batch(mesh), ones.__getitem__)
    jax.block_until_ready(jax.jit(jnp.sum, out_shardings=replicated(mesh))(ones))


def _check_address(coordinator: str, process_id: int) -> None:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise errors.UsageError(
            f"--coordinator={coordinator}: expected host:port, for example "
            "127.0.0.1:8476"
        )
    if process_id == 0:
        # JAX would crash.
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", int(port)))
            except OSError as error:
                raise errors.UsageError(
                    f"--coordinator={coordinator}: port {port} of this machine cannot "
                    f"be used ({error.strerror}); choose another one"
                ) from error


def make_mesh() -> Mesh:
    """A mesh of all devices of all processes along `data`."""
    # Under the explicit axis types that are now the default, `z @ z.T` of a sharded
    # batch is an error.
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same values on every device: parameters, statistics, metrics."""
    return NamedSharding(mesh, P())


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts arrays that every process has onto all devices of all processes."""
    everywhere = replicated(mesh)
    if jax.process_count() == 1:
        return jax.device_put(tree, everywhere)

    def put(x):
        if isinstance(x, jax.Array) and x.sharding == everywhere:
            return x
        # By way of the host: what lies on a device of one process stays there.
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, everywhere, x.__getitem__)

    return jax.tree.map(put, tree)


def over_batch(mesh: Mesh) -> NamedSharding:
    """The leading axis divided over the devices: batches."""
    return NamedSharding(mesh, P("data"))


def check_batch_size(batch_size: int, mesh: Mesh, accumulation: int = 1) -> None:
    """Raises UsageError where a batch cannot be divided evenly."""
    parts = mesh.size * accumulation
    if batch_size % parts:
        raise errors.UsageError(
            f"train.batch_size={batch_size} pairs cannot be divided evenly over "
            f"{mesh.size} devices x train.accumulation={accumulation}; choose a "
            f"multiple of {parts}"
        )


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Joins the parts that the processes hold into global arrays on the devices."""
    sharding = over_batch(mesh)
    # Meant to travel, also where JAX takes it for an oversight: on several processes.
    with jax.transfer_guard("allow"):
        return {
            name: jax.make_array_from_process_local_data(sharding, value)
            for name, value in batch.items()
        }
