"""The commands and code blocks of the documentation, and how a test runs each.

A page is a script: its blocks run in order, in a folder that holds what they name
(`photo.jpg`, `photos/`, `DATASETS/`, `runs/kadis`, a tiny model, ...). Commands of this
package run in this process. What cannot run here is checked flag by flag.
"""

import configparser
import contextlib
import dataclasses
import importlib.util
import os
import pathlib
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from unittest import mock

import yaml
from markdown_it import MarkdownIt

from arniqa_jax import command, console

ROOT = pathlib.Path(__file__).parents[1]
PAGES = (
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    ROOT / "benchmarks" / "RESULTS.md",
    ROOT / "arniqa_jax" / "weights" / "starter" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
)

# Commands of this package that are only checked flag by flag, and why. A command is
# meant where it has the words in it.
ONLY_CHECKED = {
    "--from=ARNIQA.pth": "the official files are not here; see convert_test",
    "--from=resnet50-": "torchvision's files are not here; see convert_test",
    "--licence=apache-2.0": "uploads to the hub; see hub_test",
    "--num_processes=4": "takes several machines; see processes_test",
    "arniqa_jax.degradation.gallery": "draws 120 pictures; see gallery_test",
    "--engine=ray": "takes the extra `ray`; see ray_test",
    "--shard=$SLURM_ARRAY_TASK_ID": "takes a variable of Slurm",
    "gs://": "takes the network; see the tests of buckets",
    "PHOTOGRAPHS": "takes an hour; see train_test",
    "--config.evaluation.datasets=builtin,biq2021": "takes the run before it",
    "datasets=meta:": "the meta tables are not here; see own_table_test",
    "../shared/data": "takes the development data and hours",
}
# These take seconds to compile. The fast tests only check them; the slow ones run them.
SLOW = ("arniqa_jax.main", "arniqa_jax.evaluate", "arniqa_jax.data.kadis700k")
# Added to a command that trains, so that it takes seconds.
TINY = (
    "--config.data.patch_size=48",
    "--config.data.workers=0",
    "--config.model.arch=tiny",
    "--config.model.init=random",
    "--config.train.batch_size=8",
    "--config.train.steps=2",
    "--config.evaluation.root=.",
    "--config.evaluation.datasets=csv:scored",
)
# What the documentation names and the folder of the test has under another name.
SUBSTITUTES = {
    "--model=kadid10k": "--model=MODEL",
    '("kadid10k")': '("MODEL")',
    'load("hf://ORG/REPO"': 'load("MODEL"',
    "mine.pth": "mine.safetensors",  # without PyTorch
}
# Directives of pages, which hold neither commands nor code.
DIRECTIVES = ("{table-of}", "{include}", "{toctree}", "{eval-rst}")
# Pages that need a package which only some environments have.
REQUIRED = {"onnx.md": ("onnx", "onnxruntime")}
# Commands of other programs, which are not run, and why.
NOT_OURS = {
    ".venv/bin/pre-commit install": "changes the repository",
    "git worktree add": "changes the repository",
    "bash .ci/run": "runs these tests",
    "mkdir weights": "for the download that follows it",
    "cd weights": "the same",
    "for file in ARNIQA.pth": "takes the network",
    "curl": "takes the network",
    "done": "ends the loop of downloads",
    "export ARNIQA_JAX_WEIGHTS=": "an environment variable; see download_test",
    "gcloud ": "takes an account of Google Cloud",
    "git archive": "needs no test, and writes to the checkout",
    "tensorboard": "another program, which ends when it is told to",
}


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a page: `language` is python, bash, text or a directive."""

    page: pathlib.Path
    line: int
    language: str
    text: str


def blocks(page: pathlib.Path) -> list[Block]:
    """Return the code blocks of a page; an indented one has the language `indented`."""
    found = []
    for token in MarkdownIt().parse(page.read_text()):
        if token.type in ("fence", "code_block"):
            language = token.info if token.type == "fence" else "indented"
            found.append(Block(page, token.map[0] + 1, language, token.content))
    return found


def commands(block: Block) -> list[list[str]]:
    """Return the words of each command of a bash block, without comments."""
    lines = block.text.replace("\\\n", " ").splitlines()
    found = [shlex.split(line, comments=True) for line in lines]
    return [words for words in found if words]


def run_page(page: pathlib.Path, *, slow: bool) -> None:
    """Run the blocks of a page in the current directory.

    Args:
      page: the page.
      slow: also run the commands of the modules in `SLOW`.
    """
    names: dict[str, object] = {}
    for block in blocks(page):
        where = f"{page.name}:{block.line}"
        if block.language == "python":
            exec(compile(_substituted(block.text), where, "exec"), names)
        elif block.language == "bash":
            for words in commands(block):
                print(f"{where}: {shlex.join(words)}")
                _run(words, slow=slow)


def _substituted(text: str) -> str:
    for documented, here in SUBSTITUTES.items():
        text = text.replace(documented, here)
    return text


def _run(words: list[str], *, slow: bool) -> None:
    words = [_substituted(word) for word in words]
    ours = _our_command(words)
    if ours is None:
        return _check_other(words)
    module, arguments = ours
    if module == "arniqa_jax.main" and slow:
        arguments = [*arguments, *TINY]
    if module == "arniqa_jax.evaluate" and "--compare" not in arguments:
        arguments = [*arguments, "--config.evaluation.figures=false"]
    text = shlex.join(words)
    skipped = any(part in text for part in ONLY_CHECKED)
    if skipped or (module in SLOW and not slow):
        with _parsed(module, arguments):
            return
    with _parsed(module, arguments) as (main, positional):
        assert main(positional) in (None, 0), text
    for argument in arguments:
        flag, _, path = argument.partition("=")
        if flag in ("--output", "--to"):
            assert pathlib.Path(path).exists(), text


def _our_command(words: list[str]) -> tuple[str, list[str]] | None:
    """Return the module of a command of this package, and its arguments."""
    if words[:2] == ["python", "-m"] and words[2].startswith("arniqa_jax."):
        return words[2], words[3:]
    if words[0] == "arniqa":
        return console.SUBCOMMANDS[words[1]], words[2:]
    return None


@contextlib.contextmanager
def _parsed(module: str, arguments: list[str]) -> Iterator[tuple]:
    """Parse the flags of a command; give its main function and positional arguments.

    Raises:
      UsageError: a flag or config field that the command does not have.
    """
    names = runpy.run_path(importlib.util.find_spec(module).origin)
    # ml_collections looks for the fields of the config in sys.argv.
    with mock.patch.object(sys, "argv", [module, *arguments]):
        yield names["main"], command.parse_flags(sys.argv, names["FLAGS"])


def _check_other(words: list[str]) -> None:
    """Check a command of another program as far as it is about this repository.

    Raises:
      AssertionError: it names what is not here, or nothing is known about the program.
    """
    text = shlex.join(words)
    environment = {}
    while "=" in words[0] and not words[0].startswith("-"):
        name, _, environment[name] = words.pop(0).partition("=")
    if words[:2] == ["taskset", "-c"]:
        words = words[3:]
    if words[0] == "make":
        _call(["make", "--dry-run", *words[1:]], ROOT)
    elif words[:2] == ["pip", "install"]:
        _check_extras(words)
    elif any(word.startswith("launch/") and word.endswith(".sh") for word in words):
        _check_launch(words, environment)
    elif words[:3] == ["kubectl", "apply", "-f"]:
        assert yaml.safe_load((ROOT / words[3]).read_text())["kind"], text
    elif "benchmarks/" in text:
        assert benchmark_script(words).is_file(), text
    elif words[0] == "pytest":
        assert "-m" in words[1:], text
    else:
        assert any(text.startswith(known) for known in NOT_OURS), text


def benchmark_script(words: list[str]) -> pathlib.Path:
    """Return the script in a command that runs a benchmark."""
    (script,) = (word for word in words if re.match(r"benchmarks/\w+\.(py|sh)$", word))
    return ROOT / script


def _check_extras(words: list[str]) -> None:
    known = configparser.ConfigParser()
    known.read(ROOT / "setup.cfg")
    for word in words:
        extras = re.fullmatch(r"(?:\.|arniqa_jax)\[(.*)\]", word)
        for extra in extras[1].split(",") if extras else ():
            assert extra in known["options.extras_require"], word


def _check_launch(words: list[str], environment: dict[str, str]) -> None:
    """Run the script with --dry-run, and parse the flags that it passes to main."""
    (script,) = (word for word in words if word.startswith("launch/"))
    arguments = words[words.index(script) + 1 :]
    _call(["bash", str(ROOT / script), "--dry-run", *arguments], ROOT, environment)
    flags = [argument for argument in arguments if argument.startswith("--")]
    with _parsed("arniqa_jax.main", flags):
        pass


def _call(words: list[str], folder: pathlib.Path, environment=None) -> None:
    subprocess.run(
        words,
        cwd=folder,
        env={**os.environ, "PYTHON": sys.executable, **(environment or {})},
        check=True,
        capture_output=True,
        timeout=60,
    )
