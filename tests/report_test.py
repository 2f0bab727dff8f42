"""Tables, files, comparison, regressors and figures of an evaluation."""

import csv
import dataclasses
import io
import json

import miniature
import numpy as np
import pytest

from arniqa_jax import errors
from arniqa_jax.datasets import catalogue
from arniqa_jax.evaluation import (
    comparison,
    figures,
    gmad,
    manifold,
    protocol,
    published,
    rendering,
    report,
    results,
    tables,
)
from arniqa_jax.evaluation import regressors as fitted
from arniqa_jax.evaluation.results import CrossResult, Figure
from arniqa_jax.evaluation.tables import Change, Table
from arniqa_jax.inference.dataset_extractor import DatasetExtractor
from arniqa_jax.weights import regressors


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """Two encoders on LIVE and KonIQ-10k: their results, the datasets, the cache."""
    root = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        counts = {
            "live": miniature.live(root, miniature._Painter(0)),
            "koniq-10k": miniature.koniq10k(root, miniature._Painter(1)),
        }
        miniature.use_counts(patch, counts)
        opened = [catalogue.open_benchmark(name, root) for name in counts]
    found = [
        protocol.evaluate(
            miniature.encoder(seed, f"step {seed}"),
            opened,
            cache_dir=root / "cache",
            data_efficiency=True,
        )
        for seed in (0, 1)
    ]
    return found, opened, root / "cache"


@pytest.fixture
def evaluated(setting):
    return setting[0][0]


def test_round_trip(evaluated, tmp_path):
    results.save(evaluated, tmp_path / "a", {"seed": 27})
    loaded = results.load(tmp_path / "a")
    assert results.to_json(loaded) == results.to_json(evaluated)
    for old, new in zip(evaluated.datasets, loaded.datasets, strict=True):
        assert old.image_names == new.image_names
        np.testing.assert_array_equal(old.weights_D, new.weights_D)
        for x, y in zip(old.tests, new.tests, strict=True):
            np.testing.assert_array_equal(x.predictions, y.predictions)


def test_json_holds_what_reproduces_it(evaluated, tmp_path):
    results.save(evaluated, tmp_path, {"evaluation": {"crops": "five"}})
    data = json.loads((tmp_path / "results.json").read_text())
    assert data["schema_version"] == results.SCHEMA_VERSION
    assert data["config"] == {"evaluation": {"crops": "five"}}
    assert data["versions"].keys() >= {"arniqa_jax", "jax", "scikit-learn"}
    assert data["fingerprint"] == miniature.encoder(0).fingerprint
    assert [len(d["fingerprint"]) for d in data["datasets"]] == [64, 64]


def test_json_has_no_nan(evaluated, tmp_path):
    nothing = Figure(0.5, 0.5, 0.0, float("nan"), float("nan"))
    dataset = dataclasses.replace(evaluated.datasets[0], efficiency={"0.1": nothing})
    results.save(dataclasses.replace(evaluated, datasets=(dataset,)), tmp_path)
    text = (tmp_path / "results.json").read_text()
    assert "NaN" not in text
    loaded = results.load(tmp_path).datasets[0].efficiency["0.1"]
    assert np.isnan(loaded.low) and loaded.median == 0.5


def test_loading_finds_the_one_set_of_results_of_a_workdir(evaluated, tmp_path):
    results.save(evaluated, tmp_path / "results" / "60")
    assert results.load(tmp_path).encoder == "step 0"
    results.save(evaluated, tmp_path / "results" / "70")
    with pytest.raises(errors.UsageError, match=r"results/60, .*results/70"):
        results.load(tmp_path)
    with pytest.raises(errors.UsageError, match="found none"):
        results.load(tmp_path / "nothing")
    predictions = tmp_path / "results" / "60" / "predictions.npz"
    whole = predictions.read_bytes()
    for torn in (b"", b"damaged", whole[:100], whole[:-9]):
        predictions.write_bytes(torn)
        with pytest.raises(errors.ArniqaError, match="evaluate again"):
            results.load(tmp_path / "results" / "60")
    (tmp_path / "results" / "70" / "results.json").write_text('{"schema_version": 9}')
    with pytest.raises(errors.ArniqaError, match="schema version 9"):
        results.load(tmp_path / "results" / "70")


def test_every_file_is_written(evaluated, tmp_path):
    report.write(evaluated, tmp_path)
    names = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert names == {
        "results.json",
        "predictions.npz",
        "results.md",
        "results.tex",
        "results.csv",
        "figures.csv",
        "distortions.csv",
        "cross.csv",
        "efficiency.csv",
        "regressors/live.json",
        "regressors/live.npz",
        "regressors/koniq-10k.json",
        "regressors/koniq-10k.npz",
    }
    rows = list(csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text())))
    live = evaluated.dataset("live").figures["srcc"]
    assert float(rows[0]["SRCC"]) == live.median
    assert float(rows[0]["SRCC_high"]) == live.high
    assert "| LIVE |" in (tmp_path / "results.md").read_text()
    latex = (tmp_path / "results.tex").read_text()
    assert latex.count(r"\begin{table}") == latex.count(r"\end{table}") == 5
    assert "gaussian\\_blur" in latex and "95 \\%" in latex


def test_terminal_tables_fit_80_columns(setting):
    (a, b), *_ = setting
    # The longest that can be: a long name, all published columns, a star.
    long = dataclasses.replace(
        a.datasets[1], title="A very long name of a folder", note="9 of 30 images"
    )
    dmos = {m: dataclasses.replace(f, median=-0.5) for m, f in long.figures.items()}
    long = dataclasses.replace(long, figures=dmos, images=140_000)
    live = dataclasses.replace(a.datasets[0], kind="proxy")
    cross = tuple(CrossResult("live", "csiq", 0.1, 30, c.figures) for c in a.cross)
    csiq = dataclasses.replace(a.datasets[0], name="csiq", title="KonIQ-10k")
    wide = dataclasses.replace(a, datasets=(live, long, csiq), cross=cross)
    texts = [
        report.terminal_table(a),
        report.terminal_table(wide),
        report.side_by_side(a, b, comparison.compare(a, b)),
        rendering.to_text(tables.spread(wide)),
        rendering.to_text(tables.distortions(wide)),
    ]
    for text in texts:
        assert max(map(len, text.splitlines())) <= 80
    assert "0.904" in texts[1] and "quoted" in texts[1]
    assert "SSIM" in texts[1]  # a proxy is called one
    assert "* A very long name of a folder: 9 of 30 images" in texts[1]


def test_averages_are_those_of_the_published_sets(evaluated):
    live, koniq = evaluated.datasets
    datasets = [dataclasses.replace(live, name=name) for name in ("live", "csiq")]
    spaq = dataclasses.replace(koniq, name="spaq", averaged=True)
    wide = dataclasses.replace(evaluated, datasets=(*datasets, spaq, koniq))
    synthetic, everything = tables.averages(wide)
    assert synthetic[:2] == ("synthetic", 2) and everything[:2] == ("all", 3)
    assert synthetic[2] == pytest.approx(live.figures["srcc"].median)
    expected = (2 * live.figures["plcc"].median + spaq.figures["plcc"].median) / 3
    assert everything[3] == pytest.approx(expected)
    assert tables.averages(evaluated) == []


def test_quoted_figures_only_beside_complete_datasets(evaluated):
    tid = dataclasses.replace(evaluated.datasets[0], name="tid2013", title="TID2013")
    table = tables.quoted(dataclasses.replace(evaluated, datasets=(tid,)))
    assert [row[2] for row in table.rows] == [0.880, 0.868]
    partial = dataclasses.replace(tid, note="5 of 3,000 images")
    assert tables.quoted(dataclasses.replace(evaluated, datasets=(partial,))) is None
    assert len(published.CROSS) == 12
    assert published.CROSS["kadid10k", "tid2013"] == (0.687, 0.612, 0.777, 0.760)


def test_cells():
    nan = float("nan")
    row = ("x", 1234, 0.5, None, Figure(0.5, 0.5, 0, 0.25, 0.75), Change(0.1), nan)
    table = Table(
        "t", "Title", ("a_b", "n", "f", "e", "g", "c", "z"), (row,), ("* note",)
    )
    text = rendering.to_text(table).splitlines()
    assert text[2].split() == [
        "x",
        "1,234",
        "0.500",
        "0.500",
        "[0.25",
        "0.75]",
        "+0.100",
        "-",  # NaN: undefined
    ]
    data = rendering.to_csv(table).splitlines()
    assert data[0] == "a_b,n,f,e,g,g_low,g_high,c,c_low,c_high,z"
    assert data[1] == "x,1234,0.5,,0.5,0.25,0.75,0.1,,,"
    assert r"- \* note" in rendering.to_markdown(table)
    assert r"a\_b & n" in rendering.to_latex(table)


def test_results_never_overwrite_others(setting, tmp_path):
    (a, b), *_ = setting
    first = report.new_directory(tmp_path, a)
    assert first.name == "0"
    report.write(a, first)
    assert report.new_directory(tmp_path, a) == first
    other = dataclasses.replace(b, encoder=a.encoder)
    assert report.new_directory(tmp_path, other).name == "0-2"
    whole = dataclasses.replace(a, crops="whole")
    assert report.new_directory(tmp_path, whole).name == "0-2"
    full = dataclasses.replace(a, full_reference=True)
    assert report.new_directory(tmp_path, full).name == "0-full-reference"
    # What a crash has damaged is no reason to lose what was computed.
    predictions = first / "predictions.npz"
    predictions.write_bytes(predictions.read_bytes()[:-9])
    assert report.new_directory(tmp_path, a).name == "0-2"


def test_comparison(setting):
    (a, b), *_ = setting
    live, koniq = comparison.compare(a, b)
    for difference, x, y in zip((live, koniq), a.datasets, b.datasets, strict=True):
        medians = x.figures["srcc"].median, y.figures["srcc"].median
        assert difference.srcc == medians
        assert difference.low <= medians[1] - medians[0] <= difference.high
        assert 0 <= difference.p_value <= 1
    same = comparison.compare(a, a)
    assert [(d.low, d.high, d.significant) for d in same] == [(0.0, 0.0, False)] * 2


def test_comparison_finds_a_real_difference(evaluated):
    rng = np.random.default_rng(0)
    live = evaluated.datasets[0]

    def predicted(noise):
        tests = tuple(
            dataclasses.replace(
                t,
                predictions=live.scores_N[t.indices]
                + noise * rng.normal(size=len(t.indices)),
            )
            for t in live.tests
        )
        per_split = {
            "srcc": [
                np.corrcoef(*(np.argsort(np.argsort(v)) for v in (t.predictions, s)))[
                    0, 1
                ]
                for t in tests
                for s in [live.scores_N[t.indices]]
            ]
        }
        dataset = dataclasses.replace(live, tests=tests, per_split=per_split)
        return dataclasses.replace(evaluated, datasets=(dataset,))

    (clear,) = comparison.compare(predicted(200), predicted(5))
    assert clear.significant and clear.low > 0
    (chance,) = comparison.compare(predicted(20), predicted(20))
    assert not chance.significant


def test_comparison_of_different_images_is_refused(setting):
    (a, b), *_ = setting
    changed = dataclasses.replace(b.datasets[0], fingerprint="0" * 64)
    other = dataclasses.replace(b, datasets=(changed,))
    with pytest.raises(errors.UsageError, match="different images, scores or splits"):
        comparison.compare(a, other)
    nothing = dataclasses.replace(b, datasets=())
    with pytest.raises(errors.UsageError, match="nothing to compare"):
        comparison.compare(a, nothing)


def test_regressors_predict_like_the_protocol(setting, tmp_path):
    (a, _), (live, _), cache = setting
    fitted.write_all(a, tmp_path)
    regressor = regressors.read(tmp_path, "live")
    features = DatasetExtractor(miniature.encoder(0), cache).dataset(live).values_RCD
    raw = regressor.raw_scores(features)
    dataset = a.dataset("live")
    means = features.astype(np.float64).mean(1)
    np.testing.assert_allclose(raw, means @ dataset.weights_D + dataset.intercept)
    # DMOS of 1..100: the best public score is 1, at a DMOS of 1.
    np.testing.assert_allclose(
        regressor.public_scores(np.array([1.0, 100.0, 112.0])), [1, 0, -12 / 99]
    )
    assert (regressor.encoder, regressor.crops) == (a.fingerprint, "five")
    described = json.loads((tmp_path / "live.json").read_text())
    assert described["dataset"] == "LIVE" and described["patch_size"] == 32
    (tmp_path / "live.npz").unlink()
    with pytest.raises(errors.CheckpointError, match="fit it again"):
        regressors.read(tmp_path, "live")


def test_figures_of_a_synthetic_and_an_authentic_dataset(
    setting, tmp_path, monkeypatch
):
    (a, b), opened, cache = setting
    monkeypatch.setattr(manifold, "STEPS", 250)  # the fewest that it takes
    extractor = DatasetExtractor(miniature.encoder(0), cache)
    figures.write(a, opened, extractor, tmp_path)
    gmad.write(a, b, opened, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {
        "live_scatter.png",
        "live_best_and_worst.png",
        "live_distortions.png",
        "live_tsne.png",
        "live_gmad.png",
        "koniq-10k_scatter.png",
        "koniq-10k_best_and_worst.png",
        "koniq-10k_gmad.png",
    }
    assert not any("koniq-10k_tsne" in name for name in names)
    assert min(path.stat().st_size for path in tmp_path.iterdir()) > 5000


def test_tested_images_average_their_splits(evaluated):
    indices, predictions = figures.tested_images(evaluated.datasets[1])
    of_image = [
        test.predictions[test.indices == indices[0]]
        for test in evaluated.datasets[1].tests
    ]
    assert predictions[0] == pytest.approx(np.concatenate(of_image).mean())


def test_gmad_pairs():
    rng = np.random.default_rng(0)
    defender, attacker = rng.uniform(size=(2, 400))
    low, high = gmad.find_pairs(defender, attacker)
    assert (low.level, high.level) == ("low", "high")
    for pair, level in ((low, 0.15), (high, 0.85)):
        for index in (pair.better, pair.worse):
            assert abs(defender[index] - np.quantile(defender, level)) < 0.05
        # Nearly all of the attacker's range, within a twentieth of the images.
        assert attacker[pair.better] - attacker[pair.worse] > 0.7


def test_gmad_on_another_dataset_is_refused(setting, tmp_path):
    (a, b), (live, _), _ = setting
    changed = dataclasses.replace(live, scores_N=live.scores_N + 1)
    with pytest.raises(errors.UsageError, match="not the one that was evaluated"):
        gmad.write(a, b, [changed], tmp_path)
