"""The evaluation at the end of a run: tables, pages and the loss curve."""

import math
from collections.abc import Sequence

import jax
from ml_collections import ConfigDict

from arniqa_jax.datasets.labelled import Benchmark
from arniqa_jax.distributed import agreement
from arniqa_jax.storage.workdir import Workdir
from arniqa_jax.training import metrics_log, pictures
from arniqa_jax.weights import encoders


def run(
    config: ConfigDict,
    workdir: Workdir,
    benchmarks: Sequence[Benchmark],
    log: metrics_log.MetricsLog,
    *,
    step: int,
) -> None:
    """Evaluate the best checkpoint; for a random init, also the untrained encoder.

    Args:
      config: the config of the run.
      workdir: its directory.
      benchmarks: the datasets.
      log: gets the test SRCC, and the tables.
      step: the last step of the run.
    """
    # SciPy takes a second to import, so it must not delay the first step.
    from arniqa_jax.evaluation import comparison, job, page, protocol, report

    log.end_progress()
    writes = jax.process_index() == 0
    random = config.model.init == "random"
    results = []
    for checkpoint in ["untrained"] * random + ["best"]:
        with log.measuring("evaluation_seconds"):
            evaluated = protocol.evaluate(
                encoders.load(workdir.location, checkpoint),
                benchmarks,
                cache_dir=workdir.features,
                crops=config.evaluation.crops,
                workers=config.data.workers,
                seed=config.seed,
            )
        if writes:
            directory = report.new_directory(workdir.results, evaluated)
            report.write(evaluated, directory, config.to_dict())
            page.write(evaluated, benchmarks, {}, directory)
        results.append(evaluated)
    if writes:
        print(report.terminal_table(evaluated))
        if random:
            differences = comparison.compare(*results)
            print(f"\n{report.side_by_side(*results, differences)}")
            directory = workdir.results / "comparison"
            job.write_comparison(*results, differences, benchmarks, directory)
        # A batch of N pairs has 4N embeddings, and each is compared with 4N - 1 others,
        # or without those of the other scale with 4N - 3.
        left_out = 1 if config.loss.scale_negatives else 3
        chance = math.log(4 * config.train.batch_size - left_out)
        lines = metrics_log.read(workdir.metrics)
        pictures.loss_curve(workdir.pictures / "loss.png", lines, chance)
        log.tables(step, report.csv_tables(evaluated))
        print(f"\nwritten to {workdir.location}: results/, pictures/")
    srcc = {d.name: d.figures["srcc"].median for d in evaluated.datasets}
    log.evaluation(step, "test", srcc)
    agreement.wait_for_all("the run is written")
