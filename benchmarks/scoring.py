"""Measure images per second from file to score, with plain PyTorch as the baseline.

    python benchmarks/scoring.py [--turns=6] [--torch_python=VENV/bin/python]

ResNet-50 with random weights, float32, five crops at two scales, on a CPU with one core
and with two. Each side runs in its own process. They take turns of a few seconds, so
that other programs on the machine affect both. The ratio is that of a turn; the table
has the median of all turns, the minimum and the maximum. PyTorch runs in the
interpreter of --torch_python, by default this one, and is left out if it cannot be
imported there.
"""

import argparse
import contextlib
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

_GOLDEN = pathlib.Path(__file__).parents[1] / "tests" / "golden"
_IMAGES = 4  # per turn: from file to score, then their crops through the encoder
_CROPS = 10  # crops of an image, both scales
_SIZE = 224


def main():
    """Make the images, run both sides and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--torch_python", default=sys.executable)
    parser.add_argument("--role", choices=["ours", "PyTorch"])
    parser.add_argument("--folder", type=pathlib.Path)
    arguments = parser.parse_args()
    if arguments.role:
        prepare = {"ours": prepare_ours, "PyTorch": prepare_torch}[arguments.role]
        _take_turns(*prepare(sorted(arguments.folder.iterdir())))
        return
    pythons = {"ours": sys.executable, "PyTorch": arguments.torch_python}
    with_torch = [arguments.torch_python, "-c", "import torch, PIL"]
    if subprocess.run(with_torch, capture_output=True).returncode:
        print("PyTorch is not installed: measuring only this package")
        del pythons["PyTorch"]
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("png", "jpg"):
            _make_images(pathlib.Path(folder) / kind, kind)
        print("images/s            kind  cores    ours  PyTorch  ratio")
        for cores in (1, 2):
            for kind in ("png", "jpg"):
                with contextlib.ExitStack() as stack:
                    sides = {
                        name: stack.enter_context(
                            _start(name, python, f"{folder}/{kind}", cores)
                        )
                        for name, python in pythons.items()
                    }
                    _compare(sides, kind, cores, arguments.turns)


def _start(name: str, python: str, folder: str, cores: int) -> subprocess.Popen:
    command = ["taskset", "-c", ",".join(map(str, range(cores))), python, __file__]
    command += [f"--role={name}", f"--folder={folder}"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)


def _compare(sides: dict[str, subprocess.Popen], kind: str, cores: int, turns: int):
    """Print the rates of both sides, and how our side spends its time."""
    parts = {name: json.loads(side.stdout.readline()) for name, side in sides.items()}
    measured = {name: [] for name in sides}
    for _ in range(turns):
        for name, side in sides.items():
            print(file=side.stdin, flush=True)  # an empty line asks for a turn
            measured[name].append(json.loads(side.stdout.readline()))
    for what in ("end to end", "encoder"):
        rates = {n: np.array([t[what] for t in all]) for n, all in measured.items()}
        line = f"{what:18}  {kind}   {cores:5}  {np.median(rates['ours']):6.2f}"
        if "PyTorch" in rates:
            ratios = rates["ours"] / rates["PyTorch"]
            line += f"  {np.median(rates['PyTorch']):7.2f}  {np.median(ratios):5.2f}"
            line += f"  ({ratios.min():.2f} to {ratios.max():.2f})"
        print(line, flush=True)
    for part, milliseconds in parts["ours"].items():
        print(f"    {part}, ms: {milliseconds:.1f}", flush=True)
    for side in sides.values():
        side.stdin.close()  # ends the process


def _take_turns(parts: dict[str, float], score: Callable, encode: Callable) -> None:
    """Print the parts, then measure whenever the parent asks for a turn."""
    print(json.dumps(parts), flush=True)
    for _ in sys.stdin:
        encode()  # warm-up: new memory is slower after the other side's turn
        start = time.perf_counter()
        score()
        scored = time.perf_counter()
        encode()
        encoded = time.perf_counter()
        rates = {
            "end to end": _IMAGES / (scored - start),
            "encoder": _IMAGES / (encoded - scored),
        }
        print(json.dumps(rates), flush=True)


def _make_images(folder: pathlib.Path, kind: str) -> None:
    from skimage import data

    folder.mkdir()
    names = ("astronaut", "chelsea", "coffee", "rocket")
    for name in names[:_IMAGES]:
        image = Image.fromarray(getattr(data, name)()).resize((512, 384))
        image.save(folder / f"{name}.{kind}", quality=90)


def _milliseconds(function: Callable) -> float:
    times = []
    for _ in range(5):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


Prepared = tuple[dict[str, float], Callable, Callable]


def prepare_ours(files: list[pathlib.Path]) -> Prepared:
    """Return the time of each part, a function to score, and one to embed."""
    import jax

    from arniqa_jax.data import crops
    from arniqa_jax.data.images import decode_image
    from arniqa_jax.inference.encoder import Encoder
    from arniqa_jax.inference.extractor import map_in_threads
    from arniqa_jax.model.simclr import SimCLR
    from arniqa_jax.scoring import inputs, scorer
    from arniqa_jax.weights.regressors import Regressor

    module = SimCLR()
    variables = jax.jit(lambda: module.init(jax.random.key(0), _blank(), train=False))()
    encoder = Encoder(module, variables, "random")
    weights = np.random.default_rng(0).normal(size=4096)
    regressor = Regressor("", 1, (0, 1), True, "five", _SIZE, "", 0, weights, 0)
    model = scorer.Scorer(encoder, regressor)

    def score():
        items = (inputs.Input(str(file)) for file in files)
        load = functools.partial(inputs.load, model)
        views = map_in_threads(load, items, len(os.sched_getaffinity(0)))
        features = np.stack([values for _, values in model.extractor.embed(views)])
        return model.scores_of(features)

    image = decode_image(files[0], apply_orientation=True)
    view = model.extractor.view(image)

    def encode(images: int = _IMAGES):
        list(model.extractor.embed((None, view) for _ in range(images)))

    score()  # compiles
    parts = {
        "decode": _milliseconds(lambda: decode_image(files[0], apply_orientation=True)),
        "half scale": _milliseconds(lambda: crops.half_scale(image)),
        "half scale and crops": _milliseconds(lambda: model.extractor.view(image)),
        "transfer": _milliseconds(lambda: jax.device_put(view[0]).block_until_ready()),
        "encoder, one image": _milliseconds(lambda: encode(1)),
    }
    return parts, score, encode


def _blank() -> np.ndarray:
    return np.zeros((1, 32, 32, 3), np.float32)


def prepare_torch(files: list[pathlib.Path], device: str = "cpu") -> Prepared:
    """Return the same for plain PyTorch code."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    sys.path.append(str(_GOLDEN))
    import plain_resnet

    model = plain_resnet.ResNet50().eval().to(device)
    weights = torch.randn(4096, device=device)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])

    def five_crops(image):
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        pixels = (pixels - mean[:, None, None]) / std[:, None, None]
        _, height, width = pixels.shape
        # The outside of a smaller image is zero, as in our crops.
        tall, wide = max(0, _SIZE - height), max(0, _SIZE - width)
        pixels = torch.nn.functional.pad(pixels, (0, wide, 0, tall))
        bottom, right = pixels.shape[1] - _SIZE, pixels.shape[2] - _SIZE
        offsets = ((bottom // 2, right // 2), (0, 0), (bottom, 0), (0, right))
        offsets += ((bottom, right),)
        return [pixels[:, t : t + _SIZE, x : x + _SIZE] for t, x in offsets]

    @torch.inference_mode()
    def score_one(file):
        image = Image.open(file).convert("RGB")
        half = image.resize((image.width // 2, image.height // 2), Image.BICUBIC)
        crops = torch.stack(five_crops(image) + five_crops(half)).to(device)
        features = torch.nn.functional.normalize(model(crops), dim=1)
        return torch.hstack([features[:5], features[5:]]) @ weights

    def score():
        for file in files:
            score_one(file).mean().item()

    pixels = torch.rand(_CROPS, 3, _SIZE, _SIZE, device=device)

    @torch.inference_mode()
    def encode():
        for _ in range(_IMAGES):
            model(pixels)

    score()
    return {}, score, encode


if __name__ == "__main__":
    main()
