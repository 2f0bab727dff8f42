"""Model cards: the README.md of a model that is passed on."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from arniqa_jax import errors
from arniqa_jax.inference.encoder import Encoder
from arniqa_jax.storage import workdir
from arniqa_jax.version import __version__
from arniqa_jax.weights.model_directory import Source
from arniqa_jax.weights.regressors import Regressor


def write(
    model: str,
    encoder: Encoder,
    regressors: Mapping[str, Regressor],
    source: Source,
    *,
    training_data: str,
    results: Mapping[str, Any] | None = None,
    licence: str | None = None,
    limits: str = "",
) -> str:
    """Return the text of a card.

    Args:
      model: what `arniqa_jax.load` takes, for example `hf://ORG/REPO`.
      encoder: the encoder.
      regressors: its regressors by name.
      source: where the encoder comes from.
      training_data: what the encoder was trained on, in words.
      results: content of a `results.json`; None if there was no evaluation.
      licence: identifier of the licence on the hub, such as `apache-2.0`.
      limits: how far to trust the scores, in words.
    """
    name = f":{next(iter(regressors))}" if len(regressors) > 1 else ""
    header = ["---", "library_name: arniqa_jax", "tags: [image-quality-assessment]"]
    header += [f"license: {licence}"] if licence else []
    parts = [
        "\n".join([*header, "---"]),
        f"# {model.removeprefix('hf://')}",
        "An ARNIQA model for no-reference image quality assessment "
        f"([paper](https://arxiv.org/abs/2310.14918)), written by arniqa_jax "
        f"{__version__}.",
        "## Use",
        "```python\nimport arniqa_jax\n\n"
        f'model = arniqa_jax.load("{model}{name}")\n'
        'model.score(["photo.jpg"])  # higher is better, nominally 0 to 1\n```',
        "## Model",
        f"- encoder: {encoder.module.arch}, {encoder.feature_dim} features at each of "
        f"two scales, from {source.file} ({source.layout})\n"
        f"- crops: {encoder.patch_size} pixels\n"
        f"- fingerprint of the encoder: `{encoder.fingerprint}`\n"
        "- `encoder.safetensors` has the tensor names of the official PyTorch code",
        "## Training data",
        training_data,
        "## Regressors",
        _regressors(regressors),
        *(["## How far to trust it", limits] if limits else []),
        "## Results",
        _results(results),
        "## Licence",
        licence or source.licence,
    ]
    return "\n\n".join(parts) + "\n"


def training_data(directory: pathlib.Path) -> str:
    """Return what the encoder of a workdir was trained on; paths are left out."""
    if not (directory / "config.json").is_file():
        return "See the source of the encoder."
    config = workdir.read_config(directory)
    root = pathlib.PurePath(config.data.root).name
    photographs = f"the photographs in `{root}`" if root else "built-in photographs"
    source = f" (source `{config.data.source}`)" if config.data.source != "auto" else ""
    return f"Pre-trained without labels on {photographs}{source}."


def find_results(
    directory: pathlib.Path, encoder: Encoder, chosen: str | None
) -> dict[str, Any] | None:
    """Return the content of the `results.json` of an encoder.

    Args:
      directory: a workdir or model directory; the last evaluation in its `results/`
        counts.
      encoder: the encoder that was evaluated.
      chosen: a `results.json`, instead of that in `directory`.

    Raises:
      UsageError: a file is no `results.json`, or the chosen one belongs to another
        encoder.
    """
    if chosen:
        found = _read_results(pathlib.Path(chosen))
        if found["fingerprint"] != encoder.fingerprint:
            raise errors.UsageError(
                f"{chosen} has the results of another encoder "
                f"({found['fingerprint'][:16]}, not {encoder.fingerprint[:16]})"
            )
        return found
    files = list((directory / "results").glob("*/results.json"))
    for file in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True):
        found = _read_results(file)
        if found["fingerprint"] == encoder.fingerprint:
            return found
    return None


def _read_results(file: pathlib.Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(found["fingerprint"], str) and isinstance(
            found["datasets"], list
        ):
            return found
        raise ValueError("other types than expected")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.UsageError(
            f"{file}: expected a results.json of arniqa_jax.evaluate ({error!r})"
        ) from error


def _regressors(regressors: Mapping[str, Regressor]) -> str:
    if not regressors:
        return "None: the model gives features, not scores."
    lines = [
        "| name | dataset | images | raw scores | better |",
        "|---|---|---|---|---|",
    ]
    for name, regressor in regressors.items():
        low, high = regressor.score_range
        better = "higher" if regressor.higher_is_better else "lower"
        lines.append(
            f"| {name} | {regressor.dataset} | {regressor.images} "
            f"| {low:g} to {high:g} | {better} |"
        )
    return "\n".join(lines)


def _results(results: Mapping[str, Any] | None) -> str:
    if not results:
        return "The model has not been evaluated by its author."
    lines = [
        "Median over the splits of the test images; in brackets the 95 % bootstrap "
        "interval over images.",
        "",
        "| dataset | images | SRCC | PLCC |",
        "|---|---|---|---|",
    ]
    for dataset in results["datasets"]:
        figures = [_figure(dataset["figures"].get(name)) for name in ("srcc", "plcc")]
        cells = [dataset["title"], str(dataset["images"]), *figures]
        lines.append(f"| {' | '.join(cells)} |")
    notes = [
        f"{d['title']}: {d['note']}." for d in results["datasets"] if d.get("note")
    ]
    lines += ["", *notes] if notes else []
    return "\n".join([*lines, *_across(results)])


def _across(results: Mapping[str, Any]) -> list[str]:
    """Return the lines about regressors that were tested on another dataset."""
    if not results.get("cross"):
        return []
    titles = {dataset["name"]: dataset["title"] for dataset in results["datasets"]}
    rows = [
        f"| {titles[cross['train']]} | {titles[cross['test']]} | {cross['images']} "
        f"| {_figure(cross['figures'].get('srcc'))} |"
        for cross in results["cross"]
    ]
    return [
        "",
        "A regressor fitted on all of one dataset, and tested on all of another:",
        "",
        "| fitted on | tested on | images | SRCC |",
        "|---|---|---|---|",
        *rows,
    ]


def _figure(figure: Mapping[str, float | None] | None) -> str:
    if not figure or figure["median"] is None:
        return "undefined"
    text = f"{figure['median']:.3f}"
    if figure["low"] is None or figure["high"] is None:
        return text
    return f"{text} [{figure['low']:.3f}, {figure['high']:.3f}]"
