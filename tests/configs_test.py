"""The configs: small changes to one locked tree, and every field is read."""

import importlib

import pytest
from ml_collections import ConfigDict
from PIL import Image

import configs.pretrain
from arniqa_jax import config_files
from arniqa_jax.data import photos
from arniqa_jax.evaluation import job
from arniqa_jax.storage import workdir
from arniqa_jax.training import loop
from benchmarks import soak

_NAMES = config_files.names()


def _fields(name: str) -> dict[str, object]:
    config = importlib.import_module(f"configs.{name}").get_config()
    assert config.is_locked
    return workdir.config_fields(config.to_dict())


@pytest.mark.parametrize("name", _NAMES)
def test_a_config_is_a_delta_of_the_same_tree(name):
    base, fields = _fields("pretrain"), _fields(name)
    assert fields.keys() == base.keys()
    assert all(type(fields[field]) is type(base[field]) for field in base)


@pytest.mark.parametrize("name", _NAMES)
def test_a_folder_of_photographs_is_a_root_of_every_config(name, tmp_path):
    for index in range(2):
        Image.new("RGB", (40, 40)).save(tmp_path / f"{index}.png")
    source = importlib.import_module(f"configs.{name}").get_config().data.source
    assert len(photos.open_photos(str(tmp_path), source)) == 2


@pytest.mark.slow
def test_every_field_is_read(monkeypatch, tmp_path):
    """Trains and evaluates, and notes which fields were asked for on the way."""
    config = configs.pretrain.get_config()
    config.update_from_flattened_dict(
        {
            "data.patch_size": 64,
            "data.workers": 0,
            "model.arch": "tiny",
            "model.init": "random",
            "train.batch_size": 8,
            "train.steps": 5,
            "evaluation.every_epochs": 5,
            "evaluation.datasets": "csv:scored/table.csv",
            "evaluation.root": str(tmp_path),
            "evaluation.figures": False,
        }
    )
    soak.write_scored(tmp_path / "scored")
    names = {id(config): "", **{id(group): f"{n}." for n, group in config.items()}}
    read, get, copy = set(), ConfigDict.__getitem__, ConfigDict.to_dict
    copying = []

    def noting(self, key):
        if id(self) in names and not copying:
            read.add(names[id(self)] + key)
        return get(self, key)

    def without_noting(self, *args, **kwargs):
        copying.append(True)  # a copy of the tree is not a use of its fields
        try:
            return copy(self, *args, **kwargs)
        finally:
            copying.pop()

    names = {key: name for key, name in names.items() if name != "seed."}
    monkeypatch.setattr(ConfigDict, "__getitem__", noting)
    monkeypatch.setattr(ConfigDict, "to_dict", without_noting)
    run = tmp_path / "run"
    assert loop.run(config, run) == 0
    job.evaluate(config, run, run, "last")
    assert workdir.config_fields(config.to_dict()).keys() - read == set()
