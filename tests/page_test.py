"""The page of an evaluation: self-contained, bounded, and working in a browser."""

import html.parser
import json
import re
import shutil
import subprocess

import miniature
import pytest

from arniqa_jax.datasets import catalogue, csv_table
from arniqa_jax.evaluation import (
    comparison,
    figures,
    manifold,
    page,
    protocol,
    thumbnails,
)
from arniqa_jax.inference.dataset_extractor import DatasetExtractor

HOSTILE = "<img src=x onerror=alert(1)>&'</script>.png".replace("/", "_")


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """Return two evaluations of CSIQ and of a table with a hostile name, and more."""
    root = tmp_path_factory.mktemp("page")
    painter = miniature._Painter(2)
    rows = []
    for i in range(20):
        name = HOSTILE if i == 3 else f"{i}.png"
        rows.append([name, painter.paint(root / "mine" / name)])
    miniature.write_csv(root / "mine" / "t.csv", "image,score", rows)
    with pytest.MonkeyPatch.context() as patch:
        count = miniature.csiq(root, miniature._Painter(1))
        miniature.use_counts(patch, {"csiq": count})
        opened = [catalogue.open_benchmark("csiq", root)]
    opened.append(csv_table.open_csv(root / "mine"))
    found = [
        protocol.evaluate(
            miniature.encoder(seed, f"step {seed}"), opened, cache_dir=root / "cache"
        )
        for seed in (0, 1)
    ]
    extractor = DatasetExtractor(miniature.encoder(0), root / "cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifold, "STEPS", 250)  # the fewest that it takes
        manifolds = {"csiq": manifold.compute(opened[0], extractor, 0)}
    return found, opened, manifolds


@pytest.fixture
def written(setting, tmp_path):
    (found, _), opened, manifolds = setting
    page.write(found, opened, manifolds, tmp_path)
    return tmp_path / "index.html"


class _Elements(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def _data(path):
    text = path.read_text()
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', text)
    return json.loads(match[1])


def test_nothing_comes_from_elsewhere(written):
    text = written.read_text()
    assert not re.search(r"https?:|//[a-z]+\.|url\(|@import", text)
    elements = _Elements(text).found
    # Names of files are data, not elements: the script adds the images.
    assert not [e for e in elements if e[0] in ("img", "link", "iframe", "object")]
    assert not [e for e in elements if e[0] == "script" and "src" in e[1]]
    policy = next(e[1]["content"] for e in elements if "http-equiv" in e[1])
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_it_has_what_was_found(setting, written):
    (found, _), _, _ = setting
    text = written.read_text()
    assert f">{found.dataset('csiq').figures['srcc'].median:.3f} [" in text
    csiq, mine = _data(written)["datasets"]
    assert [bar["name"] for bar in csiq["bars"]] == list(found.dataset("csiq").by_type)
    assert csiq["bars"][0]["srcc"] == pytest.approx(
        found.dataset("csiq").by_type["white_noise"].srcc.median
    )
    scatter, tsne = csiq["plots"]
    tested, _ = figures.tested_images(found.dataset("csiq"))
    assert len(scatter["points"]) == len(tested) and len(tsne["points"]) == 120
    assert len(tsne["legend"]) == 6 and len(scatter["line"]) == 60
    assert HOSTILE in [image["name"] for image in mine["images"]]
    assert mine["bars"] == [] and len(mine["plots"]) == 1
    best, worst, gap = csiq["grids"]
    assert "best" in best["title"] and "worst" in worst["title"]
    assert len(best["images"]) == len(worst["images"]) == len(gap["images"]) == 16
    # CSIQ's scores are DMOS: the best has the lowest prediction.
    x = {point[2]: point[0] for point in scatter["points"]}
    assert x[best["images"][0]] == min(x.values())


def test_thumbnails_and_points_are_bounded(setting, tmp_path, monkeypatch):
    (found, _), opened, manifolds = setting
    monkeypatch.setattr(thumbnails, "LIMIT", 30)
    monkeypatch.setattr(page, "MAX_POINTS", 50)
    page.write(found, opened, manifolds, tmp_path)
    data = _data(tmp_path / "index.html")
    assert len(data["thumbnails"]) == 15 + 15
    csiq = data["datasets"][0]
    assert "15 of" in csiq["limit"] and "at most 15" in csiq["limit"]
    assert len(csiq["plots"][0]["points"]) == 50
    assert "(50 of " in csiq["plots"][0]["title"]
    # The images of the grids go first.
    first = csiq["grids"][0]["images"][:15]
    assert all("thumbnail" in csiq["images"][index] for index in first)


def test_comparison_shows_where_the_predictions_differ(setting, tmp_path):
    (a, b), opened, _ = setting
    differences = comparison.compare(a, b)
    page.write_comparison(a, b, differences, opened[:1], tmp_path)
    csiq, mine = _data(tmp_path / "index.html")["datasets"]
    text = (tmp_path / "index.html").read_text()
    assert "A: step 0" in text and "SRCC B-A" in text
    assert csiq["plots"][0]["axes"] == ["predicted by A", "predicted by B"]
    assert csiq["images"][0]["lines"][0].startswith("A ")
    assert "thumbnail" in csiq["images"][csiq["grids"][0]["images"][0]]
    # The images of the other dataset are not at hand.
    assert not any("thumbnail" in image for image in mine["images"])


_PROBE = """
<script>
addEventListener("load", () => setTimeout(() => {
  const result = {};
  const canvas = document.querySelector("canvas");
  canvas.scrollIntoView();
  const box = canvas.getBoundingClientRect();
  for (let x = 70; x < box.width && hover.style.display !== "block"; x += 6)
    for (let y = 20; y < box.height - 50 && hover.style.display !== "block"; y += 6)
      canvas.dispatchEvent(new MouseEvent("mousemove",
        { clientX: box.left + x, clientY: box.top + y }));
  result.hover = hover.style.display;
  result.hovered = hover.innerText;
  result.hoverImage = hover.querySelector("img")?.naturalWidth ?? 0;
  canvas.dispatchEvent(new MouseEvent("mouseleave"));
  result.after = hover.style.display;
  const pen = canvas.getContext("2d");
  const pixels = pen.getImageData(0, 0, canvas.width, canvas.height).data;
  result.drawn = pixels.some((value) => value > 0);
  const values = () => [...document.querySelectorAll(".bar")].map((bar) =>
    parseFloat(bar.lastChild.textContent));
  const select = document.querySelector("select");
  select.value = "SRCC";
  select.dispatchEvent(new Event("change"));
  result.bars = values();
  const header = [...document.querySelectorAll("table")][2].querySelectorAll("th")[4];
  const column = () => [...header.closest("table").tBodies[0].rows].map((row) =>
    parseFloat(row.cells[4].dataset.value));
  header.click();
  result.ascending = column();
  header.click();
  result.descending = column();
  result.canvases = document.querySelectorAll("canvas").length;
  const all = (selector) => [...document.querySelectorAll(selector)];
  result.images = all(".grid img").map((image) => image.naturalWidth);
  result.names = all(".grid div").map((entry) => entry.innerText);
  const output = document.createElement("pre");
  output.id = "result";
  output.textContent = JSON.stringify(result);
  document.body.append(output);
}, 300));
onerror = (message) => { document.title = message; };
</script>
"""


def _browser():
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        if shutil.which(name):
            return name
    pytest.skip("there is no Chromium: apt-get install chromium")


def test_in_a_browser(written, tmp_path):
    """Points show their image, bars and tables are sorted, images are decoded."""
    browser = _browser()
    text = written.read_text().replace("</head>", _PROBE + "</head>")
    (tmp_path / "probed.html").write_text(text)
    dumped = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=1280,1000",
            "--virtual-time-budget=5000",
            "--dump-dom",
            (tmp_path / "probed.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout
    assert "<title>Evaluation of step 0</title>" in dumped  # or the first error
    result = html.unescape(re.search(r'<pre id="result">(.*?)</pre>', dumped)[1])
    result = json.loads(result)
    assert result["hover"] == "block" and result["after"] == "none"
    assert "predicted" in result["hovered"] and ".png" in result["hovered"]
    assert result["hoverImage"] > 0
    assert result["drawn"] and result["canvases"] == 3
    assert len(result["bars"]) == 6
    assert result["bars"] == sorted(result["bars"], reverse=True)
    assert result["ascending"] == sorted(result["ascending"])
    assert result["descending"] == sorted(result["ascending"], reverse=True)
    grids = [g["images"] for d in _data(written)["datasets"] for g in d["grids"]]
    assert len(result["images"]) == sum(map(len, grids)) and min(result["images"]) > 0
    assert any(HOSTILE in name for name in result["names"])
