"""A model that scores images: an encoder and a regressor.

Shapes: N images, B images in a batch over all devices, C crops (5, or 1 for whole
images), S scales (2), P the side of a crop, D features of both scales.
"""

import dataclasses
import difflib
import functools
import hashlib
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from PIL import Image

from arniqa_jax import errors
from arniqa_jax.inference import preprocessing
from arniqa_jax.inference.encoder import Encoder
from arniqa_jax.inference.extractor import Extractor
from arniqa_jax.scoring import pictures
from arniqa_jax.scoring.pictures import Picture
from arniqa_jax.weights import encoders, model_directory, official, places, shipped
from arniqa_jax.weights.regressors import Regressor
from arniqa_jax.weights.torch_import import OFFICIAL_REGRESSORS

_HIGHEST = jax.lax.Precision.HIGHEST


def load(
    model: str | os.PathLike,
    *,
    checkpoint: str = "best",
    crops: str | None = None,
    batch_size: int = 0,
    precision: str = "highest",
    background: str = "black",
) -> "Scorer":
    """Load a model and return its scorer.

    Args:
      model: a model directory or the workdir of a run, on disk or in a bucket
        (`gs://`; `s3://` for a model directory), `DIRECTORY:NAME` for one of several
        regressors, the name of an official regressor such as `kadid10k`, which is
        downloaded once, `starter`, the small model of this package, or a model of the
        Hugging Face hub, `hf://ORG/REPO[@REVISION][:NAME]`.
      checkpoint: checkpoint of a workdir: `best`, `last` or a step.
      crops: `five`, `whole` or `whole_std`; by default those that the regressor was
        fitted on.
      batch_size: images per batch; 0 chooses a number that suits the devices.
      precision: precision of float32 convolutions on a TPU or GPU. `highest` computes
        in float32, so that scores agree with those of a CPU up to the order of sums.
        `default` uses bfloat16 passes on a TPU and TF32 on a GPU, which is faster, and
        its scores differ. `bfloat16` computes in bfloat16 on every device, also on a
        CPU, which is faster where the CPU has instructions for it (AVX512-BF16).
      background: what transparent pixels show: `black`, `white` or `R,G,B`.

    Raises:
      CheckpointError: there is no such model, or it is damaged.
      UsageError: the model has several regressors, and none was chosen.
    """
    if precision not in ("default", "high", "highest", "bfloat16"):
        raise errors.UsageError(
            f"precision={precision!r}: expected one of default, high, highest, bfloat16"
        )
    encoder, found = load_all(model, checkpoint)
    if len(found) > 1:
        raise errors.UsageError(
            f"{model} has several regressors: choose one of {', '.join(found)}, as "
            f"{model}:NAME"
        )
    return Scorer(
        dataclasses.replace(encoder, precision=precision),
        next(iter(found.values()), None),
        crops=crops,
        batch_size=batch_size,
        background=pictures.parse_background(background),
    )


def load_all(
    model: str | os.PathLike, checkpoint: str = "best"
) -> tuple[Encoder, dict[str, Regressor]]:
    """Load a model, and return its encoder and its regressors by name.

    Args:
      model, checkpoint: see `load`; a NAME in the model leaves one regressor.

    Raises:
      CheckpointError: there is no such model, or it is damaged.
      UsageError: the model has no regressor of this name.
    """
    if os.fspath(model) == shipped.NAME and not os.path.isdir(model):
        return shipped.read()
    directory, name = _find(os.fspath(model))
    encoder = encoders.load(directory, checkpoint)
    found = model_directory.find_regressors(places.fetch(directory), encoder)
    if name is None:
        return encoder, found
    if name not in found:
        raise errors.UsageError(
            f"{directory} has no regressor {name!r}: choose one of "
            f"{', '.join(found) or 'none'}, as {directory}:NAME"
        )
    return encoder, {name: found[name]}


def _find(model: str) -> tuple[str | pathlib.Path, str | None]:
    """Return the directory of a model, and the regressor's name if one is given."""
    if places.is_elsewhere(model):
        return places.split(model)
    directory, _, name = model.rpartition(":")
    if os.path.isdir(model):
        return pathlib.Path(model), None
    if directory and os.path.isdir(directory):
        return pathlib.Path(directory), name
    if model in OFFICIAL_REGRESSORS:
        return official.fetch(model), model
    names = (*OFFICIAL_REGRESSORS, shipped.NAME)
    near = difflib.get_close_matches(model, names, n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    raise errors.CheckpointError(
        f"there is no model {model!r}{hint} Expected a model directory, a workdir, "
        f"a URL of one, hf://ORG/REPO, or one of {', '.join(names)}"
    )


class Scorer:
    """Scores images with one encoder and one regressor.

    Attributes:
      encoder: the encoder.
      regressor: the regressor; None if the model gives only features.
      crops: a key of `preprocessing.CROPS`.
      background: shown by transparent pixels, (R, G, B).
      params: the parameters of `score_fn`: `encoder`, the folded weights, and
        `regressor`, its `weights` (D,) and `intercept`, float32.
      extractor: computes the features of a stream of images.
    """

    def __init__(
        self,
        encoder: Encoder,
        regressor: Regressor | None,
        *,
        crops: str | None = None,
        batch_size: int = 0,
        background: pictures.RGB = pictures.BLACK,
    ):
        """Put the model on all devices of this process; see `load`."""
        fitted = regressor.crops if regressor else "five"
        self.crops = preprocessing.check_crops(crops or fitted, field="crops")
        if regressor and self.crops != fitted:
            logging.warning(
                "scoring crops=%s by a regressor fitted on crops=%s", crops, fitted
            )
        self.encoder = encoder
        self.regressor = regressor
        self.background = background
        self.extractor = Extractor(encoder, crops=self.crops, batch_size=batch_size)
        self.params = {"encoder": self.extractor.weights}
        if regressor:
            self.params["regressor"] = {
                "weights": np.float32(regressor.weights_D),
                "intercept": np.float32(regressor.intercept),
            }

    def score(self, images: Sequence[Picture], *, raw: bool = False) -> np.ndarray:
        """Return the scores of images.

        Args:
          images: paths, encoded bytes, Pillow images, or arrays (H, W, 3) of uint8 or
            of float in [0, 1]; of any sizes.
          raw: whether to use the unit and direction of the regressor's dataset.

        Returns:
          float32 (N,); unless `raw`, higher is better, nominally 0..1 and not clipped.

        Raises:
          ImageError: an image cannot be read; the message names it.
          UsageError: the model has no regressor.
        """
        return self.scores_of(self.features(images), raw=raw).mean(1)

    def scores_of(self, features_NCD: np.ndarray, *, raw: bool = False) -> np.ndarray:
        """Return the scores of each crop, float32 (N, C), given features.

        Their mean over the crops is the score of the image.

        Raises:
          UsageError: the model has no regressor.
        """
        regressor = self.require_regressor()
        images, crops, width = features_NCD.shape
        scores = regressor.raw_scores(features_NCD.reshape(images * crops, 1, width))
        scores = scores if raw else regressor.public_scores(scores)
        return scores.reshape(images, crops).astype(np.float32)

    def features(self, images: Sequence[Picture]) -> np.ndarray:
        """Return the features of images, float32 (N, C, D).

        The images may have the same types as in `score`.
        """
        if isinstance(images, str | os.PathLike | bytes | Image.Image):
            raise errors.UsageError("expected a list of images, found a single one")
        arrays = (self._pixels(image, index) for index, image in enumerate(images))
        views = ((None, self.extractor.view(array)) for array in arrays)
        found = [features_CD for _, features_CD in self.extractor.embed(views)]
        return (
            np.stack(found)
            if found
            else np.empty((0, *self.extractor.shape), np.float32)
        )

    def require_maps(self) -> None:
        """Raise UsageError if windows of an image cannot be scored.

        The deviation over the few positions of a window differs from that over the
        image.
        """
        if self.crops == "whole_std":
            raise errors.UsageError(
                "a map needs a model for crops=five or crops=whole, not whole_std"
            )

    def quality_map(self, image: Picture, *, stride: int = 0) -> np.ndarray:
        """Return the scores of a window that slides over an image.

        Args:
          image: an image as in `score`.
          stride: pixels between windows; 0 for a quarter of their side.

        Returns:
          float32 (rows, columns), on the scale of `score`; (1, 1) for a small image.

        Raises:
          UsageError: the crops are `whole_std`.
        """
        from arniqa_jax.scoring import heat_map

        self.require_maps()
        stride = stride or max(1, self.encoder.patch_size // 4)
        return heat_map.quality_map(self, self._pixels(image, 0), stride)

    def _pixels(self, image: Picture, index: int) -> np.ndarray:
        return pictures.to_array(image, f"image {index}", self.background)

    def score_fn(self, params: dict[str, Any], images_NHWC: jax.Array) -> jax.Array:
        """Return the scores of images; for use as a loss.

        The function is pure and differentiable in both arguments.

        Args:
          params: a tree like `self.params`.
          images_NHWC: float in [0, 1], all of one size.

        Returns:
          float32 (N,), higher is better. The half-scale image is not rounded to 8 bits,
          unlike in `score`, so the two agree to about 1e-3.
        """
        if self.crops == "five":
            views = [
                preprocessing.differentiable_crops(images_NHWC, self.encoder.patch_size)
            ]
        else:
            scales = preprocessing.differentiable_scales(images_NHWC)
            views = [scale[:, None, None] for scale in scales]
        return self._scores_of_views(params, views)

    def score_crops(self, params: dict[str, Any], crops_BCSHW3: jax.Array) -> jax.Array:
        """Return the scores (B,) of crops, uint8 or float in [0, 1]; pure."""
        return self._scores_of_views(params, [crops_BCSHW3])

    def _scores_of_views(self, params: dict[str, Any], views: list) -> jax.Array:
        regressor = self.require_regressor()
        features_BCD = jnp.concatenate(
            [self.extractor.crop_features(params["encoder"], view) for view in views],
            axis=-1,
        )
        linear = params["regressor"]
        raw_B = jnp.dot(features_BCD.mean(1), linear["weights"], precision=_HIGHEST)
        return regressor.public_scores(raw_B + linear["intercept"])

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything that a score depends on except the image.

        This is the encoder, the regressor, the crops, the background and the precision.
        """
        described = [self.encoder.fingerprint, self.encoder.precision, self.crops]
        described += [self.background]
        if self.regressor:
            weights_D = np.asarray(self.regressor.weights_D, np.float64)
            described += [hashlib.sha256(weights_D.tobytes()).hexdigest()]
            described += [self.regressor.intercept, self.regressor.higher_is_better]
            described += [*self.regressor.score_range]
        return hashlib.sha256(repr(described).encode()).hexdigest()

    def require_regressor(self) -> Regressor:
        """Return the regressor; raise UsageError if the model has none."""
        if self.regressor is None:
            raise errors.UsageError(
                f"the model of {self.encoder.name} has no regressor, only features: "
                "give --regressor to arniqa_jax.convert, or fit one with "
                "arniqa_jax.evaluate"
            )
        return self.regressor
