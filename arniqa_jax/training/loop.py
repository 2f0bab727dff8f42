"""The pre-training loop: build, restore, run, validate, save, evaluate at the end.

The order within an iteration is a contract: evaluate, save, next batch, step, log the
previous step. So the accelerator is busy while the host logs. And a checkpoint at a
step implies that its validation is done and its metrics are written.
"""

import contextlib
import math
import os
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict
from tqdm.contrib.logging import logging_redirect_tqdm

from arniqa_jax import errors
from arniqa_jax.data import pairs, photos
from arniqa_jax.data.workers import Batches
from arniqa_jax.datasets.labelled import Benchmark
from arniqa_jax.distributed import agreement, sharding
from arniqa_jax.distributed.stops import StopRequest
from arniqa_jax.evaluation import loading
from arniqa_jax.inference.encoder import Encoder
from arniqa_jax.storage.checkpoints import Checkpoints
from arniqa_jax.storage.workdir import Workdir
from arniqa_jax.training import (
    final_evaluation,
    metrics_log,
    optimizers,
    overview,
    pictures,
    plans,
    profiler,
    resume,
    throughput,
    train_step,
)
from arniqa_jax.training.train_step import TrainState
from arniqa_jax.weights import encoders


def run(config: ConfigDict, workdir_path: os.PathLike) -> int:
    """Pre-train as the config says, or resume, and evaluate at the end.

    Args:
      config: the tree of `configs/pretrain.py`.
      workdir_path: directory of the run; may be `gs://BUCKET/RUN`.

    Returns:
      The exit code: 0 if the run is complete, or the code of a requested stop.
    """
    started = time.monotonic()
    plans.check(config)
    workdir = Workdir(workdir_path)
    with contextlib.ExitStack() as stack:
        stack.enter_context(agreement.reporting_lost_process())
        agreement.on_first_process(lambda: stack.enter_context(workdir.lock()))
        if jax.process_index() > 0:
            workdir.fetch()
        mesh = sharding.make_mesh()
        sharding.check_batch_size(
            config.train.batch_size, mesh, config.train.accumulation
        )
        source = photos.open_photos(config.data.root, config.data.source)
        benchmarks = loading.from_config(config)
        agreement.on_first_process(lambda: resume.settle(workdir, config, source))
        checkpoints = Checkpoints(workdir.checkpoints, config.to_dict())
        stack.callback(checkpoints.close)
        return _Run(
            config, workdir, mesh, source, benchmarks, checkpoints, started
        ).execute()


def _due(step: int, every: int, last: bool) -> bool:
    return last or (every > 0 and step % every == 0)


class _Pending(NamedTuple):
    """A step whose metrics are still on the device."""

    step: int
    metrics: dict[str, jax.Array]
    records: np.ndarray
    data_wait: float


class _Run:
    """One run, from the state in the workdir to the end."""

    def __init__(
        self,
        config: ConfigDict,
        workdir: Workdir,
        mesh: jax.sharding.Mesh,
        source: photos.PhotoSource,
        benchmarks: Callable[[], list[Benchmark]],
        checkpoints: Checkpoints,
        started: float,
    ):
        self._started = started
        self._config = config
        self._workdir = workdir
        self._mesh = mesh
        self._source = source
        self._benchmarks = benchmarks
        self._checkpoints = checkpoints
        self._plan = plans.make_plan(config, len(source))
        self._model = encoders.build_model(config)
        self._schedule = plans.learning_rates(config, self._plan)
        self._optimizer = optimizers.optimizer(
            name=config.optimizer.name,
            schedule=self._schedule,
            momentum=config.optimizer.momentum,
            weight_decay=config.optimizer.weight_decay,
        )
        self._throughput = throughput.Throughput(
            self._model, config.data.patch_size, 4 * config.train.batch_size, mesh
        )
        self._writes = jax.process_index() == 0
        self._agreed_stop: int | None = None

    def execute(self) -> int:
        """Train from the restored state, then evaluate; return the exit code."""
        state = self._restore()
        start = int(state.step)
        self._log = metrics_log.MetricsLog(
            self._workdir,
            start_step=start,
            total_steps=self._plan.total,
            tensorboard=self._config.log.tensorboard,
            wandb_project=self._config.log.wandb_project,
            writes=self._writes,
            config=self._config.to_dict(),
        )
        with contextlib.closing(self._log), logging_redirect_tqdm():
            tested = any(
                "test" in line and line["step"] == start for line in self._log.history
            )
            if start == self._plan.total and agreement.agree(tested):
                logging.info(
                    "%s is finished at step %d: nothing is left to do. Its tables are "
                    "in %s; for more steps raise train.steps or train.epochs",
                    self._workdir.location,
                    start,
                    self._workdir.shown(self._workdir.results),
                )
                return 0
            if self._writes:
                overview.describe_run(len(self._source), self._plan, state.params)
            with StopRequest() as stop:
                exit_code = self._train(state, stop)
            if exit_code is None:
                final_evaluation.run(
                    self._config,
                    self._workdir,
                    self._benchmarks(),
                    self._log,
                    step=self._plan.total,
                )
        return exit_code or 0

    def _restore(self) -> TrainState:
        """Return the state of the latest checkpoint, otherwise the initial state."""
        replicated = sharding.replicated(self._mesh)

        def initial_state(variables):
            return train_step.initial_state(variables, self._optimizer)

        latest = agreement.agree(self._checkpoints.latest or 0)
        if latest == 0:
            variables = encoders.initial_variables(self._config)
            # Compile one program, not a small one for each shape in the optimizer's
            # state.
            return sharding.replicate(jax.jit(initial_state)(variables), self._mesh)
        logging.info("resuming at step %d", latest)
        abstract = jax.eval_shape(
            initial_state, encoders.abstract_variables(self._model)
        )
        return self._checkpoints.restore(latest, abstract, replicated)

    def _train(self, state: TrainState, stop: StopRequest) -> int | None:
        """Run to the last step; return an exit code if a stop was requested."""
        config, plan, start = self._config, self._plan, int(state.step)
        step_fn = train_step.make_step(
            self._model,
            self._optimizer,
            self._schedule,
            self._mesh,
            temperature=config.loss.temperature,
            scale_negatives=config.loss.scale_negatives,
            accumulation=config.train.accumulation,
            degradation_options=dict(**config.degradation),
        )
        key = train_step.run_key(config.seed, self._mesh)
        bad_photographs = pairs.BadPhotographs(self._source, config.data.max_bad_share)
        pending = None
        trace = profiler.Profiler(
            self._workdir.profile, config.log.profile_steps if self._writes else ""
        )
        with self._batches(start) as batches, contextlib.closing(trace):
            # Compile while the workers start.
            batch_size, size = config.train.batch_size, config.data.patch_size
            abstract_batch = train_step.abstract_batch(batch_size, size)
            step_fn = step_fn.lower(state, abstract_batch, key).compile()
            self._clock = time.monotonic()
            self._log.spent("startup_seconds", self._clock - self._started)
            for step in range(start, plan.total + 1):
                last = step == plan.total
                # With several processes, none may stop alone. A stop request is part of
                # the next batch, and all processes read it from the metrics of that
                # step.
                is_only_process = jax.process_count() == 1
                exit_code = stop.exit_code if is_only_process else self._agreed_stop
                stopping = last or exit_code is not None
                new = step > start
                evaluate = new and _due(step, plan.evaluate_every, last)
                save = new and _due(step, plan.save_every, stopping)
                if evaluate or save:
                    # A non-finite loss must end the run before its state is saved.
                    self._log_step(pending)
                    pending = None
                srcc = self._validate(state, step) if evaluate else None
                if save:
                    with self._log.measuring("checkpoint_seconds"):
                        self._upload()
                        self._checkpoints.save(state, srcc=srcc)
                if evaluate or save:
                    self._clock = time.monotonic()
                if stopping:
                    break

                started = time.monotonic()
                batch = next(batches)
                data_wait = time.monotonic() - started
                bad_photographs.update(batch)
                stop_code = stop.exit_code or 0
                batch["stop"] = np.full_like(batch["seed"], stop_code, np.int32)
                on_device = {name: batch[name] for name in train_step.BATCH}
                # The previous step still runs, because its metrics are read only below.
                # Meanwhile this batch is transferred and this step is queued. No other
                # transfer is allowed here.
                trace.before(step + 1)
                with jax.transfer_guard("disallow"):
                    on_device = sharding.put_batch(on_device, self._mesh)
                    state, metrics, preview = step_fn(state, on_device, key)
                self._log_step(pending)
                trace.after(step + 1, metrics)
                pending = _Pending(step + 1, metrics, batch["record"], data_wait)
                if _due(step, config.train.picture_every, False):
                    self._draw(step + 1, preview)
        with self._log.measuring("checkpoint_seconds"):
            self._checkpoints.wait()
        return exit_code

    def _batches(self, start: int) -> Batches:
        data = self._config.data
        return pairs.pair_batches(
            self._source,
            seed=self._config.seed,
            patch_size=data.patch_size,
            batch_size=self._config.train.batch_size,
            start_step=start,
            workers=data.workers,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            pairing=data.pairing,
            max_bad_share=data.max_bad_share,
            cache_mib=data.cache_mib,
        )

    def _log_step(self, pending: _Pending | None) -> None:
        """Wait for the metrics of a step, check them and write them."""
        if pending is None:
            return
        on_host = jax.device_get(pending.metrics)
        metrics = {name: on_host[name].item() for name in train_step.METRICS}
        self._agreed_stop = on_host["stop"].item() or None
        # The time starts at the end of the previous step, because the next step is
        # already queued on the device.
        now = time.monotonic()
        seconds, self._clock = now - self._clock, now
        if not math.isfinite(metrics["loss"]):
            saved = self._checkpoints.latest
            raise errors.ArniqaError(
                f"the loss of step {pending.step} is {metrics['loss']} (photographs "
                f"{pending.records.ravel().tolist()}); the last good checkpoint is "
                f"{'none' if saved is None else f'step {saved}'} in "
                f"{self._workdir.checkpoints}. Try a lower optimizer.learning_rate or "
                "model.dtype=float32"
            )
        self._log.advance(pending.step)
        if _due(pending.step, self._config.train.log_every, False):
            metrics |= {**self._throughput.of(seconds), "data_wait": pending.data_wait}
            self._log.step(pending.step, metrics)

    def _upload(self) -> None:
        """Upload the metrics to a bucket, before the checkpoint of their last step."""
        if self._writes:
            self._log.flush()
            self._workdir.upload()

    def _draw(self, step: int, preview: train_step.Preview) -> None:
        """Write the picture of this process's first pairs."""
        if self._writes:
            here = jax.tree.map(
                lambda x: np.asarray(x.addressable_shards[0].data), preview
            )
            path = self._workdir.pictures / f"pairs_{step:06d}.png"
            pictures.pairs(path, here.images, here.chains)
            self._log.picture(step, "pairs", path)

    def _validate(self, state: TrainState, step: int) -> float | None:
        """Return the mean SRCC on the validation splits; None if it is undefined."""
        # SciPy takes a second to import, so it must not delay the first step.
        from arniqa_jax.evaluation import protocol

        variables = {"params": state.params, "batch_stats": state.batch_stats}
        encoder = Encoder(
            self._model, variables, f"step {step}", self._config.data.patch_size
        )
        with self._log.measuring("evaluation_seconds"):
            values = protocol.validate(
                encoder,
                self._benchmarks(),
                alpha=self._config.evaluation.validation_alpha,
                crops=self._config.evaluation.crops,
                cache_dir=self._workdir.features,
                workers=self._config.data.workers,
            )
        self._log.evaluation(step, "validation", values)
        return None if math.isnan(values["mean"]) else values["mean"]
