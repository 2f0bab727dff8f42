"""LIVE and CSIQ from the files that their owners distribute."""

import shutil
import zipfile

import miniature
import numpy as np
import openpyxl
import pytest
import scipy.io

from arniqa_jax import errors
from arniqa_jax.datasets import catalogue, labels, owners


@pytest.fixture
def live(tmp_path, monkeypatch):
    """LIVE as released, with only its images, and its unified table."""
    count = miniature.live(tmp_path, miniature._Painter(0))
    folder = tmp_path / "live"
    miniature.use_counts(monkeypatch, {"live": count})
    unified = catalogue.open_benchmark("live", tmp_path)
    sizes = dict.fromkeys(owners.LIVE_FOLDERS, 1 + count // 5)  # and one copy each
    miniature.live_release(folder, sizes)
    (folder / "LIVE.txt").unlink()
    monkeypatch.setattr(owners, "LIVE_FOLDERS", sizes)
    return folder, unified


@pytest.fixture
def csiq(tmp_path, monkeypatch):
    count = miniature.csiq(tmp_path, miniature._Painter(0))
    folder = tmp_path / "CSIQ"
    miniature.use_counts(monkeypatch, {"csiq": count})
    unified = catalogue.open_benchmark("csiq", tmp_path)
    miniature.csiq_release(folder)
    (folder / "csiq.TXT").unlink()
    return folder, unified


def _same(opened, unified):
    assert opened.note == "" and opened.types
    place = {name: i for i, name in enumerate(unified.images.names)}
    order = [place[name] for name in opened.images.names]
    np.testing.assert_allclose(opened.scores_N, unified.scores_N[order], rtol=1e-12)
    shown = [unified.references.names[unified.reference_N[i]] for i in order]
    assert [opened.references.names[i] for i in opened.reference_N] == shown


def test_live_from_its_matlab_files(live, tmp_path):
    _, unified = live
    _same(catalogue.open_benchmark("live", tmp_path), unified)


def test_live_compares_the_references_with_info_txt(live, tmp_path):
    folder, _ = live
    row = "{} img3.bmp 0.85\n"
    (folder / "jpeg" / "info.txt").write_text(row.format("ref2.bmp"))
    catalogue.open_benchmark("live", tmp_path)
    (folder / "jpeg" / "info.txt").write_text(row.format("ref4.bmp"))
    with pytest.raises(errors.DatasetError, match=r"img3\.bmp is a version of ref4"):
        catalogue.open_benchmark("live", tmp_path)


def test_live_with_missing_or_short_files(live, tmp_path):
    folder, _ = live
    cells = scipy.io.loadmat(folder / "refnames_all.mat")["refnames_all"]
    scipy.io.savemat(folder / "refnames_all.mat", {"refnames_all": cells[:, 1:]})
    with pytest.raises(errors.DatasetError, match=r"refnames_all\.mat, 104 names"):
        catalogue.open_benchmark("live", tmp_path)
    (folder / "refnames_all.mat").unlink()
    with pytest.raises(
        errors.DatasetError, match=r"expected refnames_all\.mat next to"
    ):
        catalogue.open_benchmark("live", tmp_path)


def test_csiq_from_its_workbook(csiq, tmp_path):
    _, unified = csiq
    _same(catalogue.open_benchmark("csiq", tmp_path), unified)


def test_csiq_in_the_wrong_workbook(csiq, tmp_path):
    folder, _ = csiq
    book = openpyxl.load_workbook(folder / "csiq.DMOS.xlsx")
    book["all_by_image"]["F4"] = "haze"
    book.save(folder / "csiq.DMOS.xlsx")
    with pytest.raises(errors.DatasetError, match=r"line 4: distortion 'haze'"):
        catalogue.open_benchmark("csiq", tmp_path)
    del book["all_by_image"]
    book.save(folder / "csiq.DMOS.xlsx")
    with pytest.raises(errors.DatasetError, match="all_by_image"):
        catalogue.open_benchmark("csiq", tmp_path)


@pytest.mark.shared
def test_live_has_the_images_scores_and_order_of_the_real_table(shared_data, tmp_path):
    shutil.copy(shared_data / "labels" / "LIVE.txt", tmp_path)
    miniature.live_release(tmp_path, owners.LIVE_FOLDERS)
    _equal_rows(
        owners.read_live(tmp_path / "dmos_realigned.mat"),
        labels.read_unified(tmp_path / "LIVE.txt"),
        components=2,
    )


@pytest.mark.shared
def test_csiq_has_the_images_scores_and_order_of_the_real_table(shared_data, tmp_path):
    shutil.copy(shared_data / "labels" / "CSIQ.txt", tmp_path)
    miniature.csiq_release(tmp_path)
    _equal_rows(
        owners.read_csiq(tmp_path / "csiq.DMOS.xlsx"),
        labels.read_unified(tmp_path / "CSIQ.txt"),
        components=1,
    )


def _equal_rows(read, unified, components):
    """The order too: the official splits refer to it."""

    def key(row):
        end = row.image.split("/")[-components:]
        return "/".join(end), row.reference.split("/")[-1], float(row.score)

    assert [key(row) for row in read] == [key(row) for row in unified]


@pytest.mark.parametrize("change", ["cut", "flip", "version"])
def test_a_damaged_matlab_file_is_one_error(tmp_path, change):
    path = tmp_path / "AllImages_release.mat"
    values = np.random.default_rng(0).random(500)
    scipy.io.savemat(path, {"AllImages_release": values}, do_compression=True)
    path.with_name("AllMOS_release.mat").touch()
    content = bytearray(path.read_bytes())
    if change == "cut":
        del content[300:]
    elif change == "flip":
        content[len(content) // 2] ^= 255
    else:
        content[124:126] = b"\x00\x02"  # version 7.3, which is HDF5
    path.write_bytes(content)
    with pytest.raises(errors.DatasetError, match=r"AllImages_release\.mat: expected"):
        owners.read_clive(path)


def test_a_damaged_workbook_is_one_error(tmp_path):
    path = tmp_path / "MOS and Image attribute scores.xlsx"
    book = openpyxl.Workbook()
    for row in [("Image name", "MOS"), *((f"{i}.jpg", i) for i in range(100))]:
        book.active.append(row)
    book.save(path)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("xl/worksheets/sheet1.xml").header_offset
    content[start + 100] ^= 255
    path.write_bytes(content)
    with pytest.raises(errors.DatasetError, match=r"xlsx: not a readable \.xlsx: "):
        owners.read_spaq(path)


def test_a_list_in_another_encoding_is_one_error(tmp_path):
    path = tmp_path / "mos.txt"
    path.write_bytes(b"5.5 I01_01_1.bmp\n5.5 \xe9.bmp\n")
    for reader, place in ((owners.read_tid2013, path), (owners.read_pipal, tmp_path)):
        with pytest.raises(errors.DatasetError, match="another encoding in line 2"):
            reader(place)
