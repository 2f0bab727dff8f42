"""The content of a batch of pairs, which depends only on the seed and the step."""

import multiprocessing

import numpy as np
import pytest
from memory_photos import Photos, flat
from PIL import Image

from arniqa_jax.data import crops, pairs, photos
from arniqa_jax.errors import DatasetError, UsageError


def _noise(number):
    rng = np.random.default_rng(0)
    return Photos(
        [rng.integers(0, 256, (20 + k, 30, 3), dtype=np.uint8) for k in range(number)]
    )


def _take(source, number, **options):
    options = {"seed": 27, "patch_size": 8, "batch_size": 4} | options
    with pairs.pair_batches(source, **options) as batches:
        return [next(batches) for _ in range(number)]


def _assert_equal(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys() == {"images", "seed", "record", "skipped"}
        for name in a:
            assert a[name].dtype == b[name].dtype
            np.testing.assert_array_equal(a[name], b[name])


def _concatenate(batches, name):
    return np.concatenate([batch[name] for batch in batches])


def test_shapes_and_types():
    (batch,) = _take(_noise(5), 1, patch_size=16, batch_size=3)
    assert {name: (value.shape, value.dtype) for name, value in batch.items()} == {
        "images": ((3, 2, 2, 16, 16, 3), np.uint8),
        "seed": ((3,), np.uint32),
        "record": ((3, 2), np.int64),
        "skipped": ((3, 2), np.int32),
    }


@pytest.mark.parametrize("pairing", pairs.PAIRINGS)
def test_both_views_show_the_photographs_of_the_record(pairing):
    batches = _take(flat(6), 9, pairing=pairing, patch_size=2)
    images = _concatenate(batches, "images")
    record = _concatenate(batches, "record")
    expected = np.broadcast_to((record + 1)[:, :, None, None, None, None], images.shape)
    np.testing.assert_array_equal(images, expected)
    same = record[:, 0] == record[:, 1]
    assert same.all() if pairing == "same" else not same.any()


def test_views_of_the_same_photograph_are_different_crops():
    images = _concatenate(_take(_noise(5), 9, pairing="same"), "images")
    assert all((a != b).any() for a, b in images)


def test_same_counts_an_unreadable_photograph_once():
    batches = _take(flat(4, bad=(1,)), 2, pairing="same", max_bad_share=0.3)
    record, skipped = (_concatenate(batches, name) for name in ("record", "skipped"))
    assert skipped.sum() == 2  # two epochs
    np.testing.assert_array_equal(record[skipped[:, 0] == 1], [[2, 2], [2, 2]])


def test_scales_are_crops_of_the_image_and_of_its_half():
    source = _noise(5)
    for batch in _take(source, 5):
        for images, record in zip(batch["images"], batch["record"], strict=True):
            for scales, index in zip(images, record, strict=True):
                image = source.images[index]
                for crop, whole in zip(
                    scales, (image, crops.half_scale(image)), strict=True
                ):
                    windows = np.lib.stride_tricks.sliding_window_view(
                        whole, (8, 8, 3)
                    ).reshape(-1, 8, 8, 3)
                    assert (windows == crop).all(axis=(1, 2, 3)).any()


def test_crops_of_a_pair_are_drawn_independently():
    # Two photographs that show their own coordinates, so that a crop tells its place.
    rows, columns = np.mgrid[:64, :64]
    image = np.stack([rows, columns, rows], -1).astype(np.uint8)
    batches = _take(Photos([image, image]), 60)
    places = _concatenate(batches, "images")[:, :, 0, 0, 0, :2].reshape(-1, 4)
    correlation = np.corrcoef(places.astype(float).T)
    assert np.abs(correlation - np.eye(4)).max() < 0.2
    assert places.min() == 0 and places.max() == 56


def test_an_epoch_shows_every_photograph_once_as_view_a_in_a_new_order():
    records = _concatenate(_take(flat(8), 6), "record")[:, 0].reshape(3, 8)
    for epoch in records:
        assert sorted(epoch) == list(range(8))
    assert not (records[0] == records[1]).all()
    assert not (records[1] == records[2]).all()


def test_seeds_are_new_for_each_pair_and_epoch_and_follow_the_seed():
    seeds = _concatenate(_take(flat(8), 10), "seed")
    assert len(set(seeds.tolist())) == 40
    other = _concatenate(_take(flat(8), 10, seed=28), "seed")
    assert not set(seeds.tolist()) & set(other.tolist())


def test_the_seed_is_the_first_number_drawn_for_a_pair():
    drawn = pairs._plan_pair(3, np.random.default_rng(5), number=10)["seed"]
    assert drawn == np.random.default_rng(5).integers(2**32, dtype=np.uint32)


def test_partners_are_uniform_among_the_others():
    record = _concatenate(
        _take(flat(6, size=1), 60, patch_size=1, batch_size=60), "record"
    )
    counts = np.zeros((6, 6))
    np.add.at(counts, tuple(record.T), 1)
    assert not counts.diagonal().any()
    others = counts[~np.eye(6, dtype=bool)].reshape(6, 5)
    expected = others.mean(axis=1, keepdims=True)
    chi_square = ((others - expected) ** 2 / expected).sum(axis=1)
    assert chi_square.max() < 18.5  # p = 0.001 at 4 degrees of freedom


@pytest.mark.parametrize(
    ("pairing", "numbers"), [("independent", (1, 2)), ("rolled", (2,))]
)
def test_batches_are_the_same_for_any_number_of_workers(tmp_path, pairing, numbers):
    for index, image in enumerate(_noise(7).images):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    (tmp_path / "3.png").write_bytes(b"damaged")
    source = photos.open_photos(str(tmp_path))
    options = {"pairing": pairing, "max_bad_share": 0.2}
    expected = _take(source, 8, **options)
    assert _concatenate(expected, "skipped").any()
    for workers in numbers:
        _assert_equal(_take(source, 8, workers=workers, **options), expected)


def test_resuming_continues_the_same_batches_with_other_workers():
    source = _noise(5)
    expected = _take(source, 7)[4:]
    for workers in (0, 2):
        resumed = _take(source, 3, start_step=4, workers=workers)
        _assert_equal(resumed, expected)


@pytest.mark.parametrize("pairing", pairs.PAIRINGS)
def test_the_shares_of_the_processes_are_the_rows_of_one(pairing):
    source = _noise(5)
    expected = _take(source, 6, pairing=pairing)
    shares = [
        _take(source, 6, pairing=pairing, process_index=index, process_count=2)
        for index in range(2)
    ]
    joined = [
        {name: np.concatenate([a[name], b[name]]) for name in a}
        for a, b in zip(*shares, strict=True)
    ]
    _assert_equal(joined, expected)


def test_rolled_takes_the_photograph_of_the_next_row_and_decodes_each_once():
    source = flat(12)
    batches = _take(source, 3, pairing="rolled")
    for batch in batches:
        np.testing.assert_array_equal(
            batch["record"][:, 1], np.roll(batch["record"][:, 0], -1)
        )
    assert sorted(source.decoded[:12]) == list(range(12))


def test_rolled_passes_over_the_same_photograph_in_the_next_row():
    records, drawn = np.array([2, 2, 5, 2]), np.array([7, 8, 9, 0])
    np.testing.assert_array_equal(pairs._roll(records, drawn), [5, 5, 2, 5])
    np.testing.assert_array_equal(pairs._roll(records[:2], drawn[:2]), [7, 8])


def test_the_cache_gives_way_to_the_latest_photograph():
    source = flat(4)
    load = pairs._Loader(
        source,
        patch_size=4,
        rows=slice(None),
        pairing="independent",
        max_bad_share=0,
        cache_bytes=2 * (48 + 12),  # two photographs with their halves
    )
    plan = {
        "record": np.array([0, 0, 2, 0]),
        "partner": np.array([1, 1, 0, 1]),
        "seed": np.arange(4, dtype=np.uint32),
    }
    load(plan)
    assert source.decoded == [0, 1, 2, 0, 1]


def test_unreadable_photographs_are_replaced_by_the_next_readable_one():
    source = flat(10, bad=(3, 4, 9))
    batches = _take(source, 30, max_bad_share=0.3)
    record = _concatenate(batches, "record")
    skipped = _concatenate(batches, "skipped")
    assert set(record.ravel().tolist()) == {0, 1, 2, 5, 6, 7, 8}
    assert (record[:, 0] != record[:, 1]).all()
    assert {(int(r), int(s)) for r, s in zip(record[:, 0], skipped[:, 0], strict=True)
            } == {(0, 0), (0, 1), (1, 0), (2, 0), (5, 0), (5, 1), (5, 2), (6, 0),
                  (7, 0), (8, 0)}  # fmt: skip


def test_bad_photographs_are_named_once_and_counted_each_time(caplog):
    source = flat(10, bad=(3, 4, 9))
    batches = _take(source, 30, max_bad_share=0.3)
    bad = pairs.BadPhotographs(source, 0.3)
    counts = [bad.update(batch) for batch in batches]
    assert counts == [int(batch["skipped"].sum()) for batch in batches]
    assert sum(counts) > 20
    named = sorted(record.getMessage() for record in caplog.records)
    assert [name.rsplit(": ", 2)[1:] for name in named] == [
        ["3.png", "truncated"],
        ["4.png", "truncated"],
        ["9.png", "truncated"],
    ]


def test_a_partner_among_those_passed_over_is_not_called_bad(caplog):
    source = flat(5, bad=(1, 3))
    bad = pairs.BadPhotographs(source, 0.4)
    batch = {"record": np.array([[2, 4]]), "skipped": np.array([[0, 2]])}
    assert bad.update(batch) == 2
    assert len(caplog.records) == 2 and "2.png" not in caplog.text


def test_more_distinct_bad_photographs_than_allowed_end_the_run():
    # Never two in a row, so that only counting over batches finds them.
    source = flat(20, bad=(3, 8, 13))
    batches = _take(source, 40, max_bad_share=0.1)
    bad = pairs.BadPhotographs(source, 0.1)
    with pytest.raises(
        DatasetError, match=r"3 of the 20 .*max_bad_share=0\.1"
    ) as caught:
        for batch in batches:
            bad.update(batch)
    assert "png: truncated. Repair or remove them" in str(caught.value)
    allowed = pairs.BadPhotographs(source, 0.15)
    assert sum(allowed.update(batch) for batch in batches) > 0


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_in_a_row_end_the_run_with_one_line(workers):
    source = flat(10, bad=(4, 5, 6))
    before = multiprocessing.active_children()
    with pytest.raises(DatasetError) as caught:
        _take(source, 20, max_bad_share=0.29, workers=workers)
    assert type(caught.value) is DatasetError
    message = str(caught.value)
    assert message.startswith("unreadable: 3 of the 10 photographs")
    assert ".png: truncated" in message and "\n" not in message
    assert multiprocessing.active_children() == before


def test_the_share_is_not_lost_to_rounding():
    source = flat(100, bad=tuple(range(29)))
    record = _concatenate(_take(source, 30, max_bad_share=0.29), "record")
    assert record.min() == 29


def test_a_single_readable_photograph_forms_no_pair():
    with pytest.raises(DatasetError, match=r"no two are readable.*1\.png: truncated"):
        _take(flat(2, bad=(1,)), 1, max_bad_share=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairing": "random"}, "'random' is unknown: expected one of independent"),
        ({"batch_size": 5, "process_count": 2}, "positive multiple of .* processes, 2"),
        ({"batch_size": 0}, "train.batch_size=0"),
        ({"seed": -1}, "seed=-1 is not in"),
        ({"seed": 2**32}, "seed=4294967296 is not in"),
        ({"workers": -1}, "found -1, 128, 8 and 0.05"),
        ({"patch_size": 0}, "found 0, 128, 0 and 0.05"),
        ({"max_bad_share": 1.5}, "found 0, 128, 8 and 1.5"),
        ({"cache_mib": -1}, "found 0, -1, 8 and 0.05"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(UsageError, match=message):
        _take(flat(3), 1, **options)
