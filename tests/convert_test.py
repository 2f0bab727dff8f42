"""The convert command on files without PyTorch, and model directories."""

import dataclasses
import json
import pathlib
import shutil
import sys

import jax
import numpy as np
import pytest

from arniqa_jax import errors
from arniqa_jax.model import simclr
from arniqa_jax.storage import checkpoints
from arniqa_jax.weights import (
    encoders,
    model_directory,
    torch_files,
    torch_import,
    torch_names,
)
from arniqa_jax.weights.regressors import Regressor


@pytest.fixture(scope="module")
def variables():
    module = simclr.SimCLR(arch="tiny")
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: rng.uniform(0.5, 1.5, x.shape).astype(np.float32),
        torch_names.abstract_variables(module, projector=True),
    )


@pytest.fixture
def weights(variables, tmp_path):
    path = tmp_path / "tiny.safetensors"
    torch_files.write_tensors(path, torch_names.to_torch(variables))
    return path


@pytest.fixture
def model(weights, tmp_path):
    torch_import.convert(weights, tmp_path / "model", [])
    return tmp_path / "model"


def _regressor(encoder, fingerprint=None):
    return Regressor(
        dataset="LIVE",
        alpha=0.1,
        score_range=(1, 100),
        higher_is_better=False,
        crops="five",
        patch_size=encoder.patch_size,
        encoder=fingerprint or encoder.fingerprint,
        images=779,
        weights_D=np.ones(2 * encoder.feature_dim),
        intercept=3.0,
    )


def test_a_model_directory_holds_every_bit(variables, model):
    encoder = encoders.load(model)
    assert encoder.module.arch == "tiny" and encoder.patch_size == 224
    jax.tree.map(np.testing.assert_array_equal, encoder.variables, variables)
    description = json.loads((model / "model.json").read_text())
    assert description["feature_width"] == 2 * 64
    assert description["source"]["file"] == "tiny.safetensors"
    assert len(description["source"]["sha256"]) == 64
    assert description["source"]["licence"] == torch_names.OFFICIAL.licence


def test_back_to_a_file_is_the_same_file(weights, model, tmp_path):
    torch_import.convert(model, tmp_path / "back.safetensors", [])
    assert (tmp_path / "back.safetensors").read_bytes() == weights.read_bytes()


def test_regressors_go_along(model, tmp_path):
    encoder = encoders.load(model)
    model_directory.write_regressor(model, _regressor(encoder), "live")
    torch_import.convert(model, tmp_path / "copy", [])
    found = model_directory.find_regressors(tmp_path / "copy", encoder)
    assert list(found) == ["live"] and found["live"].intercept == 3
    assert model_directory.read_source(tmp_path / "copy").file == "tiny.safetensors"


def test_a_regressor_of_another_encoder_is_an_error(model):
    encoder = encoders.load(model)
    foreign = _regressor(encoder, fingerprint="0" * 64)
    model_directory.write_regressor(model, foreign, "live")
    with pytest.raises(errors.CheckpointError, match="fitted to another encoder"):
        model_directory.find_regressors(model, encoder)


def test_nothing_is_overwritten(weights, model):
    with pytest.raises(errors.CheckpointError, match="exists already"):
        torch_import.convert(weights, model, [])


@pytest.mark.parametrize(
    "change",
    [
        lambda variables: jax.tree.map(lambda x: 2 * x, variables),
        lambda variables: {"params": {"layer": np.ones(3)}},
    ],
)
def test_the_encoder_of_another_model_is_an_error(variables, model, change):
    other = change(variables)
    shutil.rmtree(model / "encoder")
    checkpoints.save_variables(model / "encoder", other)
    message = "does not hold the encoder that model.json describes"
    with pytest.raises(errors.CheckpointError, match=message):
        encoders.load(model)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "model.json").write_text("{"), "does not describe a model"),
        (lambda d: (d / "model.json").write_text("[]"), "does not describe a model"),
        (
            lambda d: (d / "model.json").write_text('{"format_version": 2}'),
            "has the format version 2, this program reads 1",
        ),
        (
            lambda d: (d / "model.json").write_text('{"format_version": 1}'),
            "model.json is damaged",
        ),
    ],
)
def test_a_damaged_description(model, damage, message):
    damage(model)
    with pytest.raises(errors.CheckpointError, match=message):
        encoders.load(model)


def test_a_missing_encoder(model):
    (model / "encoder").rename(model / "elsewhere")
    with pytest.raises(errors.CheckpointError, match="cannot be read"):
        encoders.load(model)


def test_float16_halves_the_file_and_is_read_as_float32(variables, model, tmp_path):
    encoder = encoders.load(model)
    model_directory.write_regressor(model, _regressor(encoder), "live")
    for name, float16 in (("exact", False), ("half", True)):
        torch_import.convert(
            model, tmp_path / name, [], safetensors=True, float16=float16
        )
    exact, half = (
        (tmp_path / name / "encoder.safetensors").stat().st_size
        for name in ("exact", "half")
    )
    assert 0.5 < half / exact < 0.55
    found = encoders.load(tmp_path / "half")
    assert found.fingerprint != encoder.fingerprint

    def check(before, after):
        assert after.dtype == np.float32
        # Kernels are rounded to 11 bits; BatchNorm keeps every bit.
        error = np.abs(after / before - 1).max()
        assert 0 < error <= 2**-11 if before.ndim > 1 else error == 0

    jax.tree.map(check, variables, found.variables)
    assert list(model_directory.find_regressors(tmp_path / "half", found)) == ["live"]
    torch_import.convert(model, tmp_path / "half.safetensors", [], float16=True)
    again = encoders.load(tmp_path / "half")
    torch_import.convert(tmp_path / "half.safetensors", tmp_path / "back", [])
    assert encoders.load(tmp_path / "back").fingerprint == again.fingerprint


def test_a_weight_beyond_float16_is_named(model, tmp_path):
    encoder = encoders.load(model)
    large = jax.tree.map(lambda x: np.full_like(x, -7e4), encoder.variables)
    encoder = dataclasses.replace(encoder, variables=large)
    with pytest.raises(errors.CheckpointError, match="weight 70000, and float16 ends"):
        model_directory.write(
            tmp_path / "half", encoder, None, safetensors=True, float16=True
        )
    assert not (tmp_path / "half").exists()


@pytest.mark.parametrize("target", ["half", "half.pth"])
def test_float16_takes_safetensors(weights, tmp_path, target):
    with pytest.raises(errors.UsageError, match="--float16 needs --safetensors"):
        torch_import.convert(weights, tmp_path / target, [], float16=True)


@pytest.mark.parametrize(
    ("target", "regressors", "message"),
    [
        ("x.pth", ["regressor_live.pth"], "x.pth cannot hold a --regressor"),
        ("x", ["mine.pth"], "expected the name regressor_NAME.pth"),
    ],
)
def test_wrong_use(weights, target, regressors, message):
    with pytest.raises(errors.UsageError, match=message):
        torch_import.convert(
            weights, pathlib.Path(target), [pathlib.Path(r) for r in regressors]
        )


def test_without_pytorch_the_error_says_what_to_install(weights, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(errors.ArniqaError, match=r"arniqa_jax\[convert\]"):
        torch_import.convert(weights, tmp_path / "x.pth", [])
    assert not (tmp_path / "x.pth").exists()
