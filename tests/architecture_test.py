"""Allowed imports and habits of the code; the sources are parsed, not run."""

import ast
import graphlib
import pathlib

import arniqa_jax

_ROOT = pathlib.Path(arniqa_jax.__file__).parent
_FILES = sorted(_ROOT.rglob("*.py"))
# Packages and modules from the top level down: each imports only from levels below its
# own. A command stands at the top; `command` is what all of them share.
_LEVELS = (
    ("console",),
    ("main", "evaluate", "score", "report", "convert", "export", "models", "push"),
    ("training",),
    ("evaluation", "scoring"),
    ("weights",),
    ("inference",),
    ("datasets",),
    ("data", "degradation", "model"),
    ("command",),
    ("storage", "distributed", "config_files"),
    ("errors", "version"),
)
_LEVEL_OF = {name: level for level, names in enumerate(_LEVELS) for name in names}


def _imports(path: pathlib.Path) -> set[str]:
    """Return every module that a file imports, anywhere in it; and `module.name`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
            found.add(node.module)
    return found


def test_imports_go_down_the_levels():
    """So no two packages or modules import each other, directly or by a detour."""
    for path in _FILES:
        name = path.relative_to(_ROOT).parts[0].removesuffix(".py")
        if name == "__init__":
            continue  # offers names of the packages, and imports them when asked
        for module in _imports(path):
            package, _, rest = module.partition(".")
            imported = rest.partition(".")[0]
            if package != "arniqa_jax" or imported in ("", name):
                continue
            level = _LEVEL_OF[imported]
            assert level > _LEVEL_OF[name], f"{path} imports {module}"


def test_every_module_has_a_level():
    names = {path.relative_to(_ROOT).parts[0].removesuffix(".py") for path in _FILES}
    assert names - {"__init__"} == _LEVEL_OF.keys()


def test_no_import_cycle():
    """Also inside a package, where imports inside of functions count too."""
    modules = {
        ".".join(("arniqa_jax", *path.relative_to(_ROOT).with_suffix("").parts)): path
        for path in _FILES
    }
    graph = {
        name: {module for module in _imports(path) if module in modules} - {name}
        for name, path in modules.items()
    }
    # Raises CycleError, whose message has the cycle.
    assert set(graphlib.TopologicalSorter(graph).static_order()) == modules.keys()


def test_the_input_pipeline_does_not_compute_on_a_device():
    for path in _FILES:
        if path.relative_to(_ROOT).parts[0] in ("data", "datasets"):
            for module in _imports(path):
                assert not module.startswith(("jax.numpy", "flax", "optax")), path


def test_nothing_imports_tensorflow():
    for path in _FILES:
        for module in _imports(path):
            assert module.split(".")[0] not in ("tensorflow", "clu"), path


def test_modules_that_windows_lacks_are_imported_where_they_are_used():
    for path in _FILES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                names = {alias.name for alias in node.names}
                assert not names & {"fcntl", "pwd", "resource", "termios"}, path


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


def test_only_commands_use_what_starts_a_command():
    for path in _FILES:
        if "arniqa_jax.command" in _imports(path):
            assert "command.run(" in path.read_text(), path


def test_commands_are_short():
    """What they do is in modules that can be imported without flags."""
    for path in _FILES:
        text = path.read_text()
        if "\n    command.run(main, FLAGS" in text:
            assert len(text.splitlines()) < 100, path


def test_files_read_in_one_sitting_and_have_a_noun():
    for path in _FILES:
        # About 350 lines; a little over is no reason to tear a file apart.
        assert len(path.read_text().splitlines()) <= 380, path
        assert path.stem not in ("utils", "util", "common", "helpers", "misc"), path
