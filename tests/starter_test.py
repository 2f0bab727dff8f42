"""The model that is part of the package: what it scores, its files and its card."""

import configparser
import fnmatch
import json
import pathlib
import re
import shutil
import socket
import sys
import types

import documented
import jax
import numpy as np
import pytest
import score_runs
from PIL import Image, ImageFilter

import arniqa_jax
from arniqa_jax import errors
from arniqa_jax.data.photos import builtin_photo
from arniqa_jax.scoring import scorer
from arniqa_jax.weights import model_directory, shipped, torch_files
from benchmarks import starter


@pytest.fixture(scope="module")
def model():
    """The model, loaded without network access and without PyTorch."""

    def refuse(*_):
        raise OSError("this test has no network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setitem(sys.modules, "torch", None)
        yield arniqa_jax.load("starter")


def _versions(photo: Image.Image) -> dict[str, Image.Image]:
    """Return degraded versions of a photograph, by Pillow and NumPy."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 40, (photo.height, photo.width, 3))
    small = photo.resize((photo.width // 4, photo.height // 4))
    return {
        "blur": photo.filter(ImageFilter.GaussianBlur(4)),
        "noise": Image.fromarray(
            np.clip(np.asarray(photo) + noise, 0, 255).astype(np.uint8)
        ),
        "enlarged": small.resize(photo.size, Image.Resampling.BICUBIC),
    }


@pytest.mark.parametrize("name", ["chelsea", "stereo_motorcycle"])
def test_degraded_versions_score_below_the_photograph(model, name):
    """The regressor has seen versions of these two, the encoder none."""
    photo = Image.fromarray(builtin_photo(name)).resize((256, 256))
    versions = _versions(photo)
    pristine, *scores = model.score([photo, *versions.values()])
    assert np.isfinite([pristine, *scores]).all()
    below = dict(zip(versions, np.array(scores) < pristine, strict=True))
    assert all(below.values()), below


def test_the_command_scores(tmp_path, capsys):
    score_runs.picture(64, 64).save(tmp_path / "photo.png")
    assert score_runs.run("starter", tmp_path / "photo.png") == 0
    (row,) = score_runs.rows(capsys.readouterr().out)
    assert np.isfinite(float(row["score"]))


def test_a_folder_of_this_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "starter").mkdir()
    with pytest.raises(errors.CheckpointError, match="starter"):
        scorer.load_all("starter")


def test_the_kernels_are_stored_as_float16_and_read_as_float32():
    stored = torch_files.read_tensors(shipped.DIRECTORY / "encoder.safetensors")
    dtypes = {value.ndim > 1: value.dtype for value in stored.values() if value.ndim}
    assert dtypes == {True: np.float16, False: np.float32}
    encoder, _ = shipped.read()
    leaves = jax.tree.leaves(encoder.variables)
    assert {leaf.dtype for leaf in leaves} == {np.dtype(np.float32)}
    files = [path for path in shipped.DIRECTORY.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 8e6


def test_every_file_is_package_data():
    """Of a real wheel, `.ci/wheel` scores with this model."""
    setup = configparser.ConfigParser()
    setup.read(documented.ROOT / "setup.cfg")
    patterns = setup["options.package_data"]["arniqa_jax.weights"].split()
    for path in shipped.DIRECTORY.rglob("*"):
        name = str(path.relative_to(shipped.DIRECTORY.parent))
        assert path.is_dir() or any(fnmatch.fnmatch(name, p) for p in patterns), name


def _cut(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    "damage",
    [
        shutil.rmtree,
        lambda d: (d / "model.json").unlink(),
        lambda d: (d / "encoder.safetensors").unlink(),
        lambda d: _cut(d / "encoder.safetensors"),
        lambda d: shutil.rmtree(d / "regressors"),
        lambda d: _cut(d / "regressors" / "builtin.npz"),
    ],
)
def test_a_damaged_installation_is_one_line(damage, tmp_path, monkeypatch):
    shutil.copytree(shipped.DIRECTORY, tmp_path / "starter")
    monkeypatch.setattr(shipped, "DIRECTORY", tmp_path / "starter")
    damage(tmp_path / "starter")
    with pytest.raises(errors.CheckpointError) as error:
        arniqa_jax.load("starter")
    message = str(error.value)
    assert "\n" not in message and message.endswith("install arniqa_jax again")
    assert str(tmp_path / "starter") in message


def test_the_card_describes_these_files():
    card = (shipped.DIRECTORY / "README.md").read_text()
    encoder, found = shipped.read()
    source = model_directory.read_source(shipped.DIRECTORY)
    assert encoder.fingerprint in card and source.licence in card
    assert f"{encoder.feature_dim} features" in card
    assert f"| builtin | proxy | {found['builtin'].images} |" in card
    for said in ("209", "CID22", "CC BY-SA 4.0", "24", "Kodak", "no replacement"):
        assert said in card
    # How it ranks BIQ2021's images: in words, and in the table.
    (row,) = re.findall(r"\| proxy \| BIQ2021 \| 1500 \| (0\.\d+) ", card)
    assert f"its SRCC is {float(row):.2f}," in " ".join(card.split())


def test_levels_are_ranked_within_each_photograph():
    """Two photographs, whose scores lie far apart, and two distortions."""
    of_blur, of_noise = [0.9, 0.5, 0.1], [0.1, 0.5, 0.9]
    proxy = types.SimpleNamespace(
        image_names=[
            f"{content}/{name}/{level}"
            for content in "ab"
            for name in ("noise", "blur")
            for level in (1, 2, 3)
        ],
        scores_N=np.tile(of_blur, 4),
        tests=[
            types.SimpleNamespace(
                indices=np.arange(12),
                predictions=np.array(
                    [*of_noise, *of_blur, *np.add(5, of_blur), *np.add(5, of_blur)]
                ),
            )
        ],
    )
    ranked = starter.levels_ranked(proxy)
    assert list(ranked) == ["blur", "noise"]
    np.testing.assert_allclose(list(ranked.values()), [1, 0], atol=1e-12)


@pytest.mark.parametrize("folder", ["holidays", "kodak"])
def test_photographs_without_a_known_licence_are_refused(tmp_path, folder):
    names = [f"{folder}/{number}.png" for number in range(24 + 209)]
    (tmp_path / "photographs.json").write_text(json.dumps({"names": names}))
    with pytest.raises(SystemExit, match=f"trained on {{'{folder}': 233}}, expected"):
        starter.check_photographs(tmp_path)
