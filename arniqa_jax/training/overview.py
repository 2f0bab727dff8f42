"""The log lines at the start of a run: its photographs, steps and parameters."""

import math
from typing import Any

import jax
from absl import logging

from arniqa_jax.training.plans import Plan


def describe_run(photographs: int, plan: Plan, params: Any) -> None:
    """Log the length of the run, and a table of its parameters."""
    logging.info(
        "%d photographs, %d steps per epoch, %d steps in all",
        photographs,
        plan.epoch,
        plan.total,
    )
    for line in parameter_table(params):
        logging.info("%s", line)


def parameter_table(params: Any) -> list[str]:
    """Return one line per module, with its largest array and its parameters.

    Args:
      params: nested dictionaries of arrays. A module is the first two names of a path,
        such as `encoder/layer1_0`; the arrays below it are counted together.
    """
    modules: dict[str, list] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names = [entry.key for entry in path]
        modules.setdefault("/".join(names[:2][: len(names) - 1]), []).append(leaf)
    rows = [("module", "largest array", "parameters")]
    for name, leaves in modules.items():
        largest = max(leaves, key=lambda leaf: leaf.size)
        shape = " x ".join(map(str, largest.shape))
        rows.append((name, shape, f"{sum(leaf.size for leaf in leaves):,}"))
    total = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    rows.append(("total", "", f"{total:,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        f"{name:{widths[0]}}  {shape:{widths[1]}}  {count:>{widths[2]}}"
        for name, shape, count in rows
    ]
