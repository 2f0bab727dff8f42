"""The score command: unusual and unreadable images, tables, resuming."""

import functools
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import small_model
from PIL import Image
from score_runs import picture, rows, run

from arniqa_jax import errors
from arniqa_jax.inference.extractor import map_in_threads
from arniqa_jax.scoring import inputs, table_rows, tables


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small_model.write(tmp_path_factory.mktemp("models") / "one", "live")


def _make_unusual(folder):
    folder.mkdir()
    picture(1, 1).save(folder / "01_one_pixel.png")
    picture(3, 20_000).save(folder / "02_wide.png")
    picture().convert("CMYK").save(folder / "03_cmyk.jpg")
    deep = np.arange(40 * 50, dtype=np.uint16).reshape(40, 50) * 30
    Image.fromarray(deep).save(folder / "04_16_bit.png")
    picture().convert("P").save(folder / "05_palette.png", transparency=3)
    frames = [picture(seed=i) for i in range(3)]
    frames[0].save(folder / "06_animated.gif", save_all=True, append_images=frames[1:])
    picture().convert("L").save(folder / "07_gray.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(30, 60).save(folder / "08_turned.jpg", exif=exif)
    return 8


def _make_bad(folder):
    """Returns what has to be said of each, by name."""
    folder.mkdir()
    reasons = {}

    def add(name, content, reason):
        (folder / name).write_bytes(content)
        reasons[name] = reason

    png, jpeg = io.BytesIO(), io.BytesIO()
    picture().save(png, "PNG")
    picture().save(jpeg, "JPEG")
    add("empty.png", b"", "empty file")
    add("cut.png", png.getvalue()[:2000], "truncated")
    add("cut.jpg", jpeg.getvalue()[:-800], "truncated")
    add("text.jpg", b"no image at all", "not an image")
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    add("bomb.png", bomb.getvalue(), "more than 200 million pixels")
    (folder / "folder.png").mkdir()
    reasons["folder.png"] = "a directory"
    os.mkfifo(folder / "pipe.png")
    reasons["pipe.png"] = "not a regular file"
    (folder / "nowhere.png").symlink_to(folder / "missing")
    reasons["nowhere.png"] = "unreadable: No such file"
    (folder / "loop.png").symlink_to(folder / "loop.png")
    reasons["loop.png"] = "unreadable: Too many levels"
    with open(os.fsencode(folder) + b"/\xff.png", "wb") as file:
        file.write(png.getvalue())
    reasons["\\xff.png"] = "its name is not UTF-8"
    return reasons


def test_unusual_images_are_scored_and_bad_ones_get_their_reason(
    model, tmp_path, capsys
):
    good = _make_unusual(tmp_path / "a_unusual")
    reasons = _make_bad(tmp_path / "b_bad")
    picture().save(tmp_path / "c_last.png")
    (tmp_path / "notes.txt").write_text("not to be tried")
    assert run(model, tmp_path) == errors.FAILURE
    found = rows(capsys.readouterr().out)
    assert [r["path"] for r in found[:good]] == sorted(r["path"] for r in found[:good])
    assert all(r["score"] and not r["error"] for r in [*found[:good], found[-1]])
    bad = {os.path.basename(r["path"]): r for r in found[good:-1]}
    assert bad.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert bad[name]["error"].startswith(reason), bad[name]
        assert not bad[name]["score"]


def test_nothing_of_pillow_reaches_the_terminal(model, tmp_path):
    _make_bad(tmp_path / "bad")
    # Pillow warns of what has more pixels than 89 million.
    Image.new("L", (9000, 9950), 99).save(tmp_path / "large.png", compress_level=1)
    ended = subprocess.run(
        [sys.executable, "-m", "arniqa_jax.score", f"--model={model}", tmp_path],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ended.returncode == 1
    found = rows(ended.stdout)
    assert found[-1]["path"].endswith("large.png") and found[-1]["score"]
    *_, line = lines = ended.stderr.splitlines()
    assert "11 images" in line and "10 without a score" in line
    # On a slow machine there are lines of progress before the last one.
    assert all("without a score" in line for line in lines)


def test_details_and_raw(model, tmp_path, capsys):
    picture(40, 50).save(tmp_path / "a.png")
    assert run(model, tmp_path, "--details") == 0
    (row,) = rows(capsys.readouterr().out)
    assert (row["width"], row["height"]) == ("50", "40") and float(row["seconds"]) > 0
    crops = [float(v) for k, v in row.items() if k.startswith("score_")]
    assert len(crops) == 5
    assert float(row["score"]) == pytest.approx(np.mean(crops), abs=2e-6)
    assert run(model, tmp_path, "--raw") == 0
    (raw,) = rows(capsys.readouterr().out)
    public = 1 - (float(raw["score"]) - 1) / 99
    assert float(row["score"]) == pytest.approx(public, abs=1e-5)


@pytest.mark.parametrize("suffix", tables.SUFFIXES)
def test_resumed_is_the_same_as_uninterrupted(model, tmp_path, suffix):
    for i in range(6):
        picture(seed=i).save(tmp_path / f'{i}, "quoted"\nname.png')
    (tmp_path / "5.png").write_bytes(b"")
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    assert run(model, tmp_path, f"--output={whole}") == 1
    lines = cut.with_suffix(".partial.jsonl") if suffix == ".parquet" else cut
    if suffix == ".parquet":
        plain = tmp_path / "plain.jsonl"
        run(model, tmp_path, f"--output={plain}")
        content = plain.read_bytes()
    else:
        content = whole.read_bytes()
    for keep in (0, 5, len(content) // 2, len(content) - 3, len(content)):
        lines.write_bytes(content[:keep])
        assert run(model, tmp_path, f"--output={cut}", "--resume") == 1
        if suffix != ".parquet":
            assert cut.read_bytes() == content
            continue
        from pyarrow import parquet

        assert parquet.read_table(cut).equals(parquet.read_table(whole))
        # Of a complete file nothing is scored again.
        assert run(model, tmp_path, f"--output={cut}", "--resume") == 1
        assert parquet.read_table(cut).equals(parquet.read_table(whole))
        cut.unlink()
    if suffix == ".jsonl":
        found = [json.loads(line) for line in content.decode().splitlines()]
        assert [row["score"] is None for row in found].count(True) == 1


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@pytest.mark.parametrize("damage", ["junk", '"junk', '"junk"x,', "1,2", "\0\0"])
def test_a_damaged_row_costs_no_other_row(tmp_path, suffix, damage, caplog):
    path = tmp_path / f"scores{suffix}"
    columns = ["path", "score", "error"]

    def table():
        return tables.Table(path, columns, stdout=None, identity={}, resume=True)

    names = ["a", 'b, "quoted"\nname', "c", "d"]
    with table() as first:
        for name in names:
            first.write({"path": name, "score": 0.5})
    lines = path.read_text().splitlines(keepends=True)
    at = len(lines) - 2  # the row of c
    path.write_text("".join([*lines[:at], damage + "\n", *lines[at + 1 :]]))
    with table() as second:
        assert [second.has(name) for name in names] == [True, True, False, True]
        second.write({"path": "c", "score": 0.5})
    assert "damaged rows, which are left out: 1" in caplog.text
    found = [row["path"] for row, _ in table_rows.read_rows(path)]
    assert found == [names[0], names[1], "d", "c"]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("notes.csv", "what,when\n", "has the columns what, when"),
        ("notes.csv", "path,score,error\na\nb\n", "is not a table of scores"),
        ("notes.jsonl", "[1, 2]\nnone\n", "is not a table of scores"),
    ],
)
def test_resume_leaves_a_file_alone_that_is_no_table(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    columns = ["path", "score", "error"]
    with pytest.raises(errors.UsageError, match=message):
        tables.Table(path, columns, stdout=None, identity={}, resume=True)
    assert path.read_text() == content


def test_a_parquet_file_keeps_the_rows_of_a_continuation_that_was_stopped(tmp_path):
    pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    path = tmp_path / "scores.parquet"
    names = ["path", "score", "error"]

    def table(columns=names):
        return tables.Table(path, columns, stdout=None, identity={}, resume=True)

    with table() as first:
        first.write({"path": "a", "score": 0.5})
        first.write({"path": "b", "error": "unreadable"})
    for name, score in (("b", 0.6), ("c", 0.7)):
        with pytest.raises(KeyboardInterrupt), table() as cut:
            cut.write({"path": name, "score": score})
            raise KeyboardInterrupt
    with pytest.raises(errors.UsageError, match="has the columns path, score, error"):
        table([*names, "width"])
    with table() as last:
        assert [last.has(name) for name in "abcd"] == [True, True, True, False]
        last.write({"path": "d", "score": 0.8})
    found = {row["path"]: row["score"] for row in tables.read_parquet(path)}
    assert found == {"a": 0.5, "b": 0.6, "c": 0.7, "d": 0.8}


@pytest.mark.parametrize("suffix", tables.SUFFIXES)
def test_a_table_has_one_writer(tmp_path, suffix):
    """A second one would cut rows off and score images twice."""
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    path = tmp_path / f"scores{suffix}"

    def table():
        columns = ["path", "score", "error"]
        return tables.Table(path, columns, stdout=None, identity={}, resume=True)

    with table() as first:
        first.write({"path": "a", "error": "unreadable"})
        with pytest.raises(errors.UsageError, match="another command is writing"):
            table()
        first.write({"path": "b", "score": 0.5})
    with table() as last:
        assert [last.has("a"), last.has("b")] == [False, True]


def test_an_output_is_neither_overwritten_nor_mixed(model, tmp_path):
    picture().save(tmp_path / "a.png")
    output = tmp_path / "scores.csv"
    assert run(model, tmp_path, f"--output={output}") == 0
    with pytest.raises(errors.UsageError, match="exists already: continue"):
        run(model, tmp_path, f"--output={output}")
    with pytest.raises(errors.UsageError, match="has the columns path, score, error"):
        run(model, tmp_path, f"--output={output}", "--resume", "--details")
    with pytest.raises(errors.UsageError, match=r"ends in \.csv"):
        run(model, tmp_path, "--output=scores.xls")


def test_inputs_are_files_folders_patterns_and_lists(tmp_path):
    for name in ("a/x.png", "a/b/y.JPG", "a/b/z.txt", "c/w.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a")
    (tmp_path / "empty").mkdir()

    def found(*arguments, stdin=b""):
        skipped = inputs.Skipped()
        items = inputs.find([str(a) for a in arguments], io.BytesIO(stdin), skipped)
        return [(os.path.relpath(i.path, tmp_path), i.reason) for i in items]

    assert found(tmp_path / "a") == [("a/b/y.JPG", None), ("a/x.png", None)]
    assert found(tmp_path / "*" / "*.png") == [("a/x.png", None), ("c/w.png", None)]
    assert found(tmp_path / "*.gif") == [("*.gif", "no file matches this pattern")]
    assert found(tmp_path / "empty") == [("empty", "a folder without images")]
    listed = f"{tmp_path}/c/w.png\n\n{tmp_path}/a/b/z.txt\r\n".encode()
    assert found("-", stdin=listed) == [("c/w.png", None), ("a/b/z.txt", None)]


def test_few_images_are_decoded_ahead(tmp_path):
    taken = []

    def items():
        for i in range(1000):
            taken.append(i)
            yield inputs.Input(str(tmp_path / f"{i}.png"))

    load = functools.partial(inputs.load, None)  # there is nothing to decode
    loaded = map_in_threads(load, items(), threads=2)
    for i, (one, view) in enumerate(loaded):
        assert one.input.path.endswith(f"/{i}.png") and view is None
        assert len(taken) <= i + 6
    assert len(taken) == 1000


def test_maps(model, tmp_path, capsys):
    picture(60, 70).save(tmp_path / "a.png")
    assert run(model, tmp_path / "a.png", f"--map={tmp_path}/maps") == 0
    (drawn,) = (tmp_path / "maps").iterdir()
    with Image.open(drawn) as image:
        assert image.size == (70, 60)


def test_wrong_use(model):
    with pytest.raises(errors.UsageError, match="something to score"):
        run(model)
    with pytest.raises(errors.UsageError, match="crops"):
        run(model, "x.png", "--crops=three")
