"""The documentation: its commands and code run, its tables are those of the code."""

import importlib.util
import itertools
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import architecture_test
import documented
import jax.numpy as jnp
import miniature
import numpy as np
import pytest
import small_model
from PIL import Image

import configs.pretrain
from arniqa_jax.datasets import catalogue, matching
from arniqa_jax.storage import workdir
from arniqa_jax.storage.checkpoints import Checkpoints
from arniqa_jax.training import train_step
from arniqa_jax.weights import encoders, regressors
from benchmarks import soak

_ROOT = documented.ROOT
_DOCS = _ROOT / "docs"


def _is_slow(page: pathlib.Path) -> bool:
    return any(module in page.read_text() for module in documented.SLOW)


_PAGES = [page for page in documented.PAGES if documented.blocks(page)]


@pytest.fixture(scope="module")
def tables():
    """The module docs/tables.py, which Sphinx imports."""
    spec = importlib.util.spec_from_file_location("tables", _DOCS / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """The folder of the miniature datasets, and the number of images of each."""
    root = tmp_path_factory.mktemp("datasets")
    return root, miniature.write_all(root)


@pytest.fixture(scope="module")
def world(datasets, tmp_path_factory):
    """What the documentation names: photographs, datasets, a model and a run."""
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    for number in range(8):
        pixels = rng.integers(0, 256, (64, 96, 3), np.uint8)
        for name in (f"photos/{number}.png", f"KADIS700/ref_imgs/{number}.png"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / name)
    Image.fromarray(pixels).save(folder / "photo.jpg")
    small_model.write(folder / "MODEL", "kadid10k")
    soak.write_scored(folder / "scored")
    (folder / "DATASETS").symlink_to(datasets[0])
    _write_run(folder / "runs" / "kadis")
    shutil.copytree(folder / "runs" / "kadis", folder / "runs" / "quickstart")
    for name in ("configs", "launch", "benchmarks"):
        (folder / name).symlink_to(_ROOT / name)
    return folder


def _write_run(path: pathlib.Path) -> None:
    """A run directory as `main` leaves it, of an encoder that was not trained."""
    config = configs.pretrain.get_config()
    config.update_from_flattened_dict(
        {
            "data.root": "KADIS700",
            "data.patch_size": 48,
            "data.workers": 0,
            "model.arch": "tiny",
            "model.init": "random",
            "train.batch_size": 8,
            "train.steps": 2,
        }
    )
    run = workdir.Workdir(path)
    run.config.write_text(json.dumps(config.to_dict()))
    variables = encoders.initial_variables(config)
    state = train_step.TrainState(jnp.int32(2), **variables, opt_state={})
    checkpoints = Checkpoints(run.checkpoints, config.to_dict())
    checkpoints.save(state, srcc=0.5)
    checkpoints.wait()
    checkpoints.close()
    encoder = encoders.load(path)
    regressor = small_model.proxy_regressor(encoder)
    regressors.write(regressor, run.results / "2" / "regressors", "builtin")


@pytest.fixture
def copied(world, datasets, tmp_path, monkeypatch):
    """Makes a copy of the world the current directory; returns it."""
    folder = tmp_path / "world"
    shutil.copytree(world, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    miniature.use_counts(monkeypatch, datasets[1])
    return folder


@pytest.mark.parametrize(
    "page",
    [
        # The page that compiles chains of all distortions.
        pytest.param(page, marks=[pytest.mark.slow] * (page.name == "distortions.md"))
        for page in _PAGES
    ],
    ids=lambda page: page.name,
)
def test_a_page_runs(copied, page):
    for package in documented.REQUIRED.get(page.name, ()):
        pytest.importorskip(package)
    documented.run_page(page, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", list(filter(_is_slow, _PAGES)), ids=lambda page: page.name
)
def test_a_page_runs_with_its_slow_commands(copied, page):
    if "arniqa_jax.main" in page.read_text():
        shutil.rmtree("runs")  # what this page trains itself
    documented.run_page(page, slow=True)


@pytest.mark.parametrize("page", documented.PAGES, ids=lambda page: page.name)
def test_every_block_is_of_a_kind_that_is_run(page):
    """So none escapes: commands are bash, code is python, the rest is output."""
    for block in documented.blocks(page):
        kind = block.language
        where = f"{page.name}:{block.line}"
        known = ("python", "bash", "text", *documented.DIRECTIVES)
        assert kind.partition(" ")[0] in known, where


def test_every_exception_is_used():
    commands = [
        shlex.join(words)
        for page in _PAGES
        for block in documented.blocks(page)
        if block.language == "bash"
        for words in documented.commands(block)
    ]
    for part in (*documented.ONLY_CHECKED, *documented.NOT_OURS):
        assert any(part in command for command in commands), part


@pytest.mark.slow
def test_benchmarks_have_their_flags():
    """By their --help, as a real run takes minutes and a machine of its own."""
    for page in _PAGES:
        for block in documented.blocks(page):
            for words in documented.commands(block) * (block.language == "bash"):
                flags = re.findall(r"--(\w+)", shlex.join(words))
                if "benchmarks/" not in shlex.join(words) or not flags:
                    continue
                script = documented.benchmark_script(words)
                program = ["bash"] if script.suffix == ".sh" else [sys.executable]
                shown = subprocess.run(
                    [*program, script, "--help"],
                    cwd=_ROOT,
                    capture_output=True,
                    text=True,
                    timeout=120,
                )
                known = shown.stdout + shown.stderr
                known += script.read_text() * (script.suffix == ".sh")
                for flag in flags:
                    assert flag in known, (script.name, flag)


@pytest.mark.parametrize("page", documented.PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    for link in links:
        if not re.match(r"https?:", link):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_readme_is_short():
    assert len((_ROOT / "README.md").read_text().splitlines()) <= 130


def test_contributors_see_the_levels_that_are_tested():
    """CONTRIBUTING lists them, and the design page says what each is."""
    (listed,) = (
        block.text.replace("commands: ", "")
        for block in documented.blocks(_ROOT / "CONTRIBUTING.md")
        if block.language == "text"
    )
    levels = [re.findall(r"\w+", line) for line in listed.splitlines()]
    assert [sorted(names) for names in levels] == [
        sorted(names) for names in architecture_test._LEVELS
    ]
    design = (_DOCS / "design.md").read_text()
    for name in itertools.chain(*levels):
        assert f"| `{name}" in design or f", `{name}`" in design, name


# --- Tables made from the source ------------------------------------------------------


def _rows(table: str) -> list[list[str]]:
    """The cells of the rows of Markdown tables, their headers left out."""
    lines = [line for line in table.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_table_of_config_fields(tables):
    fields = workdir.config_fields(configs.pretrain.get_config().to_dict())
    rows = _rows(tables.config_fields())
    assert {row[0].strip("`"): row[1].strip("`") for row in rows} == {
        name: repr(value) for name, value in fields.items()
    }
    assert len(rows) == len(fields)
    assert all(len(row[2]) > 2 for row in rows)


def test_comments_of_a_config(tables):
    source = (
        "config.a = 1  # behind\n"
        "# above,\n"
        "# in two lines\n"
        "config.b.c = '# no comment'\n"
        "# of nothing\n"
        "\n"
        "config.d = 2\n"
        "# above\n"
        "config.e = 3  # and behind\n"
    )
    assert tables.comments(source) == {
        "a": "behind",
        "b.c": "above, in two lines",
        "d": "",
        "e": "above; and behind",
    }


def test_tables_of_datasets_and_distortions(tables):
    rows = _rows(tables.datasets())
    assert [row[0].strip("`") for row in rows] == list(catalogue.DATASETS)
    levels = {row[0].strip("`"): row[2] for row in _rows(tables.distortions())}
    assert len(levels) == 24
    assert levels["jpeg"] == "43, 36, 24, 7, 4"
    assert levels["darken"] == "0.05, 0.1, 0.2, 0.4, 0.8"


# --- Layouts of the datasets ----------------------------------------------------------


def _layouts() -> dict[str, list[str]]:
    """The paths that the page of the datasets lists for each, by title."""
    text = (_DOCS / "evaluation.md").read_text()
    found = re.findall(r"\n### (\S+)\n[^#]*?```text\n\S+/\n(.*?)```", text, re.DOTALL)
    # A path ends at two spaces, behind which a remark may follow.
    return {
        title: [re.split(r"\s{2,}", line.strip())[0] for line in block.splitlines()]
        for title, block in found
    }


def test_every_dataset_has_a_layout():
    layouts = _layouts()
    for known in catalogue.DATASETS.values():
        listed = layouts[known.folder or known.title]
        assert any(path.startswith(known.label_file) for path in listed), known.title


@pytest.mark.parametrize("name", catalogue.DATASETS)
def test_a_dataset_of_the_listed_files_opens(name, datasets, tmp_path, monkeypatch):
    """Nothing that is not listed is needed, and what is listed is found.

    The miniatures of LIVE and CSIQ have the unified table in place of the label files
    of the owners, which owners_test reads.
    """
    root, counts = datasets
    known = catalogue.DATASETS[name]
    title = known.folder or known.title
    everything = matching.find_folder(root, title)
    for path in _layouts()[title]:
        parent, file = os.path.split(path)
        if parent and pathlib.Path(file).suffix not in (".mat", ".xlsx"):
            # Any file of the folder, as the miniatures have names of their own.
            source = matching.find_path(everything, parent)
            assert source is not None, path
            shutil.copytree(source, tmp_path / title / parent, dirs_exist_ok=True)
            continue
        source = matching.find_path(everything, path)
        if source is None:
            source = matching.find_path(everything, known.unified_file)
        (tmp_path / title / parent).mkdir(parents=True, exist_ok=True)
        shutil.copy(source, tmp_path / title / parent)
    miniature.use_counts(monkeypatch, counts)
    opened = catalogue.open_benchmark(name, tmp_path)
    assert len(opened) == counts[name] and opened.note == ""
    assert (opened.references is not None) == (known.kind == "synthetic")
