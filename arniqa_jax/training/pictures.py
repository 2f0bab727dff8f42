"""Pictures of a run: degraded pairs with their chains, and the loss curve."""

import io
import pathlib

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from arniqa_jax import degradation
from arniqa_jax.storage.files import write_atomically

_COLUMNS = ("A, full scale", "A, half scale", "B, full scale", "B, half scale")
_GAP = 4  # pixels
_FONT = ImageFont.load_default(size=12)
_LINE = 18  # pixels per line of text


def pairs(path: pathlib.Path, images: np.ndarray, chains: degradation.Chains) -> None:
    """Write a sheet of degraded pairs: one row per pair, with its chain above.

    Args:
      path: path of the PNG.
      images: (n, 2 views, 2 scales, H, W, 3) uint8.
      chains: the chains of these n pairs.
    """
    count, _, _, height, width, _ = images.shape
    cell = max(width, 96)  # wide enough for the headings, even above small crops
    row_height = _LINE + height + _GAP
    sheet = Image.new("RGB", (4 * (cell + _GAP), _LINE + count * row_height), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(_COLUMNS):
        draw.text((column * (cell + _GAP), 2), title, "black", _FONT)
    for row, crops in enumerate(images.reshape(count, 4, height, width, 3)):
        top = _LINE + row * row_height
        recipe = degradation.describe(
            np.asarray(chains.ops[row]), np.asarray(chains.levels[row])
        )
        draw.text((0, top + 2), recipe, "black", _FONT)
        for column, crop in enumerate(crops):
            place = (column * (cell + _GAP), top + _LINE)
            sheet.paste(Image.fromarray(crop), place)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    _write(path, buffer)


def loss_curve(path: pathlib.Path, history: list[dict], chance: float) -> None:
    """Write a plot of the loss over the steps, with a line at chance level.

    Args:
      path: path of the PNG.
      history: the lines of `metrics.jsonl`.
      chance: the loss if all similarities are equal.
    """
    from matplotlib.figure import Figure

    steps = [line for line in history if "loss" in line]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([s["step"] for s in steps], [s["loss"] for s in steps], linewidth=1)
    axes.axhline(chance, color="gray", linestyle="--", label=f"chance, {chance:.2f}")
    axes.set(xlabel="step", ylabel="NT-Xent loss")
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    _write(path, buffer)


def _write(path: pathlib.Path, buffer: io.BytesIO) -> None:
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, buffer.getvalue())
