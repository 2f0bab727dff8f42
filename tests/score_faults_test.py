"""A fault of one image is its own error; a table is continued by one model only."""

import dataclasses
import json
import os

import numpy as np
import pytest
import score_runs
import small_model
from score_runs import picture, rows, run, write_photos

from arniqa_jax import errors
from arniqa_jax.scoring import heat_map, inputs, job, scorer


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small_model.write(tmp_path_factory.mktemp("models") / "one", "live")


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos", 4)


# --- Maps ---------------------------------------------------------------------------


def test_a_map_of_a_path_longer_than_a_file_name_may_be(model, tmp_path, capsys):
    folder = tmp_path / ("a" * 150) / ("b" * 150)
    folder.mkdir(parents=True)
    for name in ("x.png", "y.png"):
        picture().save(folder / name)
    assert run(model, tmp_path / ("a" * 150), f"--map={tmp_path}/maps") == 0
    assert all(row["score"] for row in rows(capsys.readouterr().out))
    assert len(list((tmp_path / "maps").iterdir())) == 2


def test_two_paths_never_share_the_name_of_a_map():
    paths = ["/a/b__c.png", "/a__b/c.png", "/a/b/c.png", "/a/b/c__.png"]
    paths += ["/" + "é" * 300 + end for end in ("1", "2")]
    names = {heat_map.file_name(path) for path in paths}
    assert len(names) == len(paths)
    assert all(len(os.fsencode(name)) < 240 for name in names)


def test_an_image_that_vanishes_before_its_map_is_an_error(
    model, photos, tmp_path, capsys, monkeypatch
):
    load = inputs.load

    def load_and_remove(model, item):
        loaded = load(model, item)
        if item.path.endswith("1.png"):
            os.unlink(item.path)
        return loaded

    monkeypatch.setattr(inputs, "load", load_and_remove)
    assert run(model, photos, f"--map={tmp_path}/maps") == errors.FAILURE
    found = rows(capsys.readouterr().out)
    assert [bool(row["score"]) for row in found] == [True, False, True, True]
    assert found[1]["error"] == "unreadable: No such file or directory"


def test_a_map_that_cannot_be_written_is_an_error(model, photos, tmp_path, capsys):
    maps = tmp_path / "maps"
    (maps / heat_map.file_name(str(photos / "2.png"))).mkdir(parents=True)
    assert run(model, photos, f"--map={maps}") == errors.FAILURE
    found = rows(capsys.readouterr().out)
    assert [bool(row["score"]) for row in found] == [True, True, False, True]
    assert found[2]["error"].startswith("its map cannot be written")


# --- Scores that are no numbers -----------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_score_that_is_not_finite_is_an_error(
    model, photos, tmp_path, monkeypatch, suffix
):
    load = scorer.load

    def load_damaged(*arguments, **options):
        loaded = load(*arguments, **options)
        weights_D = np.full_like(loaded.regressor.weights_D, np.inf)
        loaded.regressor = dataclasses.replace(loaded.regressor, weights_D=weights_D)
        return loaded

    monkeypatch.setattr(scorer, "load", load_damaged)
    output = tmp_path / f"scores{suffix}"
    assert run(model, photos, f"--output={output}") == errors.FAILURE
    text = output.read_text()
    if suffix == ".jsonl":
        found = [json.loads(line) for line in text.splitlines()]
    else:
        found = rows(text)
    assert len(found) == 4
    for row in found:
        assert row["score"] in (None, "") and "not a finite number" in row["error"]


# --- Folders ------------------------------------------------------------------------


def test_hidden_files_are_left_out_and_unknown_formats_are_named(
    model, photos, capsys, monkeypatch
):
    monkeypatch.setattr(inputs.importlib.util, "find_spec", lambda name: None)
    for name in ("._0.jpg", ".thumbs/0.png", "__MACOSX/0.png"):
        (photos / name).parent.mkdir(exist_ok=True)
        picture().save(photos / name)
    for name in ("a.JFIF", "b.jpe", "c.mpo"):
        picture().save(photos / name, "JPEG")
    for name in ("x.heic", "y.HEIC", "z.nef", "w.svg", "readme.txt"):
        (photos / name).touch()
    said = []
    monkeypatch.setattr(job.logging, "warning", lambda text, *rest: said.append(rest))
    assert run(model, photos) == 0
    names = [os.path.basename(row["path"]) for row in rows(capsys.readouterr().out)]
    assert names == sorted(
        [*(f"{i}.png" for i in range(4)), "a.JFIF", "b.jpe", "c.mpo"]
    )
    ((line,),) = said
    assert "2 .heic, 1 .nef, 1 .svg" in str(line)
    assert "'arniqa_jax[heif]' 'arniqa_jax[raw]'" in str(line)


def test_a_path_that_is_given_twice_has_one_row(model, photos, capsys):
    (photos / "below").mkdir()
    picture(seed=9).save(photos / "below" / "9.png")
    assert run(model, photos, photos / "1.png", photos / "1.png") == 0
    assert len(rows(capsys.readouterr().out)) == 5
    # This pattern matches the folder, and what is in it.
    assert run(model, photos / "**") == 0
    assert len(rows(capsys.readouterr().out)) == 5


# --- Continuing ---------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_resume_tries_errors_again_and_scores_new_files_once(
    model, photos, tmp_path, suffix
):
    output = tmp_path / f"scores{suffix}"
    good = (photos / "1.png").read_bytes()
    (photos / "1.png").write_bytes(b"")
    assert run(model, photos, f"--output={output}") == errors.FAILURE
    (photos / "1.png").write_bytes(good)
    picture(seed=9).save(photos / "0_new.png")
    assert run(model, photos, f"--output={output}", "--resume") == 0
    fresh = tmp_path / f"fresh{suffix}"
    assert run(model, photos, f"--output={fresh}") == 0

    def read(path):
        if suffix == ".csv":
            return rows(path.read_text())
        if suffix == ".jsonl":
            return [json.loads(line) for line in path.read_text().splitlines()]
        from pyarrow import parquet

        return parquet.read_table(path).to_pylist()

    by_path = sorted(read(output), key=lambda row: row["path"])
    assert by_path == sorted(read(fresh), key=lambda row: row["path"])


def test_resume_refuses_another_model(model, photos, tmp_path):
    output = tmp_path / "scores.csv"
    assert run(model, photos, f"--output={output}") == 0
    other = small_model.write(tmp_path / "two", "live", "csiq")
    for arguments in (
        (f"{other}:csiq", photos),
        (model, photos, "--raw"),
        (model, photos, "--crops=whole"),
        (model, photos, "--background=white"),
    ):
        with pytest.raises(
            errors.UsageError, match="with another model or other flags"
        ):
            run(*arguments, f"--output={output}", "--resume")
    # Without its record nothing can be checked, which a warning says.
    (tmp_path / "scores.csv.model.json").unlink()
    assert run(model, photos, f"--output={output}", "--resume") == 0
    assert len(score_runs.rows(output.read_text())) == 4
