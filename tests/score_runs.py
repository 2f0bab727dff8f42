"""Runs of the score command in this process, for the tests."""

import csv
import io
import pathlib

import numpy as np
from PIL import Image

from arniqa_jax import command, score


def run(model, *arguments) -> int:
    """Runs the command; returns the exit code."""
    flags = [f"--model={model}", *map(str, arguments)]
    score.FLAGS.unparse_flags()
    for name in score.FLAGS:
        score.FLAGS[name].unparse()
    return score.main(command.parse_flags(["score", *flags], score.FLAGS))


def rows(text: str) -> list[dict[str, str]]:
    """The rows of a CSV table."""
    return list(csv.DictReader(io.StringIO(text)))


def write_photos(folder: pathlib.Path, number: int) -> pathlib.Path:
    """Write `number` pictures, 0.png and so on, to a new folder, and return it."""
    folder.mkdir()
    for i in range(number):
        picture(seed=i).save(folder / f"{i}.png")
    return folder


def picture(height: int = 40, width: int = 50, seed: int = 0) -> Image.Image:
    """Noise."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
