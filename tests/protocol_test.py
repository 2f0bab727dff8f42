"""The protocol against an independent recomputation with scikit-learn and scipy."""

import dataclasses

import miniature
import numpy as np
import pytest
import scipy.stats
from sklearn.linear_model import Ridge

from arniqa_jax import errors
from arniqa_jax.datasets import catalogue
from arniqa_jax.evaluation import protocol, ridge
from arniqa_jax.inference.dataset_extractor import DatasetExtractor


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """LIVE (DMOS, official splits padded with -1), CSIQ, KonIQ-10k, BIQ2021."""
    root = tmp_path_factory.mktemp("datasets")
    writers = (miniature.live, miniature.csiq, miniature.koniq10k, miniature.biq2021)
    for seed, write in enumerate(writers):
        write(root, miniature._Painter(seed))
    content = np.arange(100) % miniature.CONTENTS  # of LIVE's rows
    parts = {"train": [], "val": [], "test": []}
    for shift in range(4):
        of_part = {"train": range(6), "val": (6, 7), "test": (8, 9)}
        for part, contents in of_part.items():
            chosen = np.isin((content + shift) % miniature.CONTENTS, contents)
            # Rows of differing length, as official ones are: padded at the end.
            rows = np.flatnonzero(chosen)[: -1 - shift]
            parts[part].append(np.pad(rows, (0, 61 - len(rows)), constant_values=-1))
    (root / "live" / "splits").mkdir()
    for part, rows in parts.items():
        np.save(root / "live" / "splits" / f"{part}.npy", np.array(rows))
    return root


NAMES = ("live", "csiq", "koniq-10k", "biq2021")


@pytest.fixture
def opened(root, monkeypatch):
    counts = {"live": 100, "csiq": 120, "koniq-10k": 40, "biq2021": 40}
    miniature.use_counts(monkeypatch, counts)
    return [catalogue.open_benchmark(name, root) for name in NAMES]


@pytest.fixture
def evaluated(opened, tmp_path):
    return protocol.evaluate(miniature.encoder(), opened, cache_dir=tmp_path)


def _recompute(benchmark, features_NCD):
    """The protocol written again, with a regression per split and penalty."""
    alphas = np.geomspace(1e-3, 1e3, 100)

    def regression(indices, alpha):
        x = features_NCD[indices].astype(np.float64)
        y = np.repeat(benchmark.scores_N[indices], x.shape[1])
        return Ridge(alpha=alpha).fit(x.reshape(-1, x.shape[2]), y)

    def predict(model, indices):
        x = features_NCD[indices].astype(np.float64)
        return model.predict(x.reshape(-1, x.shape[2])).reshape(len(x), -1).mean(1)

    def srcc(model, indices):
        scores = benchmark.scores_N[indices]
        return scipy.stats.spearmanr(predict(model, indices), scores).statistic

    median = [
        np.median(
            [srcc(regression(s.train, a), s.validation) for s in benchmark.splits]
        )
        for a in alphas
    ]
    best = int(np.argmax(median))
    models = [regression(s.train, alphas[best]) for s in benchmark.splits]
    tested = [srcc(m, s.test) for m, s in zip(models, benchmark.splits, strict=True)]
    plcc = [
        scipy.stats.pearsonr(predict(m, s.test), benchmark.scores_N[s.test]).statistic
        for m, s in zip(models, benchmark.splits, strict=True)
    ]
    whole = regression(np.arange(len(benchmark)), alphas[best])
    return alphas[best], median[best], tested, plcc, lambda x: whole.predict(x)


def test_equals_independent_recomputation(opened, evaluated, tmp_path):
    extractor = DatasetExtractor(miniature.encoder(), tmp_path)
    features, regressors = {}, {}
    for benchmark, result in zip(opened, evaluated.datasets, strict=True):
        features[benchmark.name] = extractor.dataset(benchmark).values_RCD
        alpha, validation, srcc, plcc, whole = _recompute(
            benchmark, features[benchmark.name]
        )
        regressors[benchmark.name] = whole
        assert result.alpha == alpha
        assert result.validation_srcc == pytest.approx(validation, abs=1e-9)
        np.testing.assert_allclose(result.per_split["srcc"], srcc, atol=1e-9)
        np.testing.assert_allclose(result.per_split["plcc"], plcc, atol=1e-6)
        figure = result.figures["srcc"]
        assert figure.median == pytest.approx(np.median(srcc), abs=1e-9)
        assert figure.mean == pytest.approx(np.mean(srcc), abs=1e-9)
        assert figure.std == pytest.approx(np.std(srcc), abs=1e-9)
        assert figure.low <= figure.median <= figure.high
        assert figure.low < figure.high or len(result.tests[0].indices) < 10
    # Across datasets, DMOS turned round on either side.
    sign = {b.name: 1 if b.higher_is_better else -1 for b in opened}
    scores = {b.name: b.scores_N for b in opened}
    assert len(evaluated.cross) == 12
    for cross in evaluated.cross:
        x = features[cross.test].astype(np.float64).mean(1)
        predictions = sign[cross.train] * regressors[cross.train](x)
        truth = sign[cross.test] * scores[cross.test]
        expected = scipy.stats.spearmanr(predictions, truth).statistic
        assert cross.figures["srcc"].median == pytest.approx(expected, abs=1e-9)
    # The encoder sees the noise in all of them, whatever the direction of the scores.
    assert min(c.figures["srcc"].median for c in evaluated.cross) > 0.3


@pytest.mark.parametrize("few_rows", [False, True], ids=["primal", "dual"])
def test_validation_equals_recomputation(opened, tmp_path, monkeypatch, few_rows):
    if few_rows:
        # More features than rows: 300 instead of 12.
        projection = np.random.default_rng(0).normal(size=(12, 300)).astype(np.float32)
        extract = DatasetExtractor.extract
        monkeypatch.setattr(
            DatasetExtractor,
            "extract",
            lambda *a, **k: np.asarray(extract(*a, **k)) @ projection,
        )
    found = protocol.validate(
        miniature.encoder(), opened, alpha=0.1, cache_dir=tmp_path
    )
    assert list(found) == [*NAMES, "mean"]
    extractor = DatasetExtractor(miniature.encoder(), tmp_path / "all")
    for benchmark in opened:
        features = extractor.dataset(benchmark)
        srcc = []
        for split in benchmark.splits:
            x = features.take(split.train)
            y = np.repeat(benchmark.scores_N[split.train], 5)
            model = Ridge(alpha=0.1).fit(x.reshape(len(y), -1), y)
            predicted = model.predict(features.means(split.validation))
            truth = benchmark.scores_N[split.validation]
            srcc.append(scipy.stats.spearmanr(predicted, truth).statistic)
        assert found[benchmark.name] == pytest.approx(np.median(srcc), abs=1e-9)
    expected = np.mean([found[name] for name in NAMES])
    assert found["mean"] == pytest.approx(expected)


def test_validation_does_not_look_at_test_images(opened, tmp_path):
    (biq2021,) = [b for b in opened if b.name == "biq2021"]

    class Guarded:
        names = biq2021.images.names
        stamps = biq2021.images.stamps

        def __len__(self):
            return len(biq2021.images)

        def __getitem__(self, index):
            assert index not in biq2021.splits[0].test
            return biq2021.images[index]

    guarded = dataclasses.replace(biq2021, images=Guarded())
    protocol.validate(miniature.encoder(), [guarded], alpha=0.1, cache_dir=tmp_path)


def test_validation_keeps_the_features_of_one_encoder(opened, tmp_path):
    for seed in (0, 1):
        encoder = miniature.encoder(seed)
        protocol.validate(encoder, opened[-1:], alpha=0.1, cache_dir=tmp_path)
        (kept,) = (tmp_path / "validation").iterdir()
        assert encoder.fingerprint.startswith(kept.name)


def test_same_bits_again(opened, tmp_path):
    encoder = miniature.encoder()
    runs = [
        protocol.evaluate(encoder, opened[-1:], cache_dir=tmp_path / "a"),
        protocol.evaluate(encoder, opened[-1:], cache_dir=tmp_path / "a"),
        protocol.evaluate(encoder, opened[-1:], cache_dir=tmp_path / "b"),
    ]
    first, cached, again = (r.datasets[0] for r in runs)
    assert first.figures == cached.figures == again.figures


def test_types_and_groups(opened, evaluated):
    csiq, result = opened[1], evaluated.datasets[1]
    assert list(result.by_type) == list(dict.fromkeys(csiq.types))
    assert set(result.by_group) == {"noise", "blur", "sharpness_contrast", "jpeg"}
    srcc = []
    for test in result.tests:
        inside = np.array([csiq.groups[i] == "noise" for i in test.indices])
        truth = csiq.scores_N[test.indices[inside]]
        srcc.append(scipy.stats.spearmanr(test.predictions[inside], truth).statistic)
    noise = result.by_group["noise"]
    assert noise.srcc.median == pytest.approx(np.median(srcc), abs=1e-9)
    assert noise.images == sum(
        sum(csiq.groups[i] == "noise" for i in test.indices) for test in result.tests
    )
    assert evaluated.datasets[2].by_type == {}  # authentic


def test_sums_are_shared_between_splits(opened, tmp_path, monkeypatch):
    """Ten splits read the training rows once, and their own held-out rows."""
    read = []
    of = ridge.Moments.of.__func__

    def counting(cls, blocks, origin_D=None):
        blocks = list(blocks)
        read.append(sum(len(y) for _, y in blocks))
        return of(cls, blocks, origin_D)

    monkeypatch.setattr(ridge.Moments, "of", classmethod(counting))
    koniq = opened[2]
    protocol.evaluate(miniature.encoder(), [koniq], cache_dir=tmp_path)
    held_out = sum(len(s.validation) + len(s.test) for s in koniq.splits)
    assert sum(read) == 5 * (len(koniq) + held_out)


def test_full_reference(opened, tmp_path):
    encoder = miniature.encoder()
    found = protocol.evaluate(encoder, opened, cache_dir=tmp_path, full_reference=True)
    assert [d.name for d in found.datasets] == ["live", "csiq"]
    assert found.full_reference and found.datasets[0].weights_D.shape == (24,)
    with pytest.raises(errors.DatasetError, match="reference images"):
        protocol.evaluate(encoder, opened[2:], cache_dir=tmp_path, full_reference=True)


def test_data_efficiency(opened, tmp_path):
    found = protocol.evaluate(
        miniature.encoder(), opened[:1], cache_dir=tmp_path, data_efficiency=True
    )
    curve = found.datasets[0].efficiency
    assert list(curve) == ["0.1", "0.2", "0.5", "0.8", "1"]
    # The whole training part is the main result.
    assert curve["1"] == found.datasets[0].figures["srcc"]
    assert curve["0.1"].median < curve["1"].median


def test_unreadable_images_are_left_out_and_said(opened, tmp_path):
    (biq2021,) = [b for b in opened if b.name == "biq2021"]

    class Damaged:
        names = biq2021.images.names
        stamps = biq2021.images.stamps

        def __len__(self):
            return len(biq2021.images)

        def __getitem__(self, index):
            if index in (2, 35):
                raise errors.ImageError(f"{self.names[index]}: truncated")
            return biq2021.images[index]

    damaged = dataclasses.replace(biq2021, images=Damaged(), allow_partial=True)
    found = protocol.evaluate(miniature.encoder(), [damaged], cache_dir=tmp_path)
    result = found.datasets[0]
    assert result.images == 38 and result.note == "2 unreadable"
    assert 35 not in result.tests[0].indices
    assert np.isfinite(result.weights_D).all()
    with pytest.raises(errors.ImageError, match="truncated"):
        protocol.evaluate(
            miniature.encoder(),
            [dataclasses.replace(damaged, allow_partial=False)],
            cache_dir=tmp_path / "strict",
        )
