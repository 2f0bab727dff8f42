"""The console script `arniqa`: one subcommand for each command module.

    arniqa SUBCOMMAND [FLAGS] [ARGUMENTS]

`arniqa train` and `python -m arniqa_jax.main` are the same command.
"""

import difflib
import importlib
import sys
import types
from typing import NoReturn

from arniqa_jax import command, errors

# Subcommand -> module, which has `main`, `FLAGS` and a docstring. The first line of the
# docstring is the summary.
SUBCOMMANDS = {
    "train": "arniqa_jax.main",
    "evaluate": "arniqa_jax.evaluate",
    "score": "arniqa_jax.score",
    "report": "arniqa_jax.report",
    "convert": "arniqa_jax.convert",
    "export": "arniqa_jax.export",
    "gallery": "arniqa_jax.degradation.gallery",
    "models": "arniqa_jax.models",
    "push": "arniqa_jax.push",
}


def main() -> NoReturn:
    """Run the subcommand that the first argument names, and exit with its code."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in command.HELP_FLAGS:
        print(_describe())
        sys.exit(errors.SUCCESS)
    if name in command.VERSION_FLAGS:
        command.print_version()
        sys.exit(errors.SUCCESS)
    if name not in SUBCOMMANDS:
        near = difflib.get_close_matches(name, SUBCOMMANDS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        message = f"there is no subcommand {name!r}; {hint}(--help lists them)"
        sys.exit(command.report(message, errors.WRONG_USE))
    module = importlib.import_module(SUBCOMMANDS[name])
    # config_flags reads the flags from here, too.
    sys.argv = [f"arniqa {name}", *arguments]
    command.run(module.main, module.FLAGS, usage=_usage(module, name))


def _describe() -> str:
    """Return the list of subcommands, one line each."""
    lines = ["usage: arniqa SUBCOMMAND [FLAGS] [ARGUMENTS]", ""]
    for name, module in SUBCOMMANDS.items():
        summary = (importlib.import_module(module).__doc__ or "").partition("\n")[0]
        lines.append(f"  {name:<9} {summary}")
    return "\n".join([*lines, "", "arniqa SUBCOMMAND --help lists the flags of one."])


def _usage(module: types.ModuleType, name: str) -> str:
    """Return the docstring of a command, with the subcommand in its examples."""
    return (module.__doc__ or "").replace(
        f"python -m {SUBCOMMANDS[name]}", f"arniqa {name}"
    )


if __name__ == "__main__":
    main()
