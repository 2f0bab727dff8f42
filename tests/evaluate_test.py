"""The evaluate command: every layout end to end, comparison, bad input."""

import json
import pathlib
import shutil
import sys

import miniature
import numpy as np
import pytest

from arniqa_jax import command, errors, evaluate
from arniqa_jax.datasets import catalogue
from arniqa_jax.evaluation import loading, manifold, proxy, statistics
from arniqa_jax.inference.dataset_extractor import DatasetExtractor
from arniqa_jax.weights import encoders, regressors

CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "evaluate.py"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    return root, miniature.write_all(root)


@pytest.fixture
def run(written, monkeypatch, capsys):
    """Runs the command in this process: exit code, standard output, error line."""
    miniature.use_counts(monkeypatch, written[1])
    names = {"untrained": (0, "untrained"), "best": (1, "step 60")}
    monkeypatch.setattr(
        encoders,
        "load",
        lambda model, which, *, photographs: miniature.encoder(*names[which]),
    )

    def run(*arguments):
        for name in list(evaluate.FLAGS):
            if name.startswith("config."):
                delattr(evaluate.FLAGS, name)
        evaluate.FLAGS.unparse_flags()
        for name in evaluate.FLAGS:
            evaluate.FLAGS[name].unparse()
        monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            command.run(evaluate.main, evaluate.FLAGS, usage=evaluate.__doc__)
        output = capsys.readouterr()
        lines = [line for line in output.err.splitlines() if line.startswith("error")]
        return end.value.code, output.out, " ".join(lines)

    return run


def _arguments(workdir, datasets, root, *more):
    return (
        f"--config={CONFIG}",
        f"--workdir={workdir}",
        f"--config.evaluation.datasets={datasets}",
        f"--config.evaluation.root={root}",
        "--config.data.workers=1",
        *more,
    )


@pytest.mark.parametrize(
    "names",
    [
        ("live", "csiq", "uhd-iqa"),
        pytest.param(tuple(catalogue.DATASETS), marks=pytest.mark.slow),
    ],
    ids=["three", "all"],
)
def test_layouts_end_to_end(run, written, tmp_path, monkeypatch, names):
    root, counts = written
    monkeypatch.setattr(manifold, "STEPS", 250)  # the fewest that it takes
    monkeypatch.setattr(statistics, "REPLICATES", 50)
    arguments = _arguments(tmp_path, ",".join(names), root)
    code, out, err = run(*arguments, "--config.evaluation.full_reference=true")
    assert (code, err) == (0, "")
    assert max(map(len, out.replace(str(tmp_path), "").splitlines())) <= 80
    directory = tmp_path / "results" / "60"
    data = json.loads((directory / "results.json").read_text())
    found = [(d["name"], d["images"]) for d in data["datasets"]]
    assert found == [(name, counts[name]) for name in names]
    assert data["config"]["evaluation"]["root"] == str(root)
    assert len(data["cross"]) == len(names) * (len(names) - 1)
    assert all(d["figures"]["srcc"]["median"] > 0.3 for d in data["datasets"])
    page = (directory / "index.html").read_text()
    for name in names:
        title = catalogue.DATASETS[name].title
        assert title in out and f'"title":"{title}"' in page
        assert (directory / "regressors" / f"{name}.json").exists()
        assert (directory / "figures" / f"{name}_scatter.png").exists()
        assert (directory / "figures" / f"{name}_best_and_worst.png").exists()
        with_types = catalogue.DATASETS[name].distortion is not None
        for figure in ("tsne", "distortions"):
            path = directory / "figures" / f"{name}_{figure}.png"
            assert path.exists() == with_types
    cross = (directory / "cross.csv").read_text().splitlines()
    assert cross[0].startswith("training,testing,Su,CONTR.,Re-IQA,ARNIQA,ours")
    assert any(line.startswith("LIVE,CSIQ,0.777,0.803,0.795,0.904,") for line in cross)
    full = json.loads(
        (tmp_path / "results" / "60-full-reference" / "results.json").read_text()
    )
    assert [d["kind"] for d in full["datasets"]] == [
        "synthetic" for name in names if catalogue.DATASETS[name].kind == "synthetic"
    ]


def test_compare_two_runs(run, written, tmp_path):
    root, _ = written
    quiet = "--config.evaluation.figures=false"
    for which in ("untrained", "best"):
        arguments = _arguments(tmp_path, "csiq,clive", root, quiet)
        assert run(*arguments, f"--checkpoint={which}")[0] == 0
    pair = (tmp_path / "results" / "untrained", tmp_path / "results" / "60")
    code, out, _ = run("--compare", *pair)
    assert code == 0 and "A: untrained   B: step 60" in out and "CLIVE" in out
    assert not (tmp_path / "results" / "comparison-untrained-60").exists()
    arguments = _arguments(tmp_path, "csiq", root)
    code, out, _ = run(*arguments, "--compare", *pair)
    assert code == 0
    names = {
        path.name
        for path in (tmp_path / "results" / "comparison-untrained-60").iterdir()
    }
    assert names == {
        "comparison.csv",
        "comparison.md",
        "comparison.tex",
        "csiq_gmad.png",
        "index.html",
    }


def test_second_evaluation_takes_features_from_the_cache(run, written, tmp_path):
    root, _ = written
    arguments = _arguments(
        tmp_path, "biq2021", root, "--config.evaluation.figures=false"
    )
    _, first, _ = run(*arguments)
    (cache,) = (tmp_path / "features").iterdir()
    stamp = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    _, second, _ = run(*arguments)
    assert second == first
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == stamp


def test_own_table(run, tmp_path):
    """Fit a regressor on custom images and scores, as the README shows."""
    painter = miniature._Painter(7)
    rows = []
    for i in range(20):
        file = f"{i}.png"
        rows.append([file, painter.paint(tmp_path / "mine" / file)])
    miniature.write_csv(tmp_path / "mine" / "scores.csv", "image,score", rows)
    code, out, _ = run(*_arguments(tmp_path / "w", "csv:mine", tmp_path))
    assert code == 0 and "mine" in out
    assert (tmp_path / "w" / "results" / "60" / "regressors" / "mine.json").exists()


def test_a_regressor_of_a_model_directory_is_replaced_only_on_demand(
    run, written, tmp_path
):
    model = tmp_path / "model"
    (model / "regressors").mkdir(parents=True)
    (model / "model.json").write_text("{}")
    (model / "regressors" / "clive.json").write_text("the official one")
    quiet = "--config.evaluation.figures=false"
    arguments = _arguments(tmp_path / "w", "clive,biq2021", written[0], quiet)
    code, out, err = run(*arguments, f"--model={model}")
    assert (code, out) == (2, "") and "regressor clive: --replace" in err
    assert not (tmp_path / "w" / "results").exists()
    code, out, _ = run(*arguments, f"--model={model}", "--noreplace")
    assert code == 0 and "regressor biq2021 written" in out
    assert "regressor clive written" not in out
    assert (model / "regressors" / "clive.json").read_text() == "the official one"
    code, out, _ = run(*arguments, f"--model={model}", "--replace")
    assert code == 0 and "regressor clive written" in out
    for name in ("biq2021", "clive"):
        regressor = regressors.read(model / "regressors", name)
        assert regressor.encoder == miniature.encoder(1).fingerprint


@pytest.mark.parametrize(
    ("datasets", "parts"),
    [
        ("livee", ["'livee'", "did you mean live"]),
        ("csiq,CSIQ", ["csiq twice"]),
        ("", ["did you mean"]),
        ("live:x", ["'live:x'"]),
    ],
)
def test_wrong_datasets(run, tmp_path, written, datasets, parts):
    code, out, err = run(*_arguments(tmp_path, datasets, written[0]))
    assert (code, out) == (2, "")
    for part in parts:
        assert part in err
    assert not (tmp_path / "results").exists()


def test_no_root(run, tmp_path):
    code, _, err = run(*_arguments(tmp_path, "live", ""))
    assert code == 2 and "needs evaluation.root" in err


def test_damaged_dataset_leaves_nothing_half_written(run, written, tmp_path):
    root, _ = written
    shutil.copytree(root / "biq2021", tmp_path / "biq2021")
    (tmp_path / "biq2021" / "Images" / "ss01 (3).jpg").unlink()
    arguments = _arguments(tmp_path / "w", "biq2021", tmp_path)
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    for part in ("BIQ2021", "Train (Images and MOS).csv", "ss01 (3).jpg", "allow_part"):
        assert part in err
    assert not (tmp_path / "w" / "results").exists()
    quiet = "--config.evaluation.figures=false"
    code, out, _ = run(*arguments, "--config.evaluation.allow_partial=true", quiet)
    assert code == 0
    assert "BIQ2021*" in out and "39 of 40 images" in out


def test_image_that_cannot_be_decoded(run, written, tmp_path):
    root, _ = written
    shutil.copytree(root / "biq2021", tmp_path / "biq2021")
    (tmp_path / "biq2021" / "Images" / "ss01 (3).jpg").write_bytes(b"no image")
    code, _, err = run(*_arguments(tmp_path / "w", "biq2021", tmp_path))
    assert code == 1 and "ss01 (3).jpg" in err
    assert not (tmp_path / "w" / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--compare", "a"], "takes two directories"),
        (["--compare", "a", "b", "c"], "takes two directories"),
        (["--compare", "nothing", "here"], "nothing: expected results.json"),
        (["stray"], "unexpected argument 'stray'"),
        ([], "--config and --workdir are needed"),
    ],
)
def test_wrong_use(run, arguments, part):
    code, _, err = run(*arguments)
    assert code == 2 and part in err


def test_wrong_crops(run, written, tmp_path):
    code, _, err = run(
        *_arguments(tmp_path, "clive", written[0], "--config.evaluation.crops=six")
    )
    assert code == 2 and "expected one of five, whole" in err


@pytest.fixture
def small_proxy(monkeypatch):
    """Three photographs under two distortions, of which one is random."""
    chosen = {n: proxy.BUILTIN[n] for n in ("rocket", "flower", "chelsea")}
    monkeypatch.setattr(proxy, "BUILTIN", chosen)
    catalogue = proxy.degradation.CATALOGUE
    kept = {name: catalogue[name] for name in ("darken", "white_noise")}
    monkeypatch.setattr(proxy.degradation, "CATALOGUE", kept, raising=False)


def test_proxy(small_proxy, tmp_path):
    (opened,) = loading.load_benchmarks("builtin", "", cache_dir=tmp_path)
    assert (len(opened), opened.kind, opened.title) == (30, "proxy", "proxy")
    # By content: a photograph is on one side only, the side of its role.
    roles = {c: proxy.BUILTIN[c].role for c in set(opened.contents)}
    for part, indices in opened.splits[0].parts().items():
        assert {roles[opened.contents[i]] for i in indices} == {part}
    assert opened.images.names[7] == "rocket/white_noise/3"
    assert (opened.types[7], opened.groups[7], opened.levels_N[7]) == (
        "white_noise",
        "noise",
        3,
    )
    # SSIM as another library computes it, on the stored 8 bits.
    from skimage.metrics import structural_similarity

    for i in (4, 7, 22):
        ssim = structural_similarity(
            opened.references[int(opened.reference_N[i])],
            opened.images[i],
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert opened.scores_N[i] == pytest.approx(ssim, abs=2e-3)
    noise = opened.scores_N.reshape(3, 2, 5)[:, 1]
    assert (np.diff(noise, axis=1) < 0).all()


def test_proxy_is_made_once_and_the_same(small_proxy, tmp_path):
    first, again = (
        loading.load_benchmarks("builtin", "", cache_dir=tmp_path / name)[0]
        for name in ("a", "b")
    )
    np.testing.assert_array_equal(first.scores_N, again.scores_N)
    np.testing.assert_array_equal(first.images[3], again.images[3])
    made = {p: p.stat().st_mtime_ns for p in (tmp_path / "a").rglob("*")}
    loading.load_benchmarks("builtin", "", cache_dir=tmp_path / "a")
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "a").rglob("*")} == made


def test_the_proxy_can_wait_but_not_what_is_wrong(small_proxy, tmp_path):
    give = loading.defer_proxy("builtin", "", cache_dir=tmp_path / "cache")
    assert not any((tmp_path / "cache").iterdir())
    assert give()[0].name == "builtin"
    assert give() is give()
    with pytest.raises(errors.DatasetError):
        loading.defer_proxy("builtin,live", tmp_path, cache_dir=tmp_path / "cache")
    with pytest.raises(errors.UsageError, match="twice"):
        loading.defer_proxy("builtin,Builtin", "", cache_dir=tmp_path / "cache")
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        loading.defer_proxy("builtin", "", cache_dir=tmp_path / "file")


def test_extractor_reads_the_proxy(small_proxy, tmp_path):
    (opened,) = loading.load_benchmarks("builtin", "", cache_dir=tmp_path)
    features = DatasetExtractor(miniature.encoder(), tmp_path).dataset(
        opened, full_reference=True
    )
    assert features.take(np.arange(30)).shape == (30, 5, 24)
