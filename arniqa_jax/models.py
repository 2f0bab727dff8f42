"""List the models with a name: scale of the scores, state in the cache, licence.

    python -m arniqa_jax.models

Each name is a value for `--model` and for `arniqa_jax.load`.
"""

from absl import flags

from arniqa_jax import command, errors

FLAGS = flags.FlagValues()


def main(arguments: list[str]) -> int:
    """Print the list; return the exit code."""
    if arguments:
        raise errors.UsageError(f"unexpected argument {arguments[0]!r}")
    from arniqa_jax.weights import listing

    print(listing.describe())
    return errors.SUCCESS


if __name__ == "__main__":
    command.run(main, FLAGS, usage=__doc__)
