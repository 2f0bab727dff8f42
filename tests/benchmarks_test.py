"""The datasets from miniature copies of their owners' layouts, and one's own."""

import dataclasses
import shutil

import miniature
import numpy as np
import openpyxl
import pytest

from arniqa_jax import errors
from arniqa_jax.datasets import catalogue, csv_table


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    return root, miniature.write_all(root)


@pytest.fixture
def datasets(written, monkeypatch):
    root, counts = written
    miniature.use_counts(monkeypatch, counts)
    return root


@pytest.fixture
def copy_of(written, monkeypatch, tmp_path):
    """A copy of one dataset that a test may damage."""
    root, counts = written

    def copy(name, folder):
        miniature.use_counts(monkeypatch, counts)
        shutil.copytree(root / folder, tmp_path / folder)
        return tmp_path / folder

    return copy


def test_table_has_the_published_figures():
    published = {
        name: (d.title, d.kind, d.images, d.score_range, d.higher_is_better)
        for name, d in catalogue.DATASETS.items()
    }
    assert published == {
        "live": ("LIVE", "synthetic", 779, (1, 100), False),
        "csiq": ("CSIQ", "synthetic", 866, (0, 1), False),
        "tid2013": ("TID2013", "synthetic", 3000, (0, 9), True),
        "kadid10k": ("KADID10K", "synthetic", 10125, (1, 5), True),
        "flive": ("FLIVE", "authentic", 39810, (1, 100), True),
        "spaq": ("SPAQ", "authentic", 11125, (1, 100), True),
        "clive": ("CLIVE", "authentic", 1162, (1, 100), True),
        "koniq-10k": ("KonIQ-10k", "authentic", 10073, (1, 100), True),
        "koniq-10k-official": (
            *("KonIQ-10k official", "authentic", 10073),
            *((1, 100), True),
        ),
        "biq2021": ("BIQ2021", "authentic", 12000, (0, 1), True),
        "uhd-iqa": ("UHD-IQA", "authentic", 6073, (0, 1), True),
        "pipal": ("PIPAL", "synthetic", 23200, None, True),
    }
    averaged = [name for name, d in catalogue.DATASETS.items() if d.averaged]
    assert averaged == ["live", "csiq", "tid2013", "kadid10k", "flive", "spaq"]


@pytest.mark.parametrize("name", catalogue.DATASETS)
def test_opens_every_layout(datasets, name):
    known = catalogue.DATASETS[name]
    opened = catalogue.open_benchmark(name, datasets)
    assert len(opened) == len(opened.scores_N) == known.images
    assert len(set(opened.images.names)) == known.images
    assert opened.note == ""
    assert opened.images[3].dtype == np.uint8 and opened.images[3].shape[2] == 3
    synthetic = known.kind == "synthetic"
    assert len(set(opened.contents)) == (
        miniature.CONTENTS if synthetic else known.images
    )
    assert bool(opened.types) == (known.distortion is not None)
    assert (opened.references is not None) == synthetic
    if synthetic:
        assert len(opened.references) == miniature.CONTENTS
        assert len(opened.reference_N) == known.images
    official = name in ("biq2021", "koniq-10k-official", "uhd-iqa")
    assert len(opened.splits) == (1 if official else 10)
    assert opened.split_origin.startswith("official" if official else "drawn")
    for split in opened.splits:
        parts = list(split.parts().values())
        assert sorted(np.concatenate(parts)) == list(range(known.images))
        contents = [{opened.contents[i] for i in part} for part in parts]
        assert not (
            contents[0] & contents[1] or contents[2] & (contents[0] | contents[1])
        )


def test_reads_what_the_owners_wrote(datasets):
    """Scores, types, levels and references of single rows, quirks included."""
    opened = {n: catalogue.open_benchmark(n, datasets) for n in catalogue.DATASETS}
    live = opened["live"]
    assert live.images.names[21] == "jpeg/img2.bmp"
    assert live.types[21] == "jpeg" and live.levels_N[21] == 0
    assert live.references.names[live.reference_N[21]] == "refimgs/Ref1.bmp"
    assert live.scores_N.max() > 100 > 1 > live.scores_N.min()
    csiq = opened["csiq"]
    assert csiq.images.names[1] == "dst_imgs/awgn/p0.AWGN.2.png"
    assert (csiq.types[1], csiq.groups[1], csiq.levels_N[1]) == (
        "white_noise",
        "noise",
        2,
    )
    tid = opened["tid2013"]
    assert tid.images.names[15] == "distorted_images/i01_08_5.bmp"
    assert (tid.types[15], tid.groups[15], tid.levels_N[15]) == (
        "gaussian_blur",
        "blur",
        5,
    )
    assert len(set(tid.types)) == 24
    kadid = opened["kadid10k"]
    assert kadid.higher_is_better  # whatever its column is called
    assert kadid.types[-1] == "linear_contrast_change" and len(set(kadid.types)) == 25
    assert "EE371R/cj1+019 (x).jpg" in opened["flive"].images.names[1]
    assert opened["clive"].images.names[0] == "Images/3.JPG"  # 7 rows are dropped
    koniq = opened["koniq-10k"]
    assert koniq.images.names[0] == "512x384/10004473376.jpg"
    assert koniq.scores_N.max() > 5  # MOS_zscore
    # SPAQ's images are resized to a shorter side of 512.
    assert opened["spaq"].images[0].shape == (512, 614, 3)


def test_biq2021_official_split(datasets):
    opened = catalogue.open_benchmark("biq2021", datasets, seed=3)
    (split,) = opened.splits
    assert [len(part) for part in split.parts().values()] == [29, 3, 8]
    # The rows of the test table come last.
    assert split.test.tolist() == list(range(32, 40))
    assert "official" in opened.split_origin
    again = catalogue.open_benchmark("biq2021", datasets, seed=4)
    assert again.splits[0].validation.tolist() != split.validation.tolist()


@pytest.mark.parametrize(
    ("name", "folder", "file", "table"),
    [
        ("live", "live", "LIVE.txt", None),
        ("pipal", "PIPAL", "Train_Label", None),
        ("tid2013", "TID2013", "mos_with_names.txt", None),
        ("biq2021", "biq2021", "Test (Images and MOS).csv", None),
        ("clive", "Clive", "Data/AllMOS_release.mat", None),
        ("spaq", "SPAQ", "Annotations", None),
    ],
)
def test_missing_label_file(copy_of, name, folder, file, table):
    path = copy_of(name, folder)
    if (path / file).is_dir():
        shutil.rmtree(path / file)
    else:
        (path / file).unlink()
    with pytest.raises(errors.DatasetError) as error:
        catalogue.open_benchmark(name, path.parent, allow_partial=True)
    message = str(error.value)
    assert "\n" not in message and "expected" in message
    if name in ("live", "tid2013", "pipal"):
        known = catalogue.DATASETS[name]
        assert known.source in message and known.label_file in message


def _damage_score(path):
    text = path.read_text().splitlines()
    text[2] = text[2].rpartition(",")[0] + ",n/a"
    path.write_text("\n".join(text))


def _repeat_row(path):
    lines = path.read_text().splitlines()
    lines[3] = lines[2]
    path.write_text("\n".join(lines))


def _drop_row(path):
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (_damage_score, ["line 3", "'n/a' is not a number"]),
        (_repeat_row, ["line 3 ", " and line 4 ", "the same image"]),
        (_drop_row, ["expected 100 rows, found 99"]),
        (lambda p: (p.parent / "gblur" / "img4.bmp").unlink(), ["gblur/img4.bmp"]),
    ],
    ids=["score", "duplicate", "count", "image"],
)
def test_damaged_rows(copy_of, damage, parts):
    path = copy_of("live", "live")
    damage(path / "LIVE.txt")
    with pytest.raises(errors.DatasetError) as error:
        catalogue.open_benchmark("live", path.parent)
    message = str(error.value)
    assert "\n" not in message
    for part in [*parts, "LIVE", "LIVE.txt", "authors", "allow_partial"]:
        assert part in message
    partial = catalogue.open_benchmark("live", path.parent, allow_partial=True)
    assert partial.note == "99 of 100 images"
    assert len(partial) == len(partial.types) == 99
    assert (
        max(max(split.train.max(), split.test.max()) for split in partial.splits) == 98
    )


def test_no_folder_and_no_image(copy_of, tmp_path):
    with pytest.raises(errors.DatasetError, match=r"TID2013: expected a folder"):
        catalogue.open_benchmark("tid2013", tmp_path)
    path = copy_of("tid2013", "TID2013")
    shutil.rmtree(path / "distorted_images")
    with pytest.raises(errors.DatasetError, match="no usable image of 480 rows"):
        catalogue.open_benchmark("tid2013", tmp_path, allow_partial=True)


def test_unified_table_instead_of_the_owners(copy_of):
    """The table is outside the dataset and has somebody else's folder names."""
    path = copy_of("koniq-10k", "KonIQ-10k")
    (path / "koniq10k_scores_and_distributions.csv").unlink()
    names = sorted(p.name for p in (path / "512x384").iterdir())
    rows = [[f"KonIQ-10k/1024x768/{name}", "Authentic", 2.5] for name in names]
    header = "dis_img_path,dis_type,score"
    miniature.write_csv(path.parent / "labels" / "KonIQ-10k.txt", header, rows)
    opened = catalogue.open_benchmark("koniq-10k", path.parent)
    assert opened.score_range == (1, 5) and set(opened.scores_N) == {2.5}
    assert opened.images.names[0].startswith("512x384/")


def test_ambiguous_image(copy_of):
    path = copy_of("tid2013", "TID2013")
    shutil.copytree(path / "distorted_images", path / "other" / "distorted_images")
    with pytest.raises(errors.DatasetError, match=r"may be any of .*i01_01_1\.bmp"):
        catalogue.open_benchmark("tid2013", path.parent)


def test_images_of_another_case_and_mac_archives(copy_of):
    path = copy_of("kadid10k", "kadid10k")
    (path / "__MACOSX" / "images").mkdir(parents=True)
    (path / "__MACOSX" / "images" / "I01_01_01.png").write_bytes(b"")
    (path / "images" / "I01_01_01.png").rename(path / "images" / "i01_01_01.PNG")
    opened = catalogue.open_benchmark("kadid10k", path.parent)
    assert opened.images.names[0] == "images/i01_01_01.PNG"


def test_wrong_tables(copy_of, tmp_path):
    path = copy_of("spaq", "SPAQ")
    xlsx = path / "Annotations" / "MOS and Image attribute scores.xlsx"
    book = openpyxl.Workbook()
    book.active.append(["picture", "MOS"])
    book.save(xlsx)
    with pytest.raises(errors.DatasetError, match="a column named image name"):
        catalogue.open_benchmark("spaq", tmp_path)
    xlsx.write_bytes(b"not a workbook")
    with pytest.raises(errors.DatasetError, match=r"not a readable \.xlsx"):
        catalogue.open_benchmark("spaq", tmp_path)
    path = copy_of("clive", "Clive")
    (path / "Data" / "AllImages_release.mat").write_bytes(b"nothing")
    with pytest.raises(errors.DatasetError, match="expected a MATLAB file"):
        catalogue.open_benchmark("clive", tmp_path)


def test_fingerprint_follows_scores_and_not_the_place(copy_of, datasets):
    path = copy_of("live", "live")
    original = catalogue.open_benchmark("live", datasets)
    assert catalogue.open_benchmark("live", path.parent).fingerprint() == (
        original.fingerprint()
    )
    scores_N = original.scores_N + np.eye(len(original))[0]
    changed = dataclasses.replace(original, scores_N=scores_N)
    assert changed.fingerprint() != original.fingerprint()


def _own_images(folder, count=12):
    painter = miniature._Painter(5)
    return [painter.paint(folder / "my photos" / f"a ({i}).png") for i in range(count)]


@pytest.mark.parametrize("header", ["image,score", "file;MOS", "Path\tdmos"])
def test_table_of_ones_own(tmp_path, header):
    scores = _own_images(tmp_path)
    delimiter = next(c for c in header if c in ",;\t")
    lines = [f"my photos/a ({i}).png{delimiter}{s}" for i, s in enumerate(scores)]
    (tmp_path / "table.csv").write_text("\ufeff" + "\n".join([header, *lines]))
    opened = csv_table.open_csv(tmp_path)
    assert opened.scores_N.tolist() == scores and opened.kind == "custom"
    assert opened.higher_is_better == ("dmos" not in header)
    assert opened.score_range == (min(scores), max(scores))
    assert len(opened.splits) == 10


def test_table_of_ones_own_with_split_and_reference(tmp_path):
    scores = _own_images(tmp_path)
    parts = ["train"] * 6 + ["test"] * 4 + ["validation"] * 2
    rows = [
        [f"my photos/a ({i}).png", score, f"r{i // 3}.png", part]
        for i, (score, part) in enumerate(zip(scores, parts, strict=True))
    ]
    table = tmp_path / "one.csv"
    miniature.write_csv(table, "image,score,reference,split", rows)
    (split,) = csv_table.open_csv(table).splits
    assert split.test.tolist() == [6, 7, 8, 9]
    miniature.write_csv(table, "image,score,reference", [row[:3] for row in rows])
    assert len(set(csv_table.open_csv(table).contents)) == 4
    rows[4][3] = "trian"
    miniature.write_csv(table, "image,score,reference,split", rows)
    with pytest.raises(errors.DatasetError, match="line 6: split 'trian'"):
        csv_table.open_csv(table)
    miniature.write_csv(tmp_path / "two.csv", "image,score", [])
    with pytest.raises(
        errors.DatasetError, match=r"one \.csv file .* one.csv, two.csv"
    ):
        csv_table.open_csv(tmp_path)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("live", "LIVE"),
        ("csiq", "CSIQ"),
        ("tid2013", "TID2013"),
        ("kadid10k", "KADID-10k"),
        ("spaq", "SPAQ"),
        ("koniq-10k", "KonIQ-10k"),
    ],
)
def test_real_tables_and_official_splits(shared_data, tmp_path, name, table):
    """All rows of the real unified tables, on empty files with the images' names."""
    known = catalogue.DATASETS[name]
    folder = tmp_path / known.title
    for line in (shared_data / "labels" / f"{table}.txt").read_text().splitlines()[1:]:
        for cell in line.split(","):
            if "/" in cell:
                path = folder / cell.partition("/")[2]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
    shutil.copy(shared_data / "labels" / f"{table}.txt", folder)
    shutil.copytree(shared_data / "splits" / known.title, folder / "splits")
    opened = catalogue.open_benchmark(name, tmp_path)
    assert len(opened) == known.images and len(opened.splits) == 10
    assert opened.split_origin == "official"
    if known.kind == "synthetic":
        expected = {"live": 29, "csiq": 30, "tid2013": 25, "kadid10k": 81}[name]
        assert len(opened.references) == len(set(opened.contents)) == expected
