"""The list of models with a name."""

import re

import pytest

from arniqa_jax import errors, models
from arniqa_jax.weights import shipped, torch_import


def test_models_tells_scales_and_what_the_cache_has(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    home = tmp_path / "arniqa_jax" / "official"
    (home / "files").mkdir(parents=True)
    (home / "files" / "regressor_live.pth").write_bytes(b"")
    (home / "model" / "regressors").mkdir(parents=True)
    (home / "model" / "regressors" / "kadid10k.json").write_text("{}")
    assert models.main([]) == 0
    out = capsys.readouterr().out
    table, _, notes = out.partition("\n\n")
    rows = {line.split()[0]: line for line in table.splitlines()[1:]}
    assert rows.keys() == {"starter", *torch_import.OFFICIAL_REGRESSORS}
    assert "0 to 1 " in rows["starter"] and "higher" in rows["starter"]
    assert "1 to 5 " in rows["kadid10k"] and "higher" in rows["kadid10k"]
    assert "lower" in rows["live"]
    states = {name: line.split()[-1] for name, line in rows.items()}
    assert states.pop("starter") == "installed"
    assert states.pop("live") == "downloaded" and states.pop("kadid10k") == "converted"
    assert set(states.values()) == {"nothing"}
    assert str(home) in notes
    assert "Licence: " in notes and "Apache-2.0" in notes
    assert "Licence of starter: CC BY-SA 4.0" in notes


def test_the_list_says_that_the_installation_is_damaged(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(shipped, "DIRECTORY", tmp_path / "starter")
    assert models.main([]) == 0
    out = capsys.readouterr().out
    assert re.search("starter .* damaged\n", out) and "kadid10k" in out
    assert "install arniqa_jax again" in " ".join(out.split())


def test_models_takes_no_arguments():
    with pytest.raises(errors.UsageError, match="unexpected argument 'kadid10k'"):
        models.main(["kadid10k"])
