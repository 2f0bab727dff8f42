"""What the score command does: one row for each image, here or by an engine."""

import pathlib
import sys
from collections.abc import Iterator

from absl import logging

from arniqa_jax import errors
from arniqa_jax.distributed import stops
from arniqa_jax.inference.extractor import map_in_threads
from arniqa_jax.scoring import inputs, rows, shards, tables
from arniqa_jax.scoring.bucket_table import BucketTable
from arniqa_jax.scoring.progress import Progress
from arniqa_jax.storage import buckets, files
from arniqa_jax.storage.bucket_paths import AnyPath, BucketPath


def run(
    score_rows: rows.ScoreRows,
    arguments: list[str],
    output: AnyPath | None,
    *,
    resume: bool = False,
    shard: str | None = None,
    engine: str = "local",
    address: str | None = None,
    workers: int = 0,
    report: str | None = None,
) -> int:
    """Score until the end, SIGTERM or Ctrl-C, and return the exit code.

    Args:
      score_rows: the model and what to do with each image.
      arguments: files, folders, patterns or `-`, see `inputs.find`.
      output: the table to write, on disk or in a bucket; None for standard output.
      resume: skip the images that have a score in the output.
      shard: `I/N`, see `shards.Shard`; None for all images.
      engine: `local`, or `ray`, see `ray_job`.
      address, workers: of the engine, see `ray_job.Cluster`.
      report: folder for a page about the output, see `report_page`; None for no page.

    Raises:
      UsageError: the model has no regressor, or the options do not go together.
    """
    part = shards.Shard.parse(shard) if shard else shards.ALL
    if shard and output is None:
        raise errors.UsageError("--shard needs --output, whose name gets the shard")
    output = part.file(output) if output else None
    if report and output is None:
        raise errors.UsageError("--report needs --output, the table that it shows")
    report = files.local_path(report, "--report") if report else None
    if isinstance(output, BucketPath) and (report or engine != "local"):
        flag = "--report" if report else f"--engine={engine}"
        raise errors.UsageError(f"{flag} needs a local --output, found {output}")
    with stops.StopRequest() as stop:
        if engine == "ray":
            from arniqa_jax.scoring import ray_job

            cluster = ray_job.Cluster(address, workers)
            failed = ray_job.score(
                score_rows, arguments, output, stop, cluster, resume=resume, shard=part
            )
        else:
            failed = score(
                score_rows, arguments, output, stop, resume=resume, shard=part
            )
    if stop.exit_code is not None:
        return stop.exit_code
    if report:
        from arniqa_jax.scoring import report_page

        page = report_page.write(
            [output],
            report,
            map_folder=score_rows.map_folder and pathlib.Path(score_rows.map_folder),
        )
        logging.info("%s", page)
    return errors.FAILURE if failed else errors.SUCCESS


def score(
    score_rows: rows.ScoreRows,
    arguments: list[str],
    output: AnyPath | None,
    stop: stops.StopRequest,
    *,
    resume: bool,
    shard: shards.Shard = shards.ALL,
) -> int:
    """Write a row for each image; return how many images have no score.

    Args:
      score_rows: the model and what to do with each image.
      arguments: files, folders, patterns or `-`, see `inputs.find`.
      output: the table to write; None for standard output.
      stop: looked at after each image.
      resume: skip the images that have a score in the output.
      shard: which part of the images to score.
    """
    model = score_rows.scorer
    columns = rows.columns(model.crops, details=score_rows.details)
    identity = score_rows.identity if output else {}
    skipped = inputs.Skipped()

    def find() -> Iterator[inputs.Input]:
        return inputs.find_once(arguments, sys.stdin.buffer, skipped, shard)

    failed = 0
    make = BucketTable if isinstance(output, BucketPath) else tables.Table
    with make(
        output, columns, stdout=sys.stdout, resume=resume, identity=identity
    ) as table:
        total = None
        if sys.stderr.isatty() and all(map(inputs.is_listed_fast, arguments)):
            total = sum(1 for _ in find())
            skipped.clear()
        progress = Progress(total, len(table.done))
        items = (item for item in find() if not table.has(item.shown))
        if any(map(buckets.is_url, arguments)):
            items = map_in_threads(inputs.fetch, items, threads=inputs.REQUESTS)
        for row in score_rows.stream(items):
            failed += row["score"] is None
            table.write(row)
            progress.advance(failed)
            if stop.exit_code is not None:
                break
        progress.close()
    if skipped:
        logging.warning("%s", skipped)
    return failed
