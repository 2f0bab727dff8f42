"""Rows in, scores out, for any engine; fixed shards; a folder of part files."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import small_model
from score_runs import picture, rows, run, write_photos

import arniqa_jax
from arniqa_jax import errors
from arniqa_jax.scoring import parts, ray_job, shards
from arniqa_jax.scoring.rows import ScoreRows


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small_model.write(tmp_path_factory.mktemp("models") / "one", "live")


@pytest.fixture
def photos(tmp_path):
    folder = write_photos(tmp_path / "photos", 6)
    (folder / "bad.png").write_bytes(b"text")
    return folder


def _scores(model, photos):
    """Returns the scores of the Python API, by name."""
    paths = sorted(photos.glob("[0-9]*"))
    scores = arniqa_jax.load(model).score(paths)
    return {
        path.name: round(float(s), 6) for path, s in zip(paths, scores, strict=True)
    }


# --- ScoreRows ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["path", "bytes", "dictionary", "pillow", "array"])
def test_columns_in_columns_and_scores_out(model, photos, kind):
    paths = sorted(photos.iterdir())
    if kind in ("pillow", "array"):
        paths = paths[:-1]  # the last one cannot be opened at all
    from PIL import Image

    make = {
        "path": str,
        "bytes": lambda path: path.read_bytes(),
        "dictionary": lambda path: {"bytes": path.read_bytes(), "path": path.name},
        "pillow": Image.open,
        "array": lambda path: np.asarray(Image.open(path)),
    }[kind]
    batch = {"id": list(range(len(paths))), "path": [path.name for path in paths]}
    column = "path" if kind == "path" else "image"
    batch[column] = [make(path) for path in paths]
    score_rows = pickle.loads(pickle.dumps(ScoreRows(model)))
    found = score_rows(batch)
    assert set(found) == {"id", "path", column, "score", "error"}
    assert found["id"] == batch["id"]
    expected = _scores(model, photos)
    for path, score, error in zip(paths, found["score"], found["error"], strict=True):
        if path.name == "bad.png":
            assert np.isnan(score) and error.startswith("not an image")
        else:
            assert score == pytest.approx(expected[path.name], abs=2e-6) and not error
    assert found["score"].dtype == np.float64 and found["error"].dtype.kind == "U"


def test_details_and_missing_columns(model, photos):
    score_rows = ScoreRows(model, details=True, crops="whole", column="file")
    found = score_rows({"file": [str(photos / "0.png"), None]})
    assert found["width"][0] == 50 and found["score_whole"][0] == found["score"][0]
    assert np.isnan(found["width"][1]) and found["error"][1] == "no image in this row"
    with pytest.raises(errors.UsageError, match="no column file among path"):
        score_rows({"path": ["a.png"]})


def test_the_loaded_model_does_not_travel(model, photos):
    score_rows = ScoreRows(model)
    before = pickle.dumps(score_rows)
    score_rows({"path": [str(photos / "0.png")]})
    assert pickle.dumps(score_rows) == before


def test_importing_it_imports_no_engine():
    code = (
        "import sys; import arniqa_jax.scoring.rows, arniqa_jax.scoring.ray_job; "
        "print({'ray', 'datasets', 'pyspark', 'apache_beam'} & {*sys.modules})"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stdout.strip() == "set()", ended.stderr


def test_hugging_face_datasets(model, photos, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    paths = [str(path) for path in sorted(photos.glob("[0-9]*"))]
    encoded = datasets.Dataset.from_dict({"image": paths, "id": range(len(paths))})
    expected = [*_scores(model, photos).values()]
    for decode in (True, False):
        dataset = encoded.cast_column("image", datasets.Image(decode=decode))
        scored = dataset.map(ScoreRows(model), batched=True, batch_size=4)
        assert scored["id"] == list(range(len(paths)))
        np.testing.assert_allclose(scored["score"], expected, atol=2e-6)
        assert scored["error"] == [""] * len(paths)


# --- Shards -------------------------------------------------------------------------


def test_shards_part_the_images_and_keep_them_when_files_are_added(
    model, photos, tmp_path
):
    output = tmp_path / "s.csv"

    def read(i):
        return rows((tmp_path / f"s-0000{i}-of-00003.csv").read_text())

    for i in range(3):
        run(model, photos, f"--output={output}", f"--shard={i}/3")
    found = [row["path"] for i in range(3) for row in read(i)]
    assert sorted(found) == sorted(map(str, photos.iterdir()))
    before = [{row["path"] for row in read(i)} for i in range(3)]
    for i in range(6, 12):
        picture(seed=i).save(photos / f"{i}.png")
    for i in range(3):
        run(model, photos, f"--output={output}", f"--shard={i}/3", "--resume")
        assert before[i] <= {row["path"] for row in read(i)}
    found = [row["path"] for i in range(3) for row in read(i)]
    assert sorted(found) == sorted(map(str, photos.iterdir()))


@pytest.mark.parametrize("text", ["3/3", "1", "a/2", "-1/2", "0/0", "1/2/3"])
def test_a_shard_that_is_none(text):
    with pytest.raises(errors.UsageError, match="expected I/N"):
        shards.Shard.parse(text)


def test_a_shard_needs_an_output(model, photos):
    with pytest.raises(errors.UsageError, match="--shard needs --output"):
        run(model, photos, "--shard=0/2")


# --- Part files ---------------------------------------------------------------------


def _write_parts(model, photos, folder, names, run_name):
    """Scores some images as a worker of Ray does."""
    columns = ["path", "score", "error"]
    write = ray_job.WriteParts(
        ScoreRows(model), folder, columns, run_name, str(photos.parent)
    )
    paths = np.array([str(photos / name) for name in names])
    return write({"path": paths, "reason": np.array([""] * len(paths))})


def _open(folder, resume=True, fingerprint="f"):
    columns = ["path", "score", "error"]
    return parts.open_folder(folder, columns, {"fingerprint": fingerprint}, resume)


def _read(folder):
    return [row for part in parts.list_parts(folder) for row in parts.read(part)]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_work_that_is_repeated_writes_the_same_part(model, photos, tmp_path, suffix):
    folder = tmp_path / f"scores{suffix}"
    run_name, done = _open(folder)
    assert not len(done)
    for _ in range(2):  # a worker was lost after it wrote and before it said so
        said = _write_parts(model, photos, folder, ["0.png", "bad.png"], run_name)
        assert said["images"] == [2] and said["failed"] == [1]
    _write_parts(model, photos, folder, ["1.png"], run_name)
    found = {os.path.basename(row["path"]): row for row in _read(folder)}
    assert len(_read(folder)) == len(found) == 3
    expected = _scores(model, photos)
    for name in ("0.png", "1.png"):
        assert float(found[name]["score"]) == pytest.approx(expected[name], abs=2e-6)
    # The next run finds what has a score, and drops the row that has none.
    _, done = _open(folder)
    assert len(done) == 2 and len(_read(folder)) == 2


def test_a_worker_of_a_run_that_was_replaced_writes_nothing(model, photos, tmp_path):
    folder = tmp_path / "scores.csv"
    old, _ = _open(folder)
    new, _ = _open(folder)
    with pytest.raises(errors.ArniqaError, match="taken over by another run"):
        _write_parts(model, photos, folder, ["0.png"], old)
    assert not _read(folder)
    _write_parts(model, photos, folder, ["0.png"], new)
    assert len(_read(folder)) == 1


def test_a_path_in_two_parts_keeps_one_row(model, photos, tmp_path):
    folder = tmp_path / "scores.csv"
    run_name, _ = _open(folder)
    _write_parts(model, photos, folder, ["0.png", "1.png"], run_name)
    _write_parts(model, photos, folder, ["1.png", "2.png"], run_name)
    _, done = _open(folder)
    assert len(done) == len(_read(folder)) == 3


def test_a_folder_is_neither_overwritten_nor_mixed(model, photos, tmp_path):
    folder = tmp_path / "scores.csv"
    run_name, _ = _open(folder)
    _write_parts(model, photos, folder, ["0.png"], run_name)
    with pytest.raises(errors.UsageError, match="has part files already"):
        _open(folder, resume=False)
    with pytest.raises(errors.UsageError, match="another model"):
        _open(folder, fingerprint="g")
    (tmp_path / "file.csv").write_text("")
    with pytest.raises(errors.UsageError, match="is a file"):
        _open(tmp_path / "file.csv")


@pytest.mark.parametrize(
    ("nodes", "asked", "expected"),
    [
        ([{"CPU": 8, "GPU": 4}, {"CPU": 8, "GPU": 2}], 0, ({"num_gpus": 1}, 6)),
        ([{"CPU": 8}, {"CPU": 8, "TPU": 4}], 0, ({"resources": {"TPU": 4}}, 1)),
        ([{"CPU": 8}, {"CPU": 4}], 0, ({"num_cpus": 1}, 2)),
        ([{"CPU": 8}, {"CPU": 4}], 5, ({"num_cpus": 1}, 5)),
    ],
)
def test_a_worker_has_a_device(nodes, asked, expected):
    described = [{"Alive": True, "Resources": node} for node in nodes]
    described.append({"Alive": False, "Resources": {"CPU": 1, "GPU": 8}})
    assert ray_job._resources(described, asked) == expected


def test_ray_needs_an_output(model, photos):
    with pytest.raises(errors.UsageError, match="--engine=ray needs --output"):
        run(model, photos, "--engine=ray")
