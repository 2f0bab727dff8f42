"""A model that scores images: encoder, regressor, and the way from one to the other.

Shapes: N images, B images in a batch over all devices, C crops (5, or 1 for whole
images), S scales (2), P the side of a crop, D features of both scales.
"""

import dataclasses
import difflib
import functools
import itertools
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from PIL import Image

from arniqa_jax import encoders, errors, model_directory, official_weights, sharding
from arniqa_jax.data import crops as image_crops
from arniqa_jax.evaluation.regressors import Regressor
from arniqa_jax.model.encoder import Encoder
from arniqa_jax.scoring import batches
from arniqa_jax.scoring.batches import Scales
from arniqa_jax.scoring.picture import Picture, to_array

CROPS = {
    "five": ("center", "top_left", "bottom_left", "top_right", "bottom_right"),
    "whole": ("whole",),
}
# Images of ten crops each that a device takes at once. More do not help a CPU, and
# the first score comes sooner.
_IMAGES_PER_DEVICE = {"cpu": 1, "gpu": 32, "tpu": 32}
# Whole images compile a program for each size: so many are kept.
_KEPT_PROGRAMS = 64
_HIGHEST = jax.lax.Precision.HIGHEST


def load(
    model: str | os.PathLike,
    *,
    checkpoint: str = "best",
    crops: str | None = None,
    batch_size: int = 0,
    precision: str = "highest",
) -> "Scorer":
    """Loads a model.

    Args:
      model: a model directory or the workdir of a run, `DIRECTORY:NAME` for one of
        several regressors, or the name of an official regressor such as `kadid10k`,
        which is downloaded once.
      checkpoint: of a workdir: `best`, `last` or a step.
      crops: `five` or `whole`; by default what the regressor was fitted on.
      batch_size: images in a batch; 0 for a number that suits the devices.
      precision: of float32 convolutions on a TPU or GPU. `highest` computes in float32:
        scores agree with those of a CPU up to the order of sums. `default` takes
        bfloat16 passes on a TPU and TF32 on a GPU: faster, and scores differ.

    Raises:
      CheckpointError: there is no such model, or it is damaged.
      UsageError: several regressors, and no choice.
    """
    directory, name = _find(os.fspath(model))
    if precision not in ("default", "high", "highest"):
        raise errors.UsageError(
            f"precision={precision!r}: expected one of default, high, highest"
        )
    encoder = encoders.load(directory, checkpoint)
    encoder = dataclasses.replace(encoder, precision=precision)
    found = model_directory.find_regressors(directory, encoder)
    if name is None and len(found) == 1:
        (name,) = found
    if (name or found) and name not in found:
        wanted = f"no regressor {name!r}" if name else "several regressors"
        raise errors.UsageError(
            f"{directory} has {wanted}: choose one of "
            f"{', '.join(found) or 'none'}, as {directory}:NAME"
        )
    regressor = found.get(name)
    return Scorer(encoder, regressor, crops=crops, batch_size=batch_size)


def _find(model: str) -> tuple[pathlib.Path, str | None]:
    """The directory of a model and the regressor that is asked for."""
    directory, _, name = model.rpartition(":")
    if os.path.isdir(model):
        return pathlib.Path(model), None
    if directory and os.path.isdir(directory):
        return pathlib.Path(directory), name
    if model in official_weights.DATASETS:
        return official_weights.fetch(model), model
    near = difflib.get_close_matches(model, official_weights.DATASETS, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise errors.CheckpointError(
        f"there is no model {model!r}{hint} Expected a model directory, a workdir, or "
        f"one of {', '.join(official_weights.DATASETS)}"
    )


class Scorer:
    """Scores images with one encoder and one regressor.

    Attributes:
      encoder: the encoder.
      regressor: None where the model gives only features.
      crops: `five` or `whole`.
      params: what `score_fn` is a function of: `encoder`, the folded weights, and
        `regressor`, its `weights` (D,) and `intercept`, float32.
      batch_size: images in a batch.
    """

    def __init__(
        self,
        encoder: Encoder,
        regressor: Regressor | None,
        *,
        crops: str | None = None,
        batch_size: int = 0,
    ):
        """See `load`; uses all devices of this process."""
        fitted = regressor.crops if regressor else "five"
        self.crops = crops or fitted
        if self.crops not in CROPS:
            raise errors.UsageError(
                f"crops={crops!r}: expected one of {', '.join(CROPS)}"
            )
        if regressor and self.crops != fitted:
            logging.warning(
                "scoring crops=%s by a regressor fitted on crops=%s", crops, fitted
            )
        self.encoder = encoder
        self.regressor = regressor
        devices = jax.local_devices()
        # Of this process alone: under `jax.distributed` each scores its own images.
        self._mesh = jax.sharding.Mesh(np.array(devices), ("data",))
        per_device = _IMAGES_PER_DEVICE.get(jax.default_backend(), 1)
        parts = len(devices)
        self.batch_size = -(-batch_size // parts) * parts or per_device * parts
        # The compiled functions know the encoder without its variables.
        self._stateless = dataclasses.replace(encoder, variables=None, name="")
        params = {"encoder": jax.jit(encoder.fold)(encoder.variables)}
        if regressor:
            params["regressor"] = {
                "weights": np.float32(regressor.weights_D),
                "intercept": np.float32(regressor.intercept),
            }
        self.params = jax.device_put(params, sharding.replicated(self._mesh))
        self._sizes: set[tuple[int, ...]] = set()

    def score(self, images: Sequence[Picture], *, raw: bool = False) -> np.ndarray:
        """Scores images.

        Args:
          images: paths, Pillow images, or arrays (H, W, 3) of uint8 or of float in
            [0, 1]; of any sizes.
          raw: in the unit and direction of the regressor's dataset.

        Returns:
          float32 (N,); higher is better, nominally 0..1 and not clipped, unless `raw`.

        Raises:
          ImageError: an image cannot be read; the message names it.
          UsageError: the model has no regressor.
        """
        return self.scores_of(self.features(images), raw=raw).mean(1)

    def scores_of(self, features_NCD: np.ndarray, *, raw: bool = False) -> np.ndarray:
        """Scores of each crop, float32 (N, C); their mean is the score of the image.

        Raises:
          UsageError: the model has no regressor.
        """
        regressor = self.require_regressor()
        images, crops, width = features_NCD.shape
        scores = regressor.raw_scores(features_NCD.reshape(images * crops, 1, width))
        scores = scores if raw else regressor.public_scores(scores)
        return scores.reshape(images, crops).astype(np.float32)

    def features(self, images: Sequence[Picture]) -> np.ndarray:
        """Features of images, float32 (N, C, D); see `score`."""
        if isinstance(images, str | os.PathLike | Image.Image):
            raise errors.UsageError("expected a list of images, found a single one")
        views = ((None, self.view(to_array(image, i))) for i, image in _count(images))
        found = [features_CD for _, features_CD in self.embed(views)]
        crops = len(CROPS[self.crops])
        empty = np.empty((0, crops, 2 * self.encoder.feature_dim), np.float32)
        return np.stack(found) if found else empty

    def quality_map(self, image: Picture, *, stride: int = 0) -> np.ndarray:
        """Scores of a window that slides over an image.

        Args:
          image: as in `score`.
          stride: pixels between windows; 0 for a quarter of their side.

        Returns:
          float32 (rows, columns), as `score`; (1, 1) for a small image.
        """
        from arniqa_jax.scoring import heat_map

        stride = stride or max(1, self.encoder.patch_size // 4)
        return heat_map.quality_map(self, to_array(image, 0), stride)

    def score_fn(self, params: dict[str, Any], images_NHWC: jax.Array) -> jax.Array:
        """Pure and differentiable in both arguments, for use as a loss.

        Args:
          params: as `self.params`.
          images_NHWC: float in [0, 1], of one size.

        Returns:
          float32 (N,), higher is better. The half-scale image is not rounded to 8 bits
          as in `score`, so that the two agree to about 1e-3.
        """
        crops_NCSHW3 = _differentiable_crops(images_NHWC, self.encoder.patch_size)
        return self.score_crops(params, crops_NCSHW3)

    def score_crops(self, params: dict[str, Any], crops_BCSHW3: jax.Array) -> jax.Array:
        """Pure: the scores (B,) of crops, uint8 or float in [0, 1]."""
        regressor = self.require_regressor()
        features_BCD = _crop_features(self._stateless, params["encoder"], crops_BCSHW3)
        linear = params["regressor"]
        raw_B = jnp.dot(features_BCD.mean(1), linear["weights"], precision=_HIGHEST)
        return regressor.public_scores(raw_B + linear["intercept"])

    def require_regressor(self) -> Regressor:
        """The regressor; raises UsageError where the model has none."""
        if self.regressor is None:
            raise errors.UsageError(
                f"the model of {self.encoder.name} has no regressor, only features: "
                "give --regressor to arniqa_jax.convert, or fit one with "
                "arniqa_jax.evaluate"
            )
        return self.regressor

    def view(self, image: np.ndarray) -> Scales:
        """What the encoder sees of an image, uint8: crops (C, S, P, P, 3), or the two
        scales of the whole image, (1, 1, H, W, 3) each."""
        if self.crops == "five":
            return (image_crops.evaluation_crops(image, self.encoder.patch_size),)
        return image[None, None], image_crops.half_scale(image)[None, None]

    def embed(
        self, views: Iterable[tuple[Any, Scales | None]]
    ) -> Iterator[tuple[Any, np.ndarray | None]]:
        """Features of a stream of images, in its order and in bounded memory.

        Images of one size go into one batch; five crops always have one size.

        Args:
          views: pairs of anything and a view; the view may be None.

        Yields:
          Pairs of the same thing and float32 (C, D), or None.
        """
        return batches.embed_all(
            views, self._embed_batch, self.batch_size, self._batches_at_a_time()
        )

    def _batches_at_a_time(self) -> int:
        if jax.default_backend() != "cpu":
            return 2  # one is computed, the next is put on the device
        if self.crops == "whole":
            return 1  # may be so large that the memory holds one
        # One program leaves cores idle between its parts; an image for each does not.
        return -(-(os.cpu_count() or 1) // self.batch_size)

    def _embed_batch(self, views: list[Scales]) -> np.ndarray:
        """Features (B, C, D) of views of one size, at most a batch of them."""
        outputs = []
        for scale in zip(*views, strict=True):
            batch = np.zeros((self.batch_size, *scale[0].shape), np.uint8)
            for row, pixels in enumerate(scale):
                batch[row] = pixels
            self._sizes.add(batch.shape)
            if len(self._sizes) > _KEPT_PROGRAMS:
                _embed.clear_cache()
                self._sizes = {batch.shape}
            batch = jax.device_put(batch, sharding.over_batch(self._mesh))
            outputs.append(_embed(self._stateless, self.params["encoder"], batch))
        features_BCD = np.concatenate([np.asarray(x) for x in outputs], axis=-1)
        return features_BCD[: len(views)]


def _count(images: Iterable[Picture]) -> Iterator[tuple[int, Picture]]:
    return zip(itertools.count(), images, strict=False)


@functools.partial(jax.jit, static_argnums=0)
def _embed(encoder: Encoder, weights: Any, crops_BCSHW3: jax.Array) -> jax.Array:
    return _crop_features(encoder, weights, crops_BCSHW3)


def _crop_features(encoder: Encoder, weights: Any, crops_BCSHW3: jax.Array):
    """(B, C, D): rows are ordered image, crop, scale; one reshape joins the scales."""
    images, crops = crops_BCSHW3.shape[:2]
    pixels = crops_BCSHW3.reshape(-1, *crops_BCSHW3.shape[3:])
    if pixels.dtype == jnp.uint8:
        pixels = pixels.astype(jnp.float32) / 255
    return encoder.embed(weights, pixels).reshape(images, crops, -1)


def _differentiable_crops(images_NHWC: jax.Array, size: int) -> jax.Array:
    """`evaluation_crops` of float images, (N, 5, 2, size, size, 3)."""
    images, height, width, channels = images_NHWC.shape
    halved = (images, max(1, height // 2), max(1, width // 2), channels)
    half = jax.image.resize(images_NHWC, halved, "cubic", precision=_HIGHEST)
    scales = []
    for scale in (images_NHWC, jnp.clip(half, 0, 1)):
        _, height, width, _ = scale.shape
        margin = max(0, size - height, size - width)
        border = (0, 0), (margin, margin), (margin, margin), (0, 0)
        padded = jnp.pad(scale, border)
        windows = [
            padded[:, top + margin :, left + margin :][:, :size, :size]
            for top, left in image_crops.five_offsets(height, width, size)
        ]
        scales.append(jnp.stack(windows, axis=1))
    return jnp.stack(scales, axis=2)
