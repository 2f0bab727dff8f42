"""Training metrics: `metrics.jsonl`, TensorBoard, Weights & Biases, the terminal.

`metrics.jsonl` is the permanent record. A resumed run truncates it at the step where it
resumes, so that at the end it has every step once, as if nothing had interrupted the
run.
"""

import contextlib
import functools
import json
import math
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any

from absl import logging
from tqdm import tqdm

from arniqa_jax.storage.bucket_paths import AnyPath
from arniqa_jax.storage.files import write_atomically
from arniqa_jax.storage.workdir import Workdir
from arniqa_jax.training.weights_and_biases import WeightsAndBiases

# Fields that measure time, and therefore differ between runs.
_PARTS = ("startup_seconds", "checkpoint_seconds", "evaluation_seconds")
TIMING_FIELDS = (
    *("images_per_second", "share_of_peak", "data_wait", "seconds"),
    *_PARTS,
)
# Seconds between two log lines if the output is not a terminal.
_LINE_EVERY = 10.0


class MetricsLog:
    """Writes the metrics of a run to all its outputs.

    Attributes:
      history: the lines of `metrics.jsonl` up to the step where the run starts.
    """

    def __init__(
        self,
        workdir: Workdir,
        *,
        start_step: int,
        total_steps: int,
        tensorboard: bool,
        wandb_project: str,
        writes: bool,
        config: dict[str, Any] | None = None,
    ):
        """Open the log and remove lines after `start_step`.

        Args:
          workdir: the directory of the run.
          start_step: the step where the run resumes; 0 for a new run.
          total_steps: the step where the run ends.
          tensorboard: whether to write TensorBoard events.
          wandb_project: project of Weights & Biases; empty for none.
          writes: whether this process writes; true for one process of a run.
          config: the config of the run, for Weights & Biases.
        """
        self._total = total_steps
        self._last_line = 0.0
        self._writers = []
        self._wandb: WeightsAndBiases | None = None
        self._spent: dict[str, float] = {}
        self._path = workdir.metrics
        self._writes = writes
        self.history = read(workdir.metrics, until=start_step)
        if writes:
            lines = "".join(json.dumps(line) + "\n" for line in self.history)
            write_atomically(workdir.metrics, lines)
            if tensorboard:
                self._writers.append(_TensorBoard(workdir.path, start_step))
            if wandb_project:
                self._wandb = WeightsAndBiases(workdir, wandb_project, config or {})
        self._bar = tqdm(
            total=total_steps,
            initial=start_step,
            unit="step",
            dynamic_ncols=True,
            disable=not (writes and sys.stderr.isatty()),
        )

    def step(self, step: int, metrics: dict[str, float]) -> None:
        """Record the metrics of one step."""
        self._write({"step": step, **metrics})
        shown = (
            f"loss {metrics['loss']:.4f}, "
            f"{metrics['images_per_second']:.1f} images/s, "
            f"waited {metrics['data_wait']:.2f} s"
        )
        self._bar.set_postfix_str(shown, refresh=False)
        if not self._writes or not self._bar.disable:
            return
        now = time.monotonic()
        if now - self._last_line >= _LINE_EVERY or step == self._total:
            self._last_line = now
            logging.info("step %d/%d: %s", step, self._total, shown)

    def spent(self, part: str, seconds: float) -> None:
        """Record time that is not spent in steps; it is written with the next line.

        Args:
          part: `startup_seconds`, `checkpoint_seconds` or `evaluation_seconds`.
          seconds: added to the time spent on this part since the last line.
        """
        self._spent[part] = self._spent.get(part, 0.0) + seconds

    @contextlib.contextmanager
    def measuring(self, part: str) -> Iterator[None]:
        """Record the time of the block, like `spent`."""
        started = time.monotonic()
        yield
        self.spent(part, time.monotonic() - started)

    def picture(self, step: int, name: str, path: pathlib.Path) -> None:
        """Send an image file to the outputs that show pictures."""
        if self._wandb:
            self._wandb.picture(step, name, path)

    def tables(self, step: int, tables: dict[str, str]) -> None:
        """Send tables, texts of .csv files by name, to the outputs that show tables."""
        if self._wandb:
            for name, text in tables.items():
                self._wandb.table(step, name, text)

    def advance(self, step: int) -> None:
        """Move the progress bar to `step`."""
        self._bar.update(step - self._bar.n)

    def evaluation(self, step: int, kind: str, values: dict[str, float]) -> None:
        """Record SRCCs by dataset; `kind` is `validation` or `test`.

        NaN, an SRCC that is undefined, is written as null.
        """
        known = {n: None if math.isnan(v) else v for n, v in values.items()}
        self._write({"step": step, kind: known})
        shown = ", ".join(
            f"{name} undefined" if value is None else f"{name} {value:.4f}"
            for name, value in known.items()
        )
        logging.info("step %d: %s SRCC: %s", step, kind, shown)

    def _write(self, line: dict) -> None:
        line, self._spent = {**line, **self._spent}, {}
        if self._writes:
            # The file is opened for each line, because a killed process loses buffered
            # lines.
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        for writer in self._writers:
            writer.write(line)
        if self._wandb:
            self._wandb.write(line["step"], _scalars(line))

    def end_progress(self) -> None:
        """Leave the progress bar in its last state; others can print below it."""
        self._bar.close()

    def flush(self) -> None:
        """Write everything to the files, which may be uploaded then."""
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        """Close the progress bar and all writers."""
        self.end_progress()
        for writer in self._writers:
            writer.close()
        if self._wandb:
            self._wandb.close()


def read(path: AnyPath, *, until: int | None = None) -> list[dict]:
    """Return the complete lines of a `metrics.jsonl`, up to the step `until`."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            break  # the process was killed while it wrote this line
        if until is None or line["step"] <= until:
            lines.append(line)
    return lines


def _scalars(line: dict) -> dict[str, float]:
    """Return a flat line: `validation` becomes `validation/live` and so on."""
    flat = {}
    for name, value in line.items():
        if isinstance(value, dict):
            flat |= {f"{name}/{key}": v for key, v in value.items() if v is not None}
        elif name in _PARTS:
            flat[f"time/{name}"] = value
        elif name != "step":
            flat[f"train/{name}"] = value
    return flat


class _TensorBoard:
    def __init__(self, directory: pathlib.Path, start_step: int):
        self._directory = directory
        self._start_step = start_step

    @functools.cached_property
    def _writer(self):
        # Import at the first line only, because tensorboardX imports PyTorch if it is
        # installed.
        import tensorboardX

        # TensorBoard then hides events after the start step, written before a kill.
        return tensorboardX.SummaryWriter(
            str(self._directory), purge_step=self._start_step + 1
        )

    def write(self, line: dict) -> None:
        for name, value in _scalars(line).items():
            self._writer.add_scalar(name, value, line["step"])

    def flush(self) -> None:
        if "_writer" in self.__dict__:
            self._writer.flush()

    def close(self) -> None:
        if "_writer" in self.__dict__:
            self._writer.close()
