"""How the processes of a run are connected, without starting any.

Runs of several real processes are in processes_test.
"""

import socket

import jax
import pytest

from arniqa_jax import errors
from arniqa_jax.distributed import sharding

_SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_NODELIST": "node[01-02]",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}
_OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911",
}


@pytest.mark.parametrize(
    ("environment", "platforms", "several"),
    [
        ({}, None, False),
        ({}, "cpu", False),
        (_SLURM, None, True),
        (_SLURM | {"SLURM_NTASKS": "1"}, None, False),
        # In the batch script itself, outside of `srun`.
        ({"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "8"}, None, False),
        (_OPEN_MPI, None, True),
        (_OPEN_MPI | {"OMPI_COMM_WORLD_SIZE": "1"}, None, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "tpu,cpu", True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, "tpu,cpu", False),
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, "tpu,cpu", True),
        ({"TPU_PROCESS_ADDRESSES": "a:1,b:1"}, "tpu,cpu", True),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "cpu", False),
        # A TPU VM whose environment says nothing, with and without metadata.
        ({}, "tpu,cpu", True),
        ({"TPU_SKIP_MDS_QUERY": "1"}, "tpu,cpu", False),
    ],
)
def test_processes_of_a_cluster(environment, platforms, several):
    assert sharding.started_by_cluster(environment, platforms) == several


def test_an_open_mpi_that_does_not_say_where_to_meet():
    new = {k: v for k, v in _OPEN_MPI.items() if k != "OMPI_MCA_orte_hnp_uri"}
    with pytest.raises(errors.UsageError, match="--num_processes=2"):
        sharding.started_by_cluster(new, None)


@pytest.fixture
def initialized(monkeypatch):
    """What `jax.distributed.initialize` was called with, which does nothing."""
    monkeypatch.setattr(sharding.agreement, "watch", lambda seconds: None)
    calls = []
    monkeypatch.setattr(
        jax.distributed, "initialize", lambda **args: calls.append(args)
    )
    for name in (*_SLURM, *_OPEN_MPI):
        monkeypatch.delenv(name, raising=False)
    return calls


def test_one_process_joins_nothing(initialized):
    sharding.start_processes()
    assert initialized == []


def test_flags_come_first(initialized, monkeypatch):
    for name, value in _SLURM.items():
        monkeypatch.setenv(name, value)
    sharding.start_processes(
        "127.0.0.1:8476", 3, 2, heartbeat_seconds=7, start_timeout_seconds=20
    )
    assert initialized == [
        {
            "coordinator_address": "127.0.0.1:8476",
            "num_processes": 3,
            "process_id": 2,
            "initialization_timeout": 100,
            "heartbeat_timeout_seconds": 14,
            "shutdown_timeout_seconds": 14,
        }
    ]


@pytest.mark.parametrize(
    ("tasks", "gpus", "devices"),
    [("2", "4", [0, 1, 2, 3]), ("8", "4", None), ("2", None, None)],
)
def test_the_only_task_of_a_slurm_node_has_all_its_gpus(
    initialized, monkeypatch, tasks, gpus, devices
):
    environment = _SLURM | {"SLURM_NTASKS": tasks, "SLURM_STEP_NUM_NODES": "2"}
    environment |= {"SLURM_GPUS_ON_NODE": gpus} if gpus else {}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    sharding.start_processes()
    assert [call["local_device_ids"] for call in initialized] == [devices]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("127.0.0.1:1", None, 0), "give the missing ones"),
        (("127.0.0.1:1", 2, 2), "must be in 0..1"),
        (("127.0.0.1", 2, 0), "expected host:port"),
        (("host:http", 2, 0), "expected host:port"),
    ],
)
def test_flags_that_contradict_each_other(initialized, arguments, message):
    with pytest.raises(errors.UsageError, match=message):
        sharding.start_processes(*arguments)
    assert initialized == []


def test_a_port_in_use_is_said(initialized):
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(errors.UsageError, match="choose another one"):
            sharding.start_processes(address, 2, 0)
    assert initialized == []


def test_a_batch_that_cannot_be_divided():
    with pytest.raises(errors.UsageError, match=r"12 pairs .* 8 devices x .*=2"):
        sharding.check_batch_size(12, sharding.make_mesh(), accumulation=2)
