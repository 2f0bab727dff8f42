"""A run in Weights & Biases: its config, metrics, pictures and tables."""

import csv
import io
import pathlib
import secrets
from typing import Any

from arniqa_jax import errors
from arniqa_jax.storage.files import write_atomically
from arniqa_jax.storage.workdir import Workdir


class WeightsAndBiases:
    """One run of a project, which a resumed run continues."""

    def __init__(self, workdir: Workdir, project: str, config: dict[str, Any]):
        """Start or continue the run.

        Its id is drawn once and kept in the run directory. The name of the directory is
        no id: two directories with the same name are two runs.

        Args:
          workdir: the run directory.
          project: the name of the project.
          config: the config of the run.

        Raises:
          ArniqaError: the package `wandb` is not installed.
        """
        try:
            import wandb
        except ImportError as error:
            raise errors.ArniqaError(
                f"log.wandb_project={project} needs pip install 'arniqa_jax[wandb]'"
            ) from error
        self._wandb = wandb
        if not workdir.wandb_id.exists():
            write_atomically(workdir.wandb_id, secrets.token_hex(8) + "\n")
        self._run = wandb.init(
            project=project,
            dir=workdir.path,
            id=workdir.wandb_id.read_text().strip(),
            name=workdir.location.rsplit("/", 1)[-1],
            config=config,
            resume="allow",
        )
        # Use our own steps: W&B's steps never decrease, but those of a resumed run may.
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Send the metrics of a step."""
        self._run.log({"step": step, **scalars})

    def picture(self, step: int, name: str, path: pathlib.Path) -> None:
        """Send an image file."""
        self._run.log({"step": step, f"pictures/{name}": self._wandb.Image(str(path))})

    def table(self, step: int, name: str, text: str) -> None:
        """Send a table, given as the text of a .csv file."""
        header, *rows = csv.reader(io.StringIO(text))
        table = self._wandb.Table(columns=header, data=rows)
        self._run.log({"step": step, f"tables/{name}": table})

    def close(self) -> None:
        """Wait until everything is sent."""
        self._run.finish()
