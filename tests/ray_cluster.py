"""A Ray cluster of two nodes, and what is killed in it: one JSON object per case.

Runs inside a network namespace that has loopback alone, because Ray asks the addresses
of clouds at its start:

    unshare -rn sh -c 'ip link set lo up; exec python tests/ray_cluster.py FOLDER'

FOLDER has `model`, `photos` and `one.csv`, the scores of the plain command.
"""

import csv
import json
import math
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

from ray.cluster_utils import Cluster


def main(folder: pathlib.Path, names: list[str]) -> None:
    """Runs the cases of these names, or all, and prints what came of each."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with open(folder / "one.csv", newline="") as file:
        expected = {row["path"]: row for row in csv.DictReader(file)}
    cases = {
        "undisturbed": _undisturbed,
        "worker": _kill_worker,
        "node": _remove_node,
        "driver": _kill_driver,
        "rows": _map_rows,
    }
    for name in names or cases:
        case = cases[name]
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        cluster.add_node(num_cpus=1)
        output = folder / f"{name}.csv"
        try:
            start = time.monotonic()
            said = case(cluster, folder, output)
            seconds = time.monotonic() - start
        finally:
            cluster.shutdown()
        found = _read(output)
        paths = [row["path"] for row in found]
        wanted = dict(expected)
        for path in set(paths) - expected.keys():  # added, as copies
            original = path.replace("added_", "")
            wanted[path] = expected[original] | {"path": path}
        print(
            json.dumps(
                {
                    "case": name,
                    "rows": len(paths),
                    "paths": len(set(paths)),
                    "missing": len(expected.keys() - set(paths)),
                    "differing": sum(row != wanted[row["path"]] for row in found),
                    "seconds": round(seconds, 1),
                    **said,
                }
            ),
            flush=True,
        )


def _undisturbed(cluster, folder, output):
    command = _start(cluster, folder, output, workers=2)
    return {"code": command.wait(600)}


def _kill_worker(cluster, folder, output):
    command = _start(cluster, folder, output, workers=2)
    _wait_for_parts(command, output)
    os.kill(_workers()[0], signal.SIGKILL)
    return {"code": command.wait(600)}


def _remove_node(cluster, folder, output):
    command = _start(cluster, folder, output, workers=2)
    _wait_for_parts(command, output)
    (node,) = (n for n in cluster.list_all_nodes() if not n.head)
    cluster.remove_node(node, allow_graceful=False)
    return {"code": command.wait(600)}


def _kill_driver(cluster, folder, output):
    """Twice; then with another number of workers, and with files added."""
    codes = []
    for workers in (2, 1):
        resume = ["--resume"] if codes else []
        command = _start(cluster, folder, output, *resume, workers=workers)
        _wait_for_parts(command, output)
        command.kill()
        codes.append(command.wait())
    photos = folder / "photos"
    for i in range(20):
        shutil.copy(photos / f"{i:04d}.png", photos / f"added_{i:04d}.png")
    command = _start(cluster, folder, output, "--resume", workers=2)
    codes.append(command.wait(600))
    for path in photos.glob("added_*"):
        path.unlink()
    return {"code": codes[-1], "codes": codes}


def _map_rows(cluster, folder, output):
    """Ray Data with `ScoreRows`, as a pipeline of one's own; there is no command."""
    import ray

    from arniqa_jax.scoring.rows import ScoreRows

    ray.init(address=cluster.address, log_to_driver=False)
    photos = ray.data.read_binary_files(str(folder / "photos"), include_paths=True)
    scored = photos.map_batches(
        ScoreRows,
        fn_constructor_args=[str(folder / "model")],
        batch_size=64,
        compute=ray.data.ActorPoolStrategy(size=1),
    )
    found = scored.drop_columns(["bytes"]).take_all()
    ray.shutdown()
    output.mkdir()
    with open(output / "part-0.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "score", "error"])
        for row in found:
            score = "" if math.isnan(row["score"]) else row["score"]
            path = os.path.relpath(row["path"], folder)
            writer.writerow([path, score, row["error"]])
    return {"code": 1}


def _start(cluster, folder, output, *flags, workers):
    arguments = ["--model=model", "photos", f"--output={output.name}"]
    arguments += [
        "--engine=ray",
        f"--address={cluster.address}",
        f"--workers={workers}",
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "arniqa_jax.score", *arguments, *flags],
        cwd=folder,
        stderr=sys.stderr,
    )


def _wait_for_parts(command, output, more=2):
    """Waits until the command has written two more parts, so that it is at work."""
    before = set(output.glob("part-*"))
    while len(set(output.glob("part-*")) - before) < more:
        assert command.poll() is None, "the command ended before it could be killed"
        time.sleep(0.01)


def _workers() -> list[int]:
    """Processes of our own network namespace that hold a model."""
    own = os.stat("/proc/self/ns/net").st_ino
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            title = (entry / "cmdline").read_bytes()
            is_worker = title.startswith(b"ray::") and b"WriteParts" in title
            if is_worker and os.stat(entry / "ns" / "net").st_ino == own:
                found.append(int(entry.name))
        except OSError:
            continue  # it has ended
    assert found, "no worker is running"
    return sorted(found)


def _read(output):
    rows = []
    for part in sorted(output.glob("part-*.csv")):
        with open(part, newline="") as file:
            rows += csv.DictReader(file)
    return rows


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2:])
