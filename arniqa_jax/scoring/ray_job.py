"""Scoring on many machines: Ray Data distributes images, workers write part files.

Ray schedules the work, and repeats the work of a lost worker or machine. The part files
(`parts`) tell which images are done. So a run can be continued with another number of
workers, with more images, and after the loss of the driver.
"""

import contextlib
import dataclasses
import logging as py_logging
import os
import pathlib
import signal
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import logging

from arniqa_jax import errors
from arniqa_jax.distributed import stops
from arniqa_jax.scoring import inputs, parts, rows, shards, tables
from arniqa_jax.scoring.progress import Progress

# Number of images in a part file. The loss of a worker costs at most this number. A
# worker decodes and computes concurrently within a part, but not across parts.
_FEWEST_ROWS, _MOST_ROWS = 32, 1024
# Minimum number of parts per worker, if there are enough images. With several parts per
# worker, all workers end at about the same time.
_PARTS_PER_WORKER = 8
_STOPS = (signal.SIGTERM, signal.SIGINT)


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The place to run.

    Attributes:
      address: address of a Ray cluster, `auto` on one of its machines; None starts Ray
        here.
      workers: number of processes with a model each; 0 for one per GPU, per TPU host,
        or, in a cluster without either, per machine.
    """

    address: str | None = None
    workers: int = 0


def score(
    score_rows: rows.ScoreRows,
    arguments: list[str],
    output: pathlib.Path | None,
    stop: stops.StopRequest,
    cluster: Cluster,
    *,
    resume: bool,
    shard: shards.Shard = shards.ALL,
) -> int:
    """Write the part files; return how many images have no score.

    Args:
      score_rows: the function that every worker runs. Its model is loaded here too, to
        check it.
      arguments: files, folders, patterns or `-`, see `inputs.find`.
      output: folder of part files, on a file system that every worker can access.
      stop: checked after each part.
      cluster: the place to run.
      resume: whether to continue a folder that has rows.
      shard: the part of the images to score.

    Raises:
      UsageError: there is no output, or it cannot be continued.
      ArniqaError: Ray is not installed, or the run failed.
    """
    if output is None:
        raise errors.UsageError("--engine=ray needs --output, a folder of part files")
    tables.check_suffix(output)
    ray = _import_ray()
    # Start Ray before JAX starts its threads, because a process with threads should not
    # fork.
    _start(ray, cluster)
    try:
        write, items, done = _prepare(
            score_rows, arguments, output.absolute(), resume=resume, shard=shard
        )
        return _score(ray, items, done, write, cluster, stop)
    except ray.exceptions.RayError as error:
        raise errors.ArniqaError(
            f"the Ray job failed, continue it with --resume: {_cause(error)}"
        ) from error
    finally:
        ray.shutdown()


def _prepare(
    score_rows: rows.ScoreRows,
    arguments: list[str],
    output: pathlib.Path,
    *,
    resume: bool,
    shard: shards.Shard,
) -> tuple["WriteParts", list[inputs.Input], int]:
    """Return the workers' function, the images to score, and the number done."""
    # This process only reads the model, and leaves the accelerators to the workers.
    import jax

    jax.config.update("jax_platforms", "cpu")
    model = score_rows.scorer
    columns = rows.columns(model.crops, details=score_rows.details)
    run, done = parts.open_folder(output, columns, score_rows.identity, resume)
    skipped = inputs.Skipped()
    items = []
    for item in inputs.find_once(arguments, sys.stdin.buffer, skipped, shard):
        if item.content is not None:
            raise errors.UsageError(
                f"{item.shown}: --engine=ray scores files, and no images in .tar or "
                "Parquet files: score these without --engine, one --shard a machine"
            )
        if not shards.contains(done, item.shown):
            items.append(item)
    if skipped:
        logging.warning("%s", skipped)
    write = WriteParts(score_rows, output, columns, run, os.getcwd())
    return write, items, len(done)


def _score(
    ray: Any,
    items: list[inputs.Input],
    done: int,
    write: "WriteParts",
    cluster: Cluster,
    stop: stops.StopRequest,
) -> int:
    """Score all items; return how many have no score."""
    failed = 0
    progress = Progress(len(items) + done, done)
    if items:
        for summary in _map(ray, items, write, cluster):
            failed += int(summary["failed"])
            progress.advance(failed, int(summary["images"]))
            if stop.exit_code is not None:
                break
    progress.close()
    return failed


class WriteParts:
    """Scores a batch of paths and writes it as one part; runs in Ray's actors."""

    def __init__(
        self,
        score_rows: rows.ScoreRows,
        folder: pathlib.Path,
        columns: list[str],
        run: str,
        directory: str,
    ):
        """Store the arguments, and go where relative paths begin.

        Args:
          score_rows: scores the images.
          folder, columns, run: see `parts.write`.
          directory: the working directory of the command. Ray starts its workers
            elsewhere.
        """
        self.score_rows, self.folder = score_rows, folder
        self.columns, self.run, self.directory = columns, run, directory
        # Without the directory, absolute paths and URLs can be scored all the same.
        with contextlib.suppress(OSError):
            os.chdir(directory)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return one row: the number of images, and the number without a score.

        Args:
          batch: `path`, and `reason`, which is empty or says why the image cannot be
            scored.
        """
        items = [
            inputs.Input(str(path), str(reason) or None)
            for path, reason in zip(batch["path"], batch["reason"], strict=True)
        ]
        found = list(self.score_rows.stream(items))
        if not parts.write(self.folder, found, self.columns, self.run):
            raise errors.ArniqaError(f"{self.folder} was taken over by another run")
        failed = sum(row["score"] is None for row in found)
        return {"images": np.array([len(found)]), "failed": np.array([failed])}


def _block(items: list[inputs.Input]) -> dict[str, list[str]]:
    """Return the columns of some images."""
    reasons = [
        "its name is not UTF-8" if item.shown != item.path else item.reason or ""
        for item in items
    ]
    return {"path": [item.shown for item in items], "reason": reasons}


def _map(
    ray: Any, items: list[inputs.Input], write: WriteParts, cluster: Cluster
) -> Iterator[dict]:
    """Yield a summary of each part that was written."""
    import pyarrow

    ray.data.DataContext.get_current().enable_progress_bars = False
    resources, workers = _resources(ray.nodes(), cluster.workers)
    size = len(items) // (workers * _PARTS_PER_WORKER)
    size = min(max(size, _FEWEST_ROWS), _MOST_ROWS)
    starts = range(0, len(items), size)
    blocks = [pyarrow.table(_block(items[i : i + size])) for i in starts]
    workers = min(workers, len(blocks))
    written = ray.data.from_arrow(blocks).map_batches(
        WriteParts,
        fn_constructor_args=[
            write.score_rows,
            write.folder,
            write.columns,
            write.run,
            write.directory,
        ],
        batch_size=size,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers),
        **resources,
    )
    yield from written.iter_rows()


def _resources(nodes: list[dict], workers: int) -> tuple[dict[str, Any], int]:
    """Return what a worker needs, as arguments of `map_batches`, and their number."""
    found = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = int(sum(node.get("GPU", 0) for node in found))
    chips = [int(node["TPU"]) for node in found if node.get("TPU")]
    if gpus:
        return {"num_gpus": 1}, workers or gpus
    if chips:
        return {"resources": {"TPU": max(chips)}}, workers or len(chips)
    return {"num_cpus": 1}, workers or len(found)


def _start(ray: Any, cluster: Cluster) -> None:
    """Start Ray here, or connect to a cluster.

    Raises:
      ArniqaError: neither is possible.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray logs its own start and each operator on the terminal; its files have it too.
    py_logging.getLogger("ray").setLevel(py_logging.ERROR)
    for handler in py_logging.getLogger("ray.data").handlers:
        if isinstance(handler, py_logging.StreamHandler):
            handler.setLevel(py_logging.ERROR)
    stops = {number: signal.getsignal(number) for number in _STOPS}
    try:
        ray.init(
            address=cluster.address,
            include_dashboard=None if cluster.address else False,
            log_to_driver=False,
            logging_level="ERROR",
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise errors.ArniqaError(
            f"Ray cannot be started at {cluster.address or 'this machine'}: "
            f"{' '.join(str(error).split())}"
        ) from error
    # Ray replaces the handler of SIGTERM by one that aborts the process.
    for number, handler in stops.items():
        signal.signal(number, handler)


def _cause(error: BaseException) -> str:
    """Return the last line of Ray's message, which contains the worker's error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _import_ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise errors.ArniqaError(
            "--engine=ray needs Ray, which is not installed: pip install "
            "'arniqa_jax[ray]'"
        ) from error
    return ray
