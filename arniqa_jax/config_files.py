"""Find the file of `--config`: a path, or the name of a config of the package."""

import difflib
import pathlib

from arniqa_jax.errors import UsageError

DIRECTORY = pathlib.Path(__file__).parent / "configs"


def names() -> list[str]:
    """Return the names of the configs of the package, sorted."""
    return sorted(
        path.stem for path in DIRECTORY.glob("*.py") if path.stem != "__init__"
    )


def find(value: str) -> str:
    """Return the path of a config, with the variant that `value` names, if any.

    Args:
      value: `PATH` or `NAME`, each with or without `:VARIANT`. A name may end in `.py`.
        A file at this path takes precedence over a config of the package.

    Raises:
      UsageError: there is neither such a file nor such a name.
    """
    path, colon, variant = value.partition(":")
    if pathlib.Path(path).is_file():
        return value
    if path.removesuffix(".py") not in names():
        near = difflib.get_close_matches(pathlib.Path(path).stem, names(), n=1)
        raise UsageError(
            f"--config={path}: there is no such file; the configs of the package are "
            f"{', '.join(names())}" + (f"; did you mean {near[0]!r}?" if near else "")
        )
    return f"{DIRECTORY / path.removesuffix('.py')}.py{colon}{variant}"
