"""Devices: the mesh, the two shardings, host batches onto devices, several processes.

One mesh axis, `data`. At 25 M parameters every device holds all of them; only the batch
is divided.
"""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from arniqa_jax import errors


def start_processes(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Joins the processes of one run; does nothing where no flag is given.

    Args:
      coordinator: `host:port` of process 0.
      num_processes: how many there are.
      process_id: which one this is, from 0.

    Raises:
      UsageError: some of the three are missing, or they contradict each other.
    """
    given = [v is not None for v in (coordinator, num_processes, process_id)]
    if not any(given):
        return
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
    jax.distributed.initialize(coordinator, num_processes, process_id)


def make_mesh() -> Mesh:
    """A mesh of all devices of all processes along `data`."""
    # Under the explicit axis types that are now the default, `z @ z.T` of a sharded
    # batch is an error.
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same values on every device: parameters, statistics, metrics."""
    return NamedSharding(mesh, P())


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
    return {
        name: jax.make_array_from_process_local_data(sharding, value)
        for name, value in batch.items()
    }
