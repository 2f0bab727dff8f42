"""Faults while photographs and images are read: one bad object is one bad image."""

import asyncio
import time
import types

import conftest
import emulators
import fault_proxy
import numpy as np
import pytest
import small_model
from PIL import Image
from score_runs import rows, run

from arniqa_jax import errors
from arniqa_jax.data import pairs, photos
from arniqa_jax.distributed import cpus
from arniqa_jax.evaluation import loading
from arniqa_jax.storage import buckets

_NUMBER = 6


@pytest.fixture
def faulty(gcs, gcs_server, monkeypatch):
    """A proxy in front of the emulator, through which this process reads it."""
    gcsfs = pytest.importorskip("gcsfs")
    # Its pauses between attempts take half a minute together.
    short = types.SimpleNamespace(sleep=lambda _: asyncio.sleep(0))
    monkeypatch.setattr(gcsfs.retry, "asyncio", short)
    monkeypatch.setattr(buckets, "_PAUSES", (0.0,))
    with (
        fault_proxy.proxy(gcs_server) as proxy,
        conftest.use_gcs(proxy.address, monkeypatch),
    ):
        yield proxy


@pytest.fixture
def folder(gcs, tmp_path):
    """A folder of photographs, which are also in the bucket."""
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for index in range(_NUMBER):
        pixels = rng.integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{index}.png")
    emulators.upload(tmp_path / "photos", f"{gcs}/photos")
    return tmp_path / "photos"


def _batches(source, number, **options):
    options = {"seed": 3, "patch_size": 16, "batch_size": 4} | options
    with pairs.pair_batches(source, **options) as batches:
        return [next(batches) for _ in range(number)]


def _only(part, fault):
    """A fault of the requests whose path contains `part`."""
    return lambda _, path: fault if part in path else None


def test_a_photograph_is_read_with_one_request(gcs, faulty, folder):
    source = photos.open_photos(f"{gcs}/photos")
    before = faulty.requests.copy()
    _batches(source, 8)
    asked = faulty.requests - before
    # The decoded photographs stay in memory: here each is read once.
    assert asked == {"GET": _NUMBER}


@pytest.mark.parametrize("use", ["pairs", "score"])
def test_requests_are_in_flight_together(
    gcs, faulty, folder, use, tmp_path, monkeypatch
):
    """Every request takes half a second; one after the other would take three."""
    source = photos.open_photos(f"{gcs}/photos")
    at_once, most = [], []
    # On a machine with one core.
    monkeypatch.setattr(cpus, "available_cpus", lambda: 1)

    def slow(_, path):
        if ".png" in path:
            at_once.append(path)
            most.append(len(at_once))
            time.sleep(0.5)
            at_once.remove(path)

    faulty.fault = slow
    if use == "pairs":
        _batches(source, 1, batch_size=8)
    else:
        assert run(small_model.write(tmp_path / "model", "live"), f"{gcs}/photos") == 0
    assert max(most) >= 3
    assert len(most) == _NUMBER


@pytest.mark.parametrize("fault", [503, "cut"])
def test_faults_that_pass_change_no_batch(gcs, faulty, folder, fault):
    expected = _batches(photos.open_photos(str(folder)), 3)
    seen = {}

    def twice(_, path):
        seen[path] = seen.get(path, 0) + 1
        return fault if ".png" in path and seen[path] <= 2 else None

    source = photos.open_photos(f"{gcs}/photos")
    faulty.fault = twice
    for found, other in zip(_batches(source, 3), expected, strict=True):
        for name in found:
            np.testing.assert_array_equal(found[name], other[name])
    assert faulty.faults == 2 * _NUMBER


@pytest.mark.parametrize("fault", [503, 403, "cut"])
def test_a_photograph_that_stays_unreadable_is_replaced(gcs, faulty, folder, fault):
    source = photos.open_photos(f"{gcs}/photos")
    faulty.fault = _only("2.png", fault)
    batches = _batches(source, 3, max_bad_share=0.2)
    assert not any((batch["record"] == 2).any() for batch in batches)
    assert sum(batch["skipped"].sum() for batch in batches) > 0
    counted = pairs.BadPhotographs(source, 0.2)
    assert counted.update(batches[0]) + counted.update(batches[1]) > 0
    with pytest.raises(errors.DatasetError, match=r"photos/2\.png: unreadable: "):
        _batches(source, 3, max_bad_share=0.1)


def test_an_outage_ends_the_batches_with_the_reason(gcs, faulty, folder):
    source = photos.open_photos(f"{gcs}/photos")
    faulty.fault = _only(".png", 403)
    with pytest.raises(errors.DatasetError, match="permission denied") as raised:
        _batches(source, 1)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("fault", [503, 403, "cut"])
def test_an_image_that_cannot_be_read_is_one_row(
    gcs, faulty, folder, fault, tmp_path, capsys
):
    model = small_model.write(tmp_path / "model", "live")
    assert run(model, folder) == 0
    expected = rows(capsys.readouterr().out)
    faulty.fault = _only("2.png", fault)
    assert run(model, f"{gcs}/photos") == errors.FAILURE
    found = rows(capsys.readouterr().out)
    assert [row["path"] for row in found] == [
        f"{gcs}/photos/{index}.png" for index in range(_NUMBER)
    ]
    assert found[2]["score"] == "" and found[2]["error"].startswith("unreadable: ")
    del found[2], expected[2]
    assert [row["score"] for row in found] == [row["score"] for row in expected]


@pytest.mark.parametrize("fault", [403, "cut"])
def test_what_cannot_be_listed_is_one_line(gcs, faulty, fault, tmp_path, capsys):
    faulty.fault = lambda *_: fault
    for use in (
        lambda: photos.open_photos(f"{gcs}/photos"),
        lambda: loading.load_benchmarks("kadid10k", f"{gcs}/datasets"),
    ):
        with pytest.raises(errors.BucketError, match=f"^{gcs}") as raised:
            use()
        assert "\n" not in str(raised.value)
    model = small_model.write(tmp_path / "model", "live")
    assert run(model, f"{gcs}/photos") == errors.FAILURE
    (row,) = rows(capsys.readouterr().out)
    assert row["error"].startswith("unreadable: ")


def test_an_evaluation_reads_each_image_with_one_request(gcs, faulty, tmp_path):
    (tmp_path / "Mine").mkdir()
    lines = ["image,score"]
    for index in range(5):
        pixels = np.full((8, 8, 3), index, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "Mine" / f"{index}.png")
        lines.append(f"{index}.png,{index}")
    (tmp_path / "Mine" / "scores.csv").write_text("\n".join(lines))
    emulators.upload(tmp_path / "Mine", f"{gcs}/Mine")
    before = faulty.requests["GET"]
    (benchmark,) = loading.load_benchmarks("csv:Mine", gcs)
    # The bucket, the list of the folder and its parent, the table.
    assert faulty.requests["GET"] - before <= 5
    before = faulty.requests["GET"]
    for index in range(5):
        assert (benchmark.images[index] == index).all()
    assert faulty.requests["GET"] - before == 5
