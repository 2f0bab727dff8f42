"""The examples in docstrings run, and the first lines of docstrings are imperative."""

import ast
import doctest
import importlib
import pathlib
import re

import numpy as np
import pytest
import small_model
from PIL import Image

_ROOT = pathlib.Path(__file__).parents[1]
_PACKAGE = _ROOT / "arniqa_jax"
# First words of noun phrases and clauses, which do not say what a function does.
_NOT_VERBS = {"A", "All", "An", "Both", "Each", "Every", "How", "If", "In", "It", "No"}
_NOT_VERBS |= {"Of", "One", "The", "This", "What", "Where", "Whether", "Which", "With"}


def _modules_with_examples() -> list[str]:
    found = []
    for path in sorted(_PACKAGE.rglob("*.py")):
        if ">>> " in path.read_text():
            parts = path.relative_to(_PACKAGE.parent).with_suffix("").parts
            found.append(".".join(part for part in parts if part != "__init__"))
    return found


@pytest.mark.parametrize("name", _modules_with_examples())
def test_examples(name, tmp_path, monkeypatch):
    # The examples use the files MODEL and photo.jpg.
    small_model.write(tmp_path / "MODEL", "live")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted and not result.failed


def test_the_public_functions_have_examples():
    assert {
        "arniqa_jax",
        "arniqa_jax.degradation.catalogue",
        "arniqa_jax.evaluation.ridge",
        "arniqa_jax.model.losses",
    } <= set(_modules_with_examples())


def _is_imperative(docstring: str) -> bool:
    word = re.match(r"\w*", docstring)[0]
    third_person = word.endswith("s") and not word.endswith("ss")
    return word[:1].isupper() and not third_person and word not in _NOT_VERBS


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("Return the sum.", True),
        ("Compress an image.", True),
        ("Returns the sum.", False),
        ("The sum of two numbers.", False),
        ("`sum`, but faster.", False),
    ],
)
def test_the_rule_for_first_lines(docstring, expected):
    assert _is_imperative(docstring) == expected


@pytest.mark.parametrize("folder", ["arniqa_jax", "benchmarks", "configs"])
def test_docstrings_of_functions_are_imperative(folder):
    # A property is described by a noun phrase, like an attribute.
    wrong = [
        f"{path.relative_to(_ROOT)}:{node.lineno}: {docstring.splitlines()[0]}"
        for path in sorted((_ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
        and (docstring := ast.get_docstring(node))
        and not any("property" in ast.unparse(d) for d in node.decorator_list)
        and not _is_imperative(docstring)
    ]
    assert not wrong, "\n".join(wrong)
