"""The cores of a process, in containers and with an affinity."""

import os

import pytest

from arniqa_jax.distributed import cpus


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of 64 cores, and a function that writes files of its system."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))

    def write(path, text):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    return tmp_path, write


def test_the_affinity(machine, monkeypatch):
    root, _ = machine
    assert cpus.available_cpus(root) == 64
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 17})
    assert cpus.available_cpus(root) == 2


@pytest.mark.parametrize(
    ("limits", "count"),
    [
        ({"a/b": "max 100000"}, 64),
        ({"a/b": "250000 100000"}, 3),
        ({"a": "100000 100000", "a/b": "max 100000"}, 1),
        ({"": "400000 100000", "a/b": "800000 100000"}, 4),
        ({"a/b": "10000 100000"}, 1),
    ],
)
def test_cgroups_of_version_2(machine, limits, count):
    root, write = machine
    write("proc/self/cgroup", "0::/a/b\n")
    for group, limit in limits.items():
        write(f"sys/fs/cgroup/{group}/cpu.max", limit + "\n")
    assert cpus.available_cpus(root) == count


@pytest.mark.parametrize(("quota", "count"), [("-1", 64), ("150000", 2)])
def test_cgroups_of_version_1(machine, quota, count):
    root, write = machine
    write("proc/self/cgroup", "5:memory:/a\n3:cpu,cpuacct:/a\n")
    write("sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", quota + "\n")
    write("sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000\n")
    assert cpus.available_cpus(root) == count
