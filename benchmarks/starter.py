"""Make the model `starter`, which is part of the package, from a run.

    python benchmarks/starter.py RUN --root=DATASETS [--checkpoint=last]
        [--output=DIR]

RUN is a run of configs/scratch.py on the photographs in `PHOTOGRAPHS`, whose licences
are known; any other run is refused. DATASETS contains BIQ2021. The encoder is stored as
float16. It is then evaluated as it is stored, on the built-in proxy and on BIQ2021: the
regressor of the proxy and the figures of the card come from this evaluation. OUTPUT is
replaced.
"""

import argparse
import collections
import dataclasses
import json
import os
import pathlib
import shutil
import tempfile
import textwrap

import numpy as np

from arniqa_jax.evaluation import loading, protocol, regressors, statistics
from arniqa_jax.evaluation.results import DatasetResult, Results, to_json
from arniqa_jax.inference.encoder import Encoder
from arniqa_jax.scoring.scorer import Scorer
from arniqa_jax.storage import workdir
from arniqa_jax.storage.files import write_atomically
from arniqa_jax.weights import encoders, model_card, model_directory, shipped
from arniqa_jax.weights.model_directory import Source
from arniqa_jax.weights.regressors import Regressor

# Number of photographs in each folder of `data.root`.
PHOTOGRAPHS = {"cid22": 209, "kodak": 24}
TRAINING_DATA = """\
Pre-trained from random weights by `configs/scratch.py`, without labels, on 233
photographs and nothing else:

- 209 photographs of CID22 (Cloudinary Image Dataset '22), under
  [CC BY-SA 4.0](https://creativecommons.org/licenses/by-sa/4.0/)
- the 24 photographs of the Kodak Lossless True Color Image Suite, released by Kodak for
  unrestricted use

The regressor is fitted on the built-in proxy: degraded versions of seven photographs
that come with scikit-image and scikit-learn, and their SSIM to the original."""
_SCORED = {
    "five": "It scores five crops of an image.",
    "whole": "It scores whole images.",
    "whole_std": "It scores whole images, and draws no heat maps.",
}
LICENCE = (
    "CC BY-SA 4.0 (creativecommons.org/licenses/by-sa/4.0), the licence of the CID22 "
    "photographs that the encoder was trained on; the program is under Apache-2.0"
)


def main():
    """Make the model and print its card."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("--root", required=True, help="folder of the datasets")
    parser.add_argument("--checkpoint", default="last", help="best, last or a step")
    parser.add_argument("--output", type=pathlib.Path, default=shipped.DIRECTORY)
    arguments = parser.parse_args()
    check_photographs(arguments.run)
    # Beside the output, so that the last step is a rename.
    with tempfile.TemporaryDirectory(dir=arguments.output.parent) as temporary:
        model = pathlib.Path(temporary) / "model"
        make(arguments.run, arguments.checkpoint, arguments.root, model)
        shutil.rmtree(arguments.output, ignore_errors=True)
        model.rename(arguments.output)
    print((arguments.output / "README.md").read_text(), end="")
    size = sum(p.stat().st_size for p in arguments.output.rglob("*") if p.is_file())
    print(f"{size / 1e6:.1f} MB written to {arguments.output}")


def check_photographs(run: pathlib.Path) -> None:
    """End the program unless a run was trained on the photographs of the card."""
    names = json.loads((run / "photographs.json").read_text())["names"]
    found = collections.Counter(pathlib.PurePath(name).parts[0] for name in names)
    if found != PHOTOGRAPHS:
        raise SystemExit(
            f"{run} was trained on {dict(found)}, expected {PHOTOGRAPHS}, whose "
            "licences the card names"
        )


def make(run: pathlib.Path, checkpoint: str, root: str, model: pathlib.Path) -> None:
    """Write the model directory of a run, with its regressor and its card."""
    config = workdir.read_config(run)
    trained = encoders.load_run(run, checkpoint)
    source = Source(
        f"{trained.name} of configs/scratch.py, seed {config.seed}",
        trained.fingerprint,
        "arniqa_jax",
        LICENCE,
    )
    model_directory.write(model, trained, source, safetensors=True, float16=True)
    encoder = model_directory.read_encoder(model)
    benchmarks = loading.load_benchmarks("builtin,biq2021", root, allow_partial=True)
    proxy, biq2021 = benchmarks
    with tempfile.TemporaryDirectory() as features:
        found = protocol.evaluate(
            encoder,
            benchmarks,
            cache_dir=features,
            crops=config.evaluation.crops,
            seed=config.seed,
        )
    of_proxy = dataclasses.replace(found, datasets=(found.dataset(proxy.name),))
    regressors.write_all(of_proxy, model / "regressors")
    fitted = model_directory.find_regressors(model, encoder)
    card = model_card.write(
        shipped.NAME,
        encoder,
        fitted,
        source,
        training_data=TRAINING_DATA,
        results=to_json(found),
        limits=limits(
            found,
            file_sizes=statistics.srcc(_file_sizes(biq2021), biq2021.scores_N),
            rounding=_largest_change(trained, encoder, fitted[proxy.name], proxy),
        ),
    )
    write_atomically(model / "README.md", card)


def limits(found: Results, *, file_sizes: float, rounding: float) -> str:
    """Return what the card says about the scores.

    Args:
      found: the evaluation of the encoder.
      file_sizes: SRCC of the sizes of the files on BIQ2021.
      rounding: largest change of a score by float16.
    """
    (ranking,) = (c for c in found.cross if c.test == "biq2021")
    people = ranking.figures["srcc"]
    by_type = levels_ranked(found.dataset("builtin"))
    well = [name for name, srcc in by_type.items() if srcc >= 0.9]
    badly = [name for name, srcc in by_type.items() if srcc < 0.5]
    items = [
        "The regressor has never seen an opinion. It predicts SSIM, which stands in "
        "for opinions. A score is nominally between 0 and 1, and cannot be compared "
        "with a score of another model.",
        "Use it to compare versions of one photograph. This was measured on two "
        "photographs, with a regressor that was fitted without them, for five levels "
        "of each distortion. The scores rank the levels nearly as SSIM does, with a "
        f"mean SRCC of at least 0.9, for {len(well)} of {len(by_type)} distortions: "
        f"{', '.join(well) or 'none'}. "
        "Do not trust it for those with a mean SRCC below 0.5: "
        f"{', '.join(badly) or 'none'}.",
        "Do not use it to rank different photographs, or to filter a collection. On "
        f"{ranking.images:,} photographs of BIQ2021 that people rated, its SRCC is "
        f"{people.median:.2f}, with a 95 % interval of {people.low:.2f} to "
        f"{people.high:.2f}. The size of the file alone has {file_sizes:.2f}. How the "
        "features are pooled was chosen with these photographs, so expect less on "
        "others.",
        _SCORED[found.crops],
        "Storing the kernels as float16 changes a score of the proxy by at most "
        f"{rounding:.1e}.",
    ]
    start = (
        "This model is for a first look without a download. It is no replacement for "
        "the official weights: their encoder is twenty times as large and was trained "
        "on 140,000 photographs."
    )
    lines = [textwrap.fill(f"- {item}", 88, subsequent_indent="  ") for item in items]
    return "\n".join([textwrap.fill(start, 88), "", *lines])


def levels_ranked(proxy: DatasetResult) -> dict[str, float]:
    """Return how the levels of each distortion are ranked, the best first.

    It is the mean over the test photographs of the SRCC over the levels, by a regressor
    that has not seen these photographs.
    """
    (test,) = proxy.tests
    found = collections.defaultdict(list)
    for index, prediction in zip(test.indices, test.predictions, strict=True):
        content, name, _ = proxy.image_names[index].split("/")
        found[content, name].append((prediction, proxy.scores_N[index]))
    by_type = collections.defaultdict(list)
    for (_, name), pairs in found.items():
        by_type[name].append(statistics.srcc(*np.array(pairs).T))
    means = {name: float(np.mean(values)) for name, values in by_type.items()}
    return dict(sorted(means.items(), key=lambda item: -item[1]))


def _file_sizes(benchmark) -> np.ndarray:
    images = benchmark.images
    return np.array(
        [os.path.getsize(os.path.join(images.root, name)) for name in images.names]
    )


def _largest_change(
    trained: Encoder, stored: Encoder, regressor: Regressor, benchmark
) -> float:
    """Return the largest change of a score by the rounding of the encoder."""
    images = [benchmark.images[i] for i in range(len(benchmark))]
    before, after = (
        Scorer(encoder, regressor).score(images) for encoder in (trained, stored)
    )
    return float(np.abs(before - after).max())


if __name__ == "__main__":
    main()
