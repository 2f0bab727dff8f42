"""The rooms know only what DESIGN.md lets them know; the sources are read, not run."""

import ast
import pathlib

import pytest

import arniqa_jax

_ROOT = pathlib.Path(arniqa_jax.__file__).parent
_FILES = sorted(_ROOT.rglob("*.py"))
# A room, and what may not be imported anywhere in it.
_FORBIDDEN = {
    "data": (
        *("jax.numpy", "flax", "optax", "arniqa_jax.degradation", "arniqa_jax.model"),
        *("arniqa_jax.evaluation", "arniqa_jax.train", "arniqa_jax.train_step"),
    ),
    "degradation": ("arniqa_jax.data", "arniqa_jax.model", "arniqa_jax.evaluation"),
    "model": ("arniqa_jax.data", "arniqa_jax.degradation", "arniqa_jax.evaluation"),
    "evaluation": ("arniqa_jax.train", "arniqa_jax.train_step", "arniqa_jax.main"),
}


def _imports(path: pathlib.Path) -> set[str]:
    """Every module that a file imports, anywhere in it; and `module.name` besides."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
            found.add(node.module)
    return found


@pytest.mark.parametrize("room", _FORBIDDEN)
def test_rooms(room):
    files = [path for path in _FILES if path.relative_to(_ROOT).parts[0] == room]
    assert len(files) > 3
    for path in files:
        for module in _imports(path):
            for forbidden in _FORBIDDEN[room]:
                assert not f"{module}.".startswith(f"{forbidden}."), (path, module)


def test_nothing_imports_tensorflow():
    for path in _FILES:
        for module in _imports(path):
            assert module.split(".")[0] not in ("tensorflow", "clu"), path


def test_nothing_is_pickled():
    """The module may be imported for its exceptions; PyTorch reads weights only."""
    for path in _FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                called = (node.value.id, node.attr)
                assert called[0] != "pickle" or called[1].endswith("Error"), path


def test_only_commands_define_flags():
    commands = {
        str(path.relative_to(_ROOT))
        for path in _FILES
        if "flags.DEFINE_" in path.read_text()
    }
    commands -= {"command.py"}  # names them in its documentation
    for name in commands:
        assert "command.run(main" in (_ROOT / name).read_text(), name
    assert "main.py" in commands


def test_files_read_in_one_sitting_and_have_a_noun():
    for path in _FILES:
        # About 350 lines; a little over is no reason to tear a file apart.
        assert len(path.read_text().splitlines()) <= 380, path
        assert path.stem not in ("utils", "util", "common", "helpers", "misc"), path
