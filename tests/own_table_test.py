"""Tables of one's own: paths, raters, columns, encodings, ranges; meta tables."""

import json
import shutil

import miniature
import numpy as np
import pytest

from arniqa_jax import errors
from arniqa_jax.datasets import csv_table, labelled, matching, meta_tables
from arniqa_jax.datasets.csv_table import TableFormat
from arniqa_jax.evaluation import loading, protocol, report

COUNT = 12


@pytest.fixture
def folder(tmp_path):
    """A folder with the images `photos/0.png` ... and no table."""
    painter = miniature._Painter(5)
    for i in range(COUNT):
        painter.paint(tmp_path / "mine" / "photos" / f"{i}.png")
    return tmp_path / "mine"


def _open(folder, lines, *, encoding="utf-8", **options):
    (folder / "t.csv").write_bytes("\n".join(lines).encode(encoding))
    return csv_table.open_csv(folder, **options)


# --- Paths ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "photos/{}.png",
        "./photos/{}.png",
        "PHOTOS/{}.PNG",
        "{}.png",
        "mine/photos/{}.png",
        "/elsewhere/mine/photos/{}.png",
        "C:\\data\\mine\\photos\\{}.png",
        "photos\\{}.png",
        "../mine/photos/{}.png",
        "{folder}/photos/{}.png",
    ],
)
def test_every_way_to_write_a_path(folder, path):
    rows = [f"{path.format(i, folder=folder)},{i}" for i in range(COUNT)]
    opened = _open(folder, ["image,score", *rows])
    assert opened.images.names == tuple(f"photos/{i}.png" for i in range(COUNT))
    assert opened.scores_N.tolist() == list(range(COUNT))


def test_images_outside_of_the_folder_of_the_table(folder, tmp_path):
    for parent in (tmp_path / "tables", tmp_path / "other"):
        parent.mkdir()
    rows = [f"{folder}/photos/{i}.png,{i}" for i in range(COUNT)]
    absolute = _open(tmp_path / "tables", ["image,score", *rows])
    rows = [f"../mine/photos/{i}.png,{i}" for i in range(COUNT)]
    relative = _open(tmp_path / "other", ["image,score", *rows])
    for opened in (absolute, relative):
        np.testing.assert_array_equal(
            opened.images[3], labelled.ImageFiles(folder, ("photos/3.png",))[0]
        )


def test_a_folder_is_not_searched_if_every_path_exists(folder, monkeypatch):
    monkeypatch.setattr(matching.folders, "walk", lambda folder: 1 / 0)
    rows = [f"photos/{i}.png,{i}" for i in range(COUNT)]
    assert len(_open(folder, ["image,score", *rows])) == COUNT
    with pytest.raises(ZeroDivisionError):
        _open(folder, ["image,score", *rows, "other.png,3"])


def test_hidden_tables_are_left_out(folder):
    (folder / "._t.csv").write_bytes(b"\x00\x05\x16\x07")  # of a Mac's archive
    rows = [f"photos/{i}.png,{i}" for i in range(COUNT)]
    assert len(_open(folder, ["image,score", *rows])) == COUNT


def test_another_folder_is_another_image(folder):
    rows = [f"photos/{i}.png,{i}" for i in range(COUNT - 1)]
    with pytest.raises(errors.DatasetError, match=r"line 13: no image old/11\.png"):
        _open(folder, ["image,score", *rows, "old/11.png,3"])
    shutil.copytree(folder / "photos", folder / "more")
    with pytest.raises(errors.DatasetError, match=r"may be any of more/11.*photos/11"):
        _open(folder, ["image,score", *rows, "11.png,3"])
    with pytest.raises(errors.DatasetError, match="are of the same image") as error:
        _open(folder, ["image,score", *rows, "a/photos/3.png,3"])
    assert "allow_partial" not in str(error.value)


# --- Several raters ------------------------------------------------------------------


def test_ratings_of_an_image_are_averaged(folder, tmp_path):
    rows = [
        f"photos/{i}.png,{rating},r{i % 4}"
        for rating_of in (lambda i: i, lambda i: i + 1, lambda i: i + 5)
        for i in range(COUNT)
        for rating in [rating_of(i)]
    ]
    opened = _open(folder, ["image,score,reference", *rows, "./photos/0.png,6,r0"])
    assert opened.scores_N[1:].tolist() == [i + 2 for i in range(1, COUNT)]
    assert opened.scores_N[0] == 3.0
    assert len(set(opened.contents)) == 4 and opened.note == ""
    spread = np.mean([np.std([0, 1, 5, 6], ddof=1)] + 11 * [np.std([0, 1, 5], ddof=1)])
    assert "mean of 3 to 4 ratings of the image, whose standard dev" in opened.remark
    assert f"{spread:.3g}" in opened.remark
    found = protocol.evaluate(miniature.encoder(), [opened], cache_dir=tmp_path / "c")
    assert "the mean of 3 to 4 ratings" in " ".join(
        report.terminal_table(found).split()
    )
    report.write(found, tmp_path / "out")
    data = json.loads((tmp_path / "out" / "results.json").read_text())
    assert data["datasets"][0]["remark"] == opened.remark


def test_ratings_that_contradict_each_other(folder):
    rows = [f"photos/{i}.png,{i},train" for i in range(COUNT)]
    with pytest.raises(errors.DatasetError, match=r"lines 5 and 14 .* differ in the p"):
        _open(folder, ["image,score,split", *rows, "photos/3.png,3,test"])
    rows = [f"photos/{i}.png,{i}" for i in range(COUNT)]
    lines = ["image,score", *rows, "photos/3.png,bad"]
    with pytest.raises(errors.DatasetError, match=r"line 14.*'bad' is not a number"):
        _open(folder, lines)


# --- Columns, encodings, range -------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "higher"),
    [
        ("img_name,mos", True),
        ("dis_img_path,MOS", True),
        ("image,mos_mean", True),
        ("filename,dmos", False),
        ("Image Name,DMOS", False),
        ("File-Name,Mean MOS", True),
        ("dist_name,elo_score", True),
    ],
)
def test_names_of_columns(folder, header, higher):
    rows = [f"photos/{i}.png,{i}" for i in range(COUNT)]
    opened = _open(folder, [header, *rows])
    assert len(opened) == COUNT and opened.higher_is_better == higher


def test_columns_and_range_of_the_config(folder, caplog):
    rows = [f"photos/{i}.png,7,{1 + i / 4}" for i in range(COUNT)]
    lines = ["picture,score,Rated by us", *rows]
    with pytest.raises(errors.DatasetError, match="csv_columns=IMAGE,SCORE"):
        _open(folder, lines)
    table = TableFormat.parse("Picture,rated_by_us", "1,5")
    opened = _open(folder, lines, table=table)
    assert opened.scores_N[2] == 1.5 and opened.score_range == (1.0, 5.0)
    assert not caplog.records or "leave the scale" not in caplog.text
    _open(folder, lines, table=TableFormat.parse("picture,rated by us", "2,5"))
    with pytest.raises(errors.DatasetError, match="named pic in"):
        _open(folder, lines, table=TableFormat.parse("pic,rated by us", ""))


@pytest.mark.parametrize(
    ("columns", "score_range", "part"),
    [
        ("image", "", "expected the names of two columns"),
        ("a,b,c", "", "expected the names of two columns"),
        ("", "5,1", "expected the lowest and the highest"),
        ("", "1", "expected the lowest and the highest"),
        ("", "one,five", "expected the lowest and the highest"),
    ],
)
def test_wrong_columns_and_ranges(columns, score_range, part):
    with pytest.raises(errors.UsageError, match=part):
        TableFormat.parse(columns, score_range)


def test_a_quotation_mark_that_is_not_closed_is_one_error(folder):
    rows = [f"photos/{i}.png,{i}" for i in range(20_000)]
    with pytest.raises(errors.DatasetError, match="quotation mark that is not closed"):
        _open(folder, ["image,score", '"photos/0.png,3', *rows])


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_other_encodings_say_what_to_save_as(folder, encoding):
    rows = [f"photos/{i}.png,{i},ä" for i in range(COUNT)]
    with pytest.raises(errors.DatasetError, match=r"UTF-8 text, .* save it as CSV"):
        _open(folder, ["image,score,note", *rows], encoding=encoding)


def test_semicolons_and_what_excel_writes(folder):
    rows = [f"photos/{i}.png;{i}.5" for i in range(COUNT)]
    for lines in (["image;score", *rows], ["sep=;", "image;score", *rows]):
        opened = _open(folder, lines, encoding="utf-8-sig")
        assert opened.scores_N[3] == 3.5


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("image;score", "photos/{}.png;{},5"),
        ("image,score", "photos/{}.png,{},5"),
        ("image,score", 'photos/{}.png,"{},5"'),
    ],
)
def test_decimal_commas_say_what_to_save_as(folder, header, row):
    rows = [row.format(i, i) for i in range(COUNT)]
    with pytest.raises(errors.DatasetError, match=r"line 2.*save .* decimal points"):
        _open(folder, [header, *rows])


# --- Meta tables of IQA-PyTorch ------------------------------------------------------


def _write_meta(root, key):
    """Write the table and the images of a meta table, references where it has them."""
    known, painter = meta_tables.META_TABLES[key], miniature._Painter(1)
    with_references = key in ("CSIQ", "KADID10k", "TID2008", "TID2013", "PIPAL")
    place = root / known.folder / (known.preferred[0] if known.preferred else "images")
    rows = []
    for i in range(COUNT):
        quality = painter.paint(place / f"i{i}.png")
        part = ("train", "train", "val", "test")[i % 4]
        reference = []
        if with_references:
            reference = [f"r{i % 4}.png"]
            folder = known.preferred[1] if known.preferred else "references"
            painter.paint(root / known.folder / folder / reference[0])
        rows.append([*reference, f"i{i}.png", quality, 0.1, part])
    score = "dmos" if key in ("CSIQ", "KADID10k") else "mos"
    header = f"img_name,{score},std,official_split"
    if with_references:
        names = "hq_name" if key == "PIPAL" else "ref_name"
        header = f"{names},dist_name,{score},std,ratio802_seed123_split_01"
    name = f"meta_info_{key}Dataset.csv"
    miniature.write_csv(root / "meta_info" / name, header, rows)
    return with_references


@pytest.mark.parametrize("key", meta_tables.META_TABLES)
def test_meta_tables(tmp_path, key):
    with_references = _write_meta(tmp_path, key)
    (opened,) = loading.load_benchmarks(f"meta:{key.lower()}", tmp_path)
    assert len(opened) == COUNT and opened.name == f"meta-{key.lower()}"
    assert (opened.references is not None) == with_references
    assert len(opened.splits) == (10 if with_references else 1)
    # The columns of KADID and LIVE are named after the wrong direction.
    assert opened.higher_is_better == (key not in ("CSIQ", "LIVEIQA", "LIVEMD"))
    if not with_references:
        assert opened.splits[0].validation.tolist() == [2, 6, 10]


def test_a_meta_table_without_a_test_part_tests_on_its_validation_part(tmp_path):
    _write_meta(tmp_path, "AVA")
    path = tmp_path / "meta_info" / "meta_info_AVADataset.csv"
    path.write_text(path.read_text().replace(",test", ",train"))
    (opened,) = loading.load_benchmarks("meta:AVA", tmp_path)
    (split,) = opened.splits
    assert split.test.tolist() == [2, 6, 10] and len(split.validation) == 1


def test_wrong_meta_tables(tmp_path):
    with pytest.raises(errors.UsageError, match="did you mean KADID10k"):
        loading.load_benchmarks("meta:kadid10", tmp_path)
    with pytest.raises(errors.DatasetError, match="IQA-PyTorch on Hugging Face"):
        loading.load_benchmarks("meta:KADID10k", tmp_path)
    _write_meta(tmp_path, "KADID10k")
    shutil.rmtree(tmp_path / "kadid10k")
    with pytest.raises(errors.DatasetError, match="folder of its images, kadid10k"):
        loading.load_benchmarks("meta:KADID10k", tmp_path)
