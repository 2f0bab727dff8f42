"""The page about a table of scores: its data, its lists, and the page in a browser."""

import html
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import small_model
from score_runs import picture, run

from arniqa_jax import command, errors, report
from arniqa_jax.scoring import report_page

_BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
_in_a_browser = pytest.mark.skipif(
    not _BROWSER, reason="there is no Chromium to open the page with"
)


def _run_report(*arguments):
    report.FLAGS.unparse_flags()
    for name in report.FLAGS:
        report.FLAGS[name].unparse()
    words = ["report", *map(str, arguments)]
    return report.main(command.parse_flags(words, report.FLAGS))


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Returns a folder with `photos`, `maps`, the table `scores.csv`, and `report`."""
    folder = tmp_path_factory.mktemp("scored")
    model = small_model.write(folder / "model", "live")
    photos = folder / "photos"
    photos.mkdir()
    for i in range(8):
        picture(seed=i).save(photos / f"{i}.png")
    (photos / "<script>alert(1)<").mkdir()
    picture(seed=8).save(photos / "<script>alert(1)<" / "%41 #?.png")
    (photos / "bad.png").write_bytes(b"text")
    (photos / "worse.png").write_bytes(b"")
    flags = [f"--output={folder}/scores.csv", f"--map={folder}/maps", "--details"]
    assert run(model, photos, *flags, f"--report={folder}/report") == errors.FAILURE
    return folder


def _data(page):
    text = re.search(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)[1]
    return json.loads(text)


def _numbers(data):
    return [score for score in data["scores"] if score is not None]


def test_the_page_has_the_table(scored):
    data = _data(scored / "report" / "index.html")
    assert len(data["paths"]) == 11
    bad = [p for p, s in zip(data["paths"], data["scores"], strict=True) if s is None]
    assert sorted(path.rpartition("/")[2] for path in bad) == ["bad.png", "worse.png"]
    assert data["crops"]["names"][:2] == ["center", "top left"]
    assert np.shape(data["crops"]["values"]) == (5, 11)
    assert len(data["thumbnails"]) == len(data["maps"]) == 9
    for name in data["maps"].values():
        assert (scored / "report" / data["mapBase"] / name).exists()


def test_lists_of_a_threshold(scored, tmp_path, capsys):
    scores = _data(scored / "report" / "index.html")["scores"]
    threshold = float(np.median([s for s in scores if s is not None]))
    arguments = [scored / "scores.csv", f"--output={tmp_path}/r"]
    assert _run_report(*arguments, f"--threshold={threshold}") == 0
    assert capsys.readouterr().out.strip() == f"{tmp_path}/r/index.html"
    lines = [(tmp_path / "r" / name).read_text().splitlines() for name in _LISTS]
    assert [len(one) for one in lines] == [5, 4]


_LISTS = ("kept.txt", "rejected.txt")


def test_a_score_that_is_not_finite_is_none(tmp_path):
    """An engine writes NaN where an image has no score."""
    (tmp_path / "s.csv").write_text("path,score,error\na,nan,lost\nb,0.5,\n")
    assert _run_report(tmp_path / "s.csv", f"--output={tmp_path}/r") == 0
    assert _data(tmp_path / "r" / "index.html")["scores"] == [None, 0.5]


def test_wrong_use(tmp_path, monkeypatch):
    with pytest.raises(errors.UsageError, match="expected a table and a folder"):
        _run_report("scores.csv")
    with pytest.raises(errors.UsageError, match="there is no such table"):
        _run_report(tmp_path / "no.csv", f"--output={tmp_path}/r")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(
        errors.UsageError, match=r"is not a table that .*columns are a, b"
    ):
        _run_report(tmp_path / "other.csv", f"--output={tmp_path}/r")
    (tmp_path / "s.csv").write_text("path,score,error\na,good,\n")
    with pytest.raises(errors.UsageError, match=r"is not a table that .*'good'"):
        _run_report(tmp_path / "s.csv", f"--output={tmp_path}/r")
    (tmp_path / "s.csv").write_text("path,score,error\na,0.5,\nb,0.4,\n")
    with pytest.raises(errors.UsageError, match="--map=gs://b/maps: expected a local"):
        _run_report(tmp_path / "s.csv", f"--output={tmp_path}/r", "--map=gs://b/maps")
    with pytest.raises(errors.UsageError, match=r"--map=.*no: there is no such folder"):
        _run_report(
            tmp_path / "s.csv", f"--output={tmp_path}/r", f"--map={tmp_path}/no"
        )
    with pytest.raises(errors.UsageError, match="--threshold=nan: expected a number"):
        _run_report(tmp_path / "s.csv", f"--output={tmp_path}/r", "--threshold=nan")
    monkeypatch.setattr(report_page, "MOST_ROWS", 1)
    with pytest.raises(errors.UsageError, match="found 2 rows"):
        _run_report(tmp_path / "s.csv", f"--output={tmp_path}/r")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\0junk\n", b"one;two\n1;2\n"])
def test_a_file_that_is_no_table_gives_no_page(tmp_path, content):
    (tmp_path / "s.csv").write_bytes(content)
    with pytest.raises(errors.UsageError, match="is not a table that"):
        _run_report(tmp_path / "s.csv", f"--output={tmp_path}/r")
    with pytest.raises(errors.UsageError, match="expected a name that ends in"):
        _run_report(tmp_path, f"--output={tmp_path}/r")
    assert not (tmp_path / "r").exists()


def test_a_page_has_all_rows_but_the_damaged_ones(tmp_path, caplog):
    (tmp_path / "s.csv").write_text("path,score,error\na,0.4,\nb,0.5,,\nc,0.6,\nd,")
    (tmp_path / "s.jsonl").write_text(
        '[1]\n{"path": "e", "score": 0.7, "error": null}\n'
    )
    tables = [tmp_path / "s.csv", tmp_path / "s.jsonl"]
    assert _run_report(*tables, f"--output={tmp_path}/r") == 0
    assert _data(tmp_path / "r" / "index.html")["paths"] == ["a", "c", "e"]
    assert caplog.text.count("damaged rows, which are left out: 1") == 2


def test_a_page_of_images_that_this_machine_cannot_fetch(tmp_path, monkeypatch):
    """The table may come from a machine with the extra for the bucket."""
    monkeypatch.setitem(sys.modules, "s3fs", None)
    (tmp_path / "s.csv").write_text("path,score,error\ns3://b/a.jpg,0.5,\n")
    assert _run_report(tmp_path / "s.csv", f"--output={tmp_path}/r") == 0
    assert _data(tmp_path / "r" / "index.html")["thumbnails"] == {}


def test_a_page_of_a_run_that_wrote_no_map(tmp_path):
    model = small_model.write(tmp_path / "model", "live")
    (tmp_path / "bad.png").write_bytes(b"text")
    flags = [f"--{name}={tmp_path}/{name}" for name in ("map", "report")]
    output = f"--output={tmp_path}/scores.csv"
    assert run(model, tmp_path / "bad.png", output, *flags) == errors.FAILURE
    assert _data(tmp_path / "report" / "index.html")["scores"] == [None]


# What a person does, one after the other; each step notes what can be seen then.
_STEPS = """
const seen = {}, rows = () => [...document.querySelectorAll(".row")].map(
  (row) => [...row.children].map((cell) => cell.textContent));
const numbers = () => [...document.querySelectorAll(".card b")].map(
  (b) => Number(b.textContent));
seen.summary = document.getElementById("summary").textContent;
const click = (selector) => document.querySelector(selector).click();
seen.worst = numbers();
click("[data-view=best]");
seen.best = numbers();
const slider = document.getElementById("slider");
slider.value = 1000; slider.oninput({ target: slider });
seen.kept_high = document.getElementById("kept").textContent;
slider.value = 0; slider.oninput({ target: slider });
seen.kept_low = document.getElementById("kept").textContent;
let saved;
URL.createObjectURL = (blob) => { saved = blob; return "#"; };
click("#save-kept");
seen.saved = (await saved.text()).trim().split("\\n");
click("[data-view=table]");
seen.by_score = rows();
click("[data-sort=score]");
seen.by_score_down = rows();
click("[data-sort=path]");
seen.by_path = rows();
const search = document.getElementById("search");
search.value = "bad.PNG"; search.oninput();
seen.searched = rows();
search.value = ""; search.oninput();
click("[data-view=errors]");
seen.reasons = [...document.querySelectorAll("summary")].map((s) => s.textContent);
click("[data-view=worst]");
click(".card");
await Promise.all([...document.querySelectorAll("dialog img")].map((i) => i.decode()));
seen.dialog = document.getElementById("shown").textContent;
seen.images = document.querySelectorAll("dialog img").length;
"""


def _use(folder, tmp_path):
    """Do `_STEPS` in the page of a folder, and return what can be seen."""
    page = (folder / "index.html").read_text()
    listen = """<script>
      const wrong = [];
      addEventListener("error", (e) => wrong.push(e.message));
      addEventListener("unhandledrejection", (e) => wrong.push(String(e.reason)));
    </script>"""
    steps = """<pre id=seen></pre><script>
      (async () => { STEPS; return seen; })()
        .catch((e) => ({ failed: String(e) }))
        .then((seen) => {
          const text = JSON.stringify({ ...seen, wrong });
          document.getElementById("seen").textContent = text;
        });
    </script>"""
    page = page.replace("<head>", "<head>" + listen, 1) + steps.replace("STEPS", _STEPS)
    driven = folder / "driven.html"
    driven.write_text(page)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    flags += [f"--user-data-dir={tmp_path}/browser"]
    text = ""
    # On a busy machine the browser's clock may end before the pictures are decoded.
    for seconds in (20, 200, 2000):
        command_line = [_BROWSER, *flags, f"--virtual-time-budget={seconds}000"]
        shown = subprocess.run(
            [*command_line, driven.as_uri()],
            capture_output=True,
            text=True,
            timeout=120,
        ).stdout
        text = html.unescape(re.search(r'id="seen">(.*?)</pre>', shown)[1])
        if text:
            break
    seen = json.loads(text)
    assert "failed" not in seen and seen["wrong"] == [], seen
    return seen


@_in_a_browser
def test_the_page_in_a_browser(scored, tmp_path):
    seen = _use(scored / "report", tmp_path)
    data = _data(scored / "report" / "index.html")
    scores = sorted(round(s, 4) for s in data["scores"] if s is not None)
    assert seen["worst"] == pytest.approx(scores, abs=1e-4)
    assert seen["best"] == pytest.approx(scores[::-1], abs=1e-4)
    assert seen["kept_high"].startswith("keeps 1 of 9 images")
    assert seen["kept_low"].startswith("keeps 9 of 9 images (100.0 %)")
    assert len(seen["saved"]) == 9 and set(seen["saved"]) <= set(data["paths"])
    by_score = [row[0] for row in seen["by_score"]]
    assert by_score[-2:] == ["", ""]  # those without a score come last
    assert list(map(float, by_score[:-2])) == pytest.approx(scores, abs=1e-4)
    assert [r[0] for r in seen["by_score_down"]][:-2] == by_score[:-2][::-1]
    assert [r[1] for r in seen["by_path"]] == sorted(data["paths"])
    ((_, path, error),) = seen["searched"]
    assert path.endswith("/bad.png") and error.startswith("not an image")
    assert len(seen["reasons"]) == 2 and seen["reasons"][0].startswith("1 image: ")
    assert "top left" in seen["dialog"] and seen["images"] == 2  # the picture, the map


@pytest.fixture(scope="module")
def lower(scored):
    """Returns `scored` with the table `raw.csv` and its page; the scores are DMOS."""
    flags = [f"--output={scored}/raw.csv", f"--map={scored}/maps", "--details"]
    flags += ["--raw", f"--report={scored}/raw"]
    assert run(scored / "model", scored / "photos", *flags) == errors.FAILURE
    return scored


def test_kept_are_the_lower_scores_where_these_are_better(lower, tmp_path):
    data = _data(lower / "raw" / "index.html")
    threshold = np.median(_numbers(data))
    arguments = [lower / "raw.csv", f"--output={tmp_path}/r"]
    assert _run_report(*arguments, f"--threshold={threshold}") == 0
    kept = set((tmp_path / "r" / "kept.txt").read_text().splitlines())
    assert len(kept) == 5
    scores = dict(zip(data["paths"], data["scores"], strict=True))
    assert kept == {p for p, s in scores.items() if s is not None and s <= threshold}
    with pytest.raises(errors.UsageError, match="a page for each kind"):
        _run_report(lower / "raw.csv", lower / "scores.csv", f"--output={tmp_path}/s")


@_in_a_browser
def test_the_page_in_a_browser_where_lower_scores_are_better(lower, tmp_path):
    seen = _use(lower / "raw", tmp_path)
    data = _data(lower / "raw" / "index.html")
    scores = sorted(_numbers(data))
    assert seen["best"] == pytest.approx(scores, abs=1e-4)
    assert seen["worst"] == pytest.approx(scores[::-1], abs=1e-4)
    assert seen["kept_high"].startswith("keeps 9 of 9 images (100.0 %)")
    assert seen["kept_low"].startswith("keeps 1 of 9 images")
    assert seen["saved"] == [data["paths"][data["scores"].index(min(_numbers(data)))]]
    assert seen["summary"].endswith("Lower is better.")
