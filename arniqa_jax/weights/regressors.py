"""Regressors in the format of a model directory: `NAME.json` with `NAME.npz`.

A regressor maps the features of one encoder to the scores of one dataset. The JSON file
contains the range and the direction of these scores. Nothing is pickled.
"""

import dataclasses
import io
import json
import pathlib
import zipfile

import numpy as np

from arniqa_jax import errors
from arniqa_jax.storage.files import write_atomically
from arniqa_jax.version import __version__

FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Regressor:
    """A linear map from features to scores.

    Attributes:
      dataset: title of the dataset that it was fitted on.
      alpha: ridge penalty.
      score_range: the raw scores that map to the public scores 0 and 1.
      higher_is_better: False for DMOS; the public score is then 1 minus the scaled
        score.
      crops: a key of `preprocessing.CROPS`.
      patch_size: side of a crop in pixels.
      encoder: fingerprint of the encoder that it was fitted on.
      images: number of images that it was fitted on.
      weights_D: float64 (D,).
      intercept: added to the weighted features; the sum is the raw score.
    """

    dataset: str
    alpha: float
    score_range: tuple[float, float]
    higher_is_better: bool
    crops: str
    patch_size: int
    encoder: str
    images: int
    weights_D: np.ndarray
    intercept: float

    def raw_scores(self, features_NCD: np.ndarray) -> np.ndarray:
        """Return scores (N,) in the unit of the dataset, the mean over the crops."""
        return features_NCD.astype(np.float64).mean(1) @ self.weights_D + self.intercept

    def public_scores(self, raw_N: np.ndarray) -> np.ndarray:
        """Return scores scaled to 0..1, higher is better, and not clipped."""
        low, high = self.score_range
        scaled_N = (raw_N - low) / (high - low)
        return scaled_N if self.higher_is_better else 1 - scaled_N


def write(regressor: Regressor, directory: pathlib.Path, name: str) -> None:
    """Write `NAME.npz`, then `NAME.json`, by which `read` finds it.

    Args:
      regressor: what to write.
      directory: created if it does not exist.
      name: name of the two files.
    """
    directory.mkdir(parents=True, exist_ok=True)
    fields = {
        field.name: getattr(regressor, field.name)
        for field in dataclasses.fields(regressor)
        if field.name not in ("weights_D", "intercept")
    }
    described = {"format_version": FORMAT_VERSION, "arniqa_jax": __version__, **fields}
    buffer = io.BytesIO()
    np.savez(
        buffer, weights=regressor.weights_D, intercept=np.array(regressor.intercept)
    )
    write_atomically(directory / f"{name}.npz", buffer.getvalue())
    write_atomically(directory / f"{name}.json", json.dumps(described, indent=1) + "\n")


def read(directory: pathlib.Path, name: str) -> Regressor:
    """Return the regressor that `write` wrote.

    Raises:
      CheckpointError: it is missing or damaged, or has another format version.
    """
    path = directory / f"{name}.json"
    try:
        described = json.loads(path.read_text())
        version = described.pop("format_version")
        if version != FORMAT_VERSION:
            raise errors.CheckpointError(
                f"{path} has the format version {version}, this program reads "
                f"{FORMAT_VERSION}: evaluate again"
            )
        del described["arniqa_jax"]
        described["score_range"] = tuple(described["score_range"])
        with (
            open(directory / f"{name}.npz", "rb") as file,
            np.load(file, allow_pickle=False) as arrays,
        ):
            weights_D, intercept = arrays["weights"], float(arrays["intercept"])
        return Regressor(**described, weights_D=weights_D, intercept=intercept)
    except (
        *(OSError, ValueError, KeyError, TypeError, AttributeError),
        *(EOFError, zipfile.BadZipFile),
    ) as error:
        raise errors.CheckpointError(
            f"{path} cannot be read as a regressor ({error!r}): fit it again with "
            f"arniqa_jax.evaluate"
        ) from error
