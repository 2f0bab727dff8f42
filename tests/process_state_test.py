"""Importing and calling the library changes nothing that belongs to the process."""

import contextlib
import importlib
import logging
import os
import pathlib
import pkgutil
import signal
import sys
import warnings

import absl.logging
import jax
import jax.numpy as jnp
import pytest

import arniqa_jax
from arniqa_jax import errors
from arniqa_jax.storage import checkpoints


def _state() -> dict[str, object]:
    loggers = [logging.getLogger(), absl.logging.get_absl_logger()]
    loggers.append(logging.getLogger("asyncio"))
    return {
        "excepthook": sys.excepthook,
        "filters": list(warnings.filters),
        "logging": [(x.level, list(x.filters), list(x.handlers)) for x in loggers],
        "environment": dict(os.environ),
        "path": list(sys.path),
        "signals": [signal.getsignal(x) for x in (signal.SIGTERM, signal.SIGINT)],
        "precision": jax.config.jax_default_matmul_precision,
        "x64": jax.config.jax_enable_x64,
    }


def _modules() -> list[str]:
    return [
        module.name
        for module in pkgutil.walk_packages(arniqa_jax.__path__, "arniqa_jax.")
        if "builder" not in module.name  # is registered with TFDS by its import
        and ".configs" not in module.name
    ]


def test_imports(monkeypatch):
    names = _modules()
    for name in names:
        importlib.import_module(name)
    before = _state()
    # Once more, now that the libraries are there: what changes is by our modules.
    mine = {k: v for k, v in sys.modules.items() if k.startswith("arniqa_jax")}
    for name in mine:
        monkeypatch.delitem(sys.modules, name)
    try:
        for name in names:
            importlib.import_module(name)
        assert _state() == before
    finally:
        for name in [k for k in sys.modules if k.startswith("arniqa_jax")]:
            del sys.modules[name]
        sys.modules.update(mine)


def test_checkpoints_that_can_and_cannot_be_read(tmp_path):
    before = _state()
    variables = {"params": {"w": jnp.arange(6.0)}, "batch_stats": {"m": jnp.ones(3)}}
    like = jax.eval_shape(lambda: variables)
    checkpoints.save_variables(tmp_path / "model", variables)
    checkpoints.load_variables(tmp_path / "model", like)
    assert _state() == before
    for file in pathlib.Path(tmp_path / "model").rglob("d/*"):
        file.write_bytes(file.read_bytes()[:8])
    with pytest.raises(errors.CheckpointError):
        checkpoints.load_variables(tmp_path / "model", like)
    with contextlib.closing(checkpoints.Checkpoints(tmp_path / "run", {})):
        assert _state() == before
