"""Encoders of model directories and runs, and encoders before training."""

import functools
import itertools
import os
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from arniqa_jax import errors
from arniqa_jax.inference.encoder import Encoder
from arniqa_jax.model import resnet, simclr
from arniqa_jax.storage import cache, checkpoints, files, workdir
from arniqa_jax.weights import evaluated, model_directory, places

# Maximum number of batches for the batch statistics of the untrained encoder.
_CALIBRATION_BATCHES = 50


def build_model(config: ConfigDict) -> simclr.SimCLR:
    """Return the module that the `model` part of a config describes."""
    fields = {name: value for name, value in config.model.items() if name != "init"}
    return simclr.SimCLR(**fields)


def load(
    path: os.PathLike, checkpoint: str = "best", *, photographs: str = ""
) -> Encoder:
    """Return the encoder of a run or of a model directory.

    Args:
      path: a workdir, also one in a bucket, a model directory, or an address that
        `places.fetch` takes.
      checkpoint: of a run: `best` (by validation SRCC), `last`, a step, or
        `untrained`. Ignored for a model directory, which has one encoder.
      photographs: see `load_run`.

    Raises:
      CheckpointError: the run or the checkpoint does not exist, or is damaged.
      UsageError: the path is a URL of another kind.
    """
    if workdir.is_run_in_bucket(path):
        return load_run(path, checkpoint, photographs=photographs)
    path = places.fetch(path)
    if model_directory.is_model_directory(path):
        return model_directory.read_encoder(path)
    if not os.path.exists(os.path.join(path, "config.json")):
        # The directory may contain only evaluations of a model that is elsewhere.
        recorded = evaluated.find(path)
        if recorded is not None:
            return load(*recorded)
    return load_run(path, checkpoint, photographs=photographs)


def load_run(
    path: str | os.PathLike, checkpoint: str = "best", *, photographs: str = ""
) -> Encoder:
    """Return the encoder of a run; nothing but the checkpoint is read from a bucket.

    Args:
      path: a workdir, or its URL.
      checkpoint: `best` (by validation SRCC), `last`, a step, or `untrained`.
      photographs: where the photographs of the run are now, for `untrained`; empty
        where they were during the run.

    Raises:
      CheckpointError: the run or the checkpoint does not exist, or is damaged.
    """
    config = workdir.read_config(path)
    if checkpoint == "untrained":
        config.data.root = photographs or config.data.root
        return untrained(config)
    directory = os.path.join(path, "checkpoints")
    step = checkpoints.find(directory, checkpoint)
    try:
        model, patch_size = build_model(config), config.data.patch_size
    except (AttributeError, KeyError, TypeError) as error:
        raise errors.CheckpointError(
            f"{path}/config.json was written by another version of this program "
            f"({error}): use the version that wrote it"
        ) from error
    variables = checkpoints.load_variables(
        os.path.join(directory, str(step)), abstract_variables(model)
    )
    return Encoder(model, variables, f"step {step}", patch_size)


def initial_variables(config: ConfigDict) -> dict[str, Any]:
    """Return the `params` and `batch_stats` that a run starts from, by `model.init`.

    Raises:
      UsageError: `model.init` is `imagenet`, and the converted weights do not exist.
      CheckpointError: the path in `model.init` holds no encoder of this architecture.
    """
    model = build_model(config)
    if config.model.init == "random":
        return _init(model, config.seed)
    if config.model.init == "imagenet":
        path = cache.directory() / f"imagenet-{model.arch}"
        if not model_directory.is_model_directory(path):
            raise errors.UsageError(
                f"model.init=imagenet: expected converted ImageNet weights in {path}. "
                f"Fetch {_imagenet_file(model.arch)} and run `python -m "
                f"arniqa_jax.convert --from=FILE --to={path}`; or choose "
                "--config.model.init=random, or the path of a model"
            )
    else:
        path = config.model.init
        if not places.is_elsewhere(path):
            path = files.local_path(path, "model.init")
    return _continued(load(path), model, config.seed)


def _continued(start: Encoder, model: simclr.SimCLR, seed: int) -> dict[str, Any]:
    """Return the variables of `start`, with a random projector if it has none."""
    expected = abstract_variables(model)
    variables = start.variables
    if "projector_0" not in variables["params"]:
        fresh = _init(model, seed)
        variables = {name: fresh[name] | variables[name] for name in fresh}
    if jax.eval_shape(lambda: variables) != expected:
        raise errors.CheckpointError(
            f"model.init: {start.name} is {start.module.arch} with "
            f"{start.module.embedding_dim} outputs, expected {model.arch} with "
            f"{model.embedding_dim} and the same projector"
        )
    if not start.imagenet_input:
        raise errors.CheckpointError(
            f"model.init: {start.name} takes images without ImageNet's normalisation, "
            "which pre-training applies; choose another start"
        )
    return variables


def _imagenet_file(arch: str) -> str:
    """Return the URL of torchvision's IMAGENET1K_V1 weights, a better start than V2."""
    files = {
        "resnet18": "resnet18-f37072fd.pth",
        "resnet34": "resnet34-b627a593.pth",
        "resnet50": "resnet50-0676ba61.pth",
    }
    if arch not in files:
        raise errors.UsageError(
            f"model.init=imagenet: there are no ImageNet weights of {arch}; choose "
            "--config.model.init=random"
        )
    return f"https://download.pytorch.org/models/{files[arch]}"


def untrained(config: ConfigDict) -> Encoder:
    """Return the encoder before training, with batch statistics of the photographs.

    Random weights with the initial statistics (mean 0, variance 1) would be an unfairly
    weak baseline. So the statistics come from one pass over pristine crops of the
    photographs that the run trains on, at most 50 batches.
    """
    logging.info("computing the batch statistics of the untrained encoder")
    variables = initial_variables(config)
    model = build_model(config)

    @jax.jit
    def updated_statistics(variables, images):
        images = images.reshape(-1, *images.shape[3:]).astype(jnp.float32) / 255
        _, updated = model.apply(variables, images, train=True, mutable=["batch_stats"])
        return updated["batch_stats"]

    old = variables["batch_stats"]
    updates = [
        updated_statistics(variables, images) for images in _pristine_batches(config)
    ]
    mean_update = jax.tree.map(lambda *x: sum(x) / len(x), *updates)
    # An update is m old + (1 - m) new with m = 0.9. Solve for the mean of the new.
    m = resnet.BatchNorm.momentum
    statistics = jax.tree.map(lambda u, o: (u - m * o) / (1 - m), mean_update, old)
    return Encoder(
        model,
        {"params": variables["params"], "batch_stats": statistics},
        "untrained",
        config.data.patch_size,
    )


def _pristine_batches(config: ConfigDict) -> Iterator[np.ndarray]:
    """Yield crops of one pass over the photographs, uint8 (N, 2, 2, H, W, 3)."""
    # A lazy import: grain takes most of a second to import, and scoring needs none.
    from arniqa_jax.data import pairs
    from arniqa_jax.data.photos import open_photos

    photos = open_photos(config.data.root, config.data.source)
    batch_size = config.train.batch_size
    count = min(_CALIBRATION_BATCHES, max(1, len(photos) // batch_size))
    with pairs.pair_batches(
        photos,
        seed=config.seed,
        patch_size=config.data.patch_size,
        batch_size=batch_size,
        workers=0,  # starting workers would take longer than these few batches
        max_bad_share=config.data.max_bad_share,
    ) as batches:
        for batch in itertools.islice(batches, count):
            yield batch["images"]


def abstract_variables(model: simclr.SimCLR) -> dict[str, Any]:
    """Return the shapes and dtypes of `params` and `batch_stats`."""
    return jax.eval_shape(functools.partial(_draw, model), jax.random.key(0))


def _init(model: simclr.SimCLR, seed: int) -> dict[str, Any]:
    # Compile one program; the compiler removes the unused forward pass. It runs once,
    # so it is compiled without optimisation, which would take a CPU five times as long.
    # The compilers for TPU and GPU need not know this option. No code depends on the
    # platform here, so `lax.platform_dependent` cannot choose.
    on_cpu = jax.default_backend() == "cpu"
    options = {"xla_backend_optimization_level": 1} if on_cpu else {}
    draw = jax.jit(functools.partial(_draw, model), compiler_options=options)
    return draw(jax.random.key(seed))


def _draw(model: simclr.SimCLR, key: jax.Array) -> dict[str, Any]:
    # The shapes of the parameters do not depend on the size of the image.
    return model.init(key, jnp.zeros((1, 32, 32, 3)), train=False)
