"""Devices: the mesh, two shardings, transfer of batches, and start of processes.

The mesh has one axis, `data`. A model of 25 M parameters fits on every device, so
parameters are replicated and only the batch is divided.
"""

import os
import socket
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

# The environment variables of a Slurm task that JAX needs.
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
    start_timeout_seconds: int = 300,
) -> None:
    """Connect the processes of one run; do nothing if there is only one.

    Without arguments, the processes are those that a cluster has started: the hosts of
    a TPU slice, the tasks of a Slurm step, or the ranks of `mpirun`.

    Args:
      coordinator: `host:port` of process 0.
      num_processes: number of processes.
      process_id: index of this process, from 0.
      heartbeat_seconds: a process that is silent for this long counts as dead, and the
        others end.
      start_timeout_seconds: a process ends if the others have not arrived by then.

    Raises:
      UsageError: some of the three arguments are missing or contradict each other, or
        the port is in use.
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
                f"--process_id={process_id} must be in 0..{num_processes - 1}, below "
                f"--num_processes={num_processes}"
            )
        _check_address(coordinator, process_id)
        options = {
            "coordinator_address": coordinator,
            "num_processes": num_processes,
            "process_id": process_id,
        }
        logging.info(
            "process %d of %d: waiting for the others at %s, for %d s at most",
            process_id,
            num_processes,
            coordinator,
            start_timeout_seconds,
        )
    elif not started_by_cluster(os.environ, jax.config.jax_platforms):
        return
    else:
        options = {"local_device_ids": _devices_of_slurm_task(os.environ)}
    # JAX's preemption notifier would catch SIGTERM from here to the end of the process.
    # The training loop agrees on a stop by itself, and outside the loop SIGTERM must
    # end the process.
    jax.config.update("jax_enable_preemption_service", False)
    place = coordinator or "the coordinator"
    with agreement.start_timeout(
        start_timeout_seconds, place, process_id=options.get("process_id")
    ):
        jax.distributed.initialize(
            **options,
            # The fallbacks for `agreement.start_timeout` and `agreement.watch`.
            initialization_timeout=2 * start_timeout_seconds + 60,
            heartbeat_timeout_seconds=2 * heartbeat_seconds,
            shutdown_timeout_seconds=2 * heartbeat_seconds,
        )
        agreement.watch(heartbeat_seconds)
        _introduce_devices()


def started_by_cluster(environment: Mapping[str, str], platforms: str | None) -> bool:
    """Return whether a cluster has started several processes, which JAX can connect.

    Args:
      environment: the environment variables.
      platforms: JAX's platforms; they begin with `tpu` if JAX has found itself on a TPU
        VM.

    Raises:
      UsageError: this version of Open MPI does not give the address that JAX needs.
    """
    if (platforms or "").startswith("tpu"):
        hosts = environment.get("TPU_PROCESS_ADDRESSES") or environment.get(
            "TPU_WORKER_HOSTNAMES"
        )
        if hosts:
            return "," in hosts or int(environment.get("MEGASCALE_NUM_SLICES", 1)) > 1
        # Outside GKE only the metadata server knows the hosts, and JAX asks it.
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
    # A batch script also has SLURM_NTASKS, but it is not a task of a step.
    return environment.keys() >= _SLURM and int(environment["SLURM_NTASKS"]) > 1


def _devices_of_slurm_task(environment: Mapping[str, str]) -> list[int] | None:
    """Return all GPUs of the node if it has one task, else None.

    JAX would give such a task only the first GPU.
    """
    gpus = environment.get("SLURM_GPUS_ON_NODE")
    nodes = environment.get("SLURM_STEP_NUM_NODES")
    one_task_per_node = nodes == environment.get("SLURM_NTASKS")
    return list(range(int(gpus))) if gpus and one_task_per_node else None


def _introduce_devices() -> None:
    """Run a collective over all devices once, and one over all processes.

    On CPUs, the first collective must succeed within 30 seconds. If it came later, one
    process could compile for longer than this and miss it. Later collectives have no
    such limit.
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
        # JAX would crash if the port were in use.
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
    """Return a mesh of all devices of all processes along `data`."""
    # Axis types are explicit by default. With explicit types, `z @ z.T` of a sharded
    # batch raises an error.
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding with the same values on every device.

    Parameters, statistics and metrics have this sharding.
    """
    return NamedSharding(mesh, P())


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Return arrays on all devices, given arrays that every process has."""
    everywhere = replicated(mesh)
    if jax.process_count() == 1:
        return jax.device_put(tree, everywhere)

    def put(x):
        if isinstance(x, jax.Array) and x.sharding == everywhere:
            return x
        # The value goes through the host, because a device of one process cannot
        # transfer it to a device of another process.
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, everywhere, x.__getitem__)

    return jax.tree.map(put, tree)


def over_batch(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a batch: the leading axis divided over the devices."""
    return NamedSharding(mesh, P("data"))


def check_batch_size(batch_size: int, mesh: Mesh, accumulation: int = 1) -> None:
    """Raise UsageError if a batch cannot be divided evenly over the devices."""
    parts = mesh.size * accumulation
    if batch_size % parts:
        raise errors.UsageError(
            f"train.batch_size={batch_size} pairs cannot be divided evenly over "
            f"{mesh.size} devices x train.accumulation={accumulation}; choose a "
            f"multiple of {parts}"
        )


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Return global arrays on the devices, joined from the rows of each process."""
    sharding = over_batch(mesh)
    # This transfer is intended. JAX's transfer guard would report it if there are
    # several processes.
    with jax.transfer_guard("allow"):
        return {
            name: jax.make_array_from_process_local_data(sharding, value)
            for name, value in batch.items()
        }
