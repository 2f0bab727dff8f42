"""What a run tells while it goes on: `metrics.jsonl`, TensorBoard, the terminal.

`metrics.jsonl` is the record: a resumed run cuts it back to the step it resumes at, so
that at the end it has every step once, as if the run had never been interrupted.
"""

import functools
import json
import math
import pathlib
import sys
import time

from absl import logging
from tqdm import tqdm

from arniqa_jax.storage.files import write_atomically
from arniqa_jax.storage.workdir import Workdir

# Fields that measure time and so differ from run to run.
TIMING_FIELDS = ("images_per_second", "share_of_peak", "data_wait", "seconds")
# Seconds between two lines where the output is no terminal.
_LINE_EVERY = 10.0


class MetricsLog:
    """Writes the metrics of a run to all places that want them.

    Attributes:
      history: the lines of `metrics.jsonl` up to the step that the run starts at.
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
    ):
        """Opens the log and cuts off what lies beyond `start_step`.

        Args:
          workdir: where it lies.
          start_step: step that the run resumes at; 0 for a new one.
          total_steps: step at which it ends.
          tensorboard: whether to write TensorBoard events.
          wandb_project: project of Weights & Biases; empty for none.
          writes: whether this process writes (one of several does).
        """
        self._total = total_steps
        self._last_line = 0.0
        self._writers = []
        self._path = workdir.metrics
        self._writes = writes
        self.history = read(workdir.metrics, until=start_step)
        if writes:
            lines = "".join(json.dumps(line) + "\n" for line in self.history)
            write_atomically(workdir.metrics, lines)
            if tensorboard:
                self._writers.append(_TensorBoard(workdir.path, start_step))
            if wandb_project:
                self._writers.append(_WeightsAndBiases(workdir.path, wandb_project))
        self._bar = tqdm(
            total=total_steps,
            initial=start_step,
            unit="step",
            dynamic_ncols=True,
            disable=not (writes and sys.stderr.isatty()),
        )

    def step(self, step: int, metrics: dict[str, float]) -> None:
        """Records the metrics of one step."""
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

    def advance(self, step: int) -> None:
        """Moves the progress bar to `step`."""
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
        if self._writes:
            # Opened for each line: a killed process loses what it has not handed over.
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        for writer in self._writers:
            writer.write(line)

    def end_progress(self) -> None:
        """Leaves the last state of the bar on the terminal, for others to write on."""
        self._bar.close()

    def close(self) -> None:
        """Closes everything."""
        self.end_progress()
        for writer in self._writers:
            writer.close()


def read(path: pathlib.Path, *, until: int | None = None) -> list[dict]:
    """The lines of a `metrics.jsonl`, up to a step; a torn last line is left out."""
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
    """Flattens a line: `validation` becomes `validation/live` and so on."""
    flat = {}
    for name, value in line.items():
        if isinstance(value, dict):
            flat |= {f"{name}/{key}": v for key, v in value.items() if v is not None}
        elif name != "step":
            flat[f"train/{name}"] = value
    return flat


class _TensorBoard:
    def __init__(self, directory: pathlib.Path, start_step: int):
        self._directory = directory
        self._start_step = start_step

    @functools.cached_property
    def _writer(self):
        # Not before the first line: where PyTorch is installed this imports it.
        import tensorboardX

        # Events of a run that was killed beyond this step are shown no more.
        return tensorboardX.SummaryWriter(
            str(self._directory), purge_step=self._start_step + 1
        )

    def write(self, line: dict) -> None:
        for name, value in _scalars(line).items():
            self._writer.add_scalar(name, value, line["step"])

    def close(self) -> None:
        if "_writer" in self.__dict__:
            self._writer.close()


class _WeightsAndBiases:
    def __init__(self, directory: pathlib.Path, project: str):
        import wandb  # the extra `wandb`

        self._run = wandb.init(
            project=project, dir=directory, id=directory.name, resume="allow"
        )

    def write(self, line: dict) -> None:
        self._run.log(_scalars(line), step=line["step"])

    def close(self) -> None:
        self._run.finish()
