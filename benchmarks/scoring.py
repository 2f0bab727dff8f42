"""Images per second from file to score, beside the same written plainly in PyTorch.

    python benchmarks/scoring.py [--images=16] [--torch_python=VENV/bin/python]

ResNet-50 with random weights, float32, five crops at two scales, on CPU, on one core
and on two. Each measurement is a process of its own; rounds alternate, and the best of
each side counts, so that the ratios can be trusted more than the figures. PyTorch runs
in the interpreter of --torch_python, by default this one, and is left out where it
cannot be imported.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

_GOLDEN = pathlib.Path(__file__).parents[1] / "tests" / "golden"
_ROUNDS = 2
_CROPS = 10  # of an image, both scales
_SIZE = 224


def main():
    """Makes the images, runs both sides and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--torch_python", default=sys.executable)
    parser.add_argument("--role", choices=["ours", "torch"])
    parser.add_argument("--folder")
    arguments = parser.parse_args()
    if arguments.role:
        measure = {"ours": measure_ours, "torch": measure_torch}[arguments.role]
        print(json.dumps(measure(sorted(pathlib.Path(arguments.folder).iterdir()))))
        return
    pythons = {"ours": sys.executable, "torch": arguments.torch_python}
    with_torch = [arguments.torch_python, "-c", "import torch, PIL"]
    if subprocess.run(with_torch, capture_output=True).returncode:
        print("PyTorch is not there: only this package is measured")
        del pythons["torch"]
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("png", "jpg"):
            _make_images(pathlib.Path(folder) / kind, kind, arguments.images)
        print("images/s            kind  cores    ours  PyTorch  ratio")
        for cores in (1, 2):
            for kind in ("png", "jpg"):
                best = {
                    side: _best_of(side, python, f"{folder}/{kind}", cores)
                    for side, python in pythons.items()
                }
                _print(kind, cores, best)


def _best_of(side: str, python: str, folder: str, cores: int) -> dict[str, float]:
    command = ["taskset", "-c", ",".join(map(str, range(cores))), python, __file__]
    command += [f"--role={side}", f"--folder={folder}"]
    runs = []
    for _ in range(_ROUNDS):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    return {
        name: (max if name in ("end to end", "encoder") else min)(r[name] for r in runs)
        for name in runs[0]
    }


def _print(kind: str, cores: int, best: dict[str, dict[str, float]]) -> None:
    ours, other = best["ours"], best.get("torch")
    for name in ("end to end", "encoder"):
        line = f"{name:18}  {kind}   {cores:5}  {ours[name]:6.2f}"
        if other:
            line += f"  {other[name]:7.2f}  {ours[name] / other[name]:5.2f}"
        print(line, flush=True)
    for name, value in ours.items():
        if name.endswith("ms"):
            print(f"    {name}: {value:.1f}", flush=True)


def _make_images(folder: pathlib.Path, kind: str, count: int) -> None:
    from skimage import data

    folder.mkdir()
    names = ("astronaut", "chelsea", "coffee", "rocket")
    photographs = [Image.fromarray(getattr(data, name)()) for name in names]
    for i in range(count):
        image = photographs[i % len(photographs)].resize((512, 384))
        image.save(folder / f"{i:04}.{kind}", quality=90)


def _milliseconds(function, *arguments) -> float:
    times = []
    for _ in range(5):
        start = time.perf_counter()
        function(*arguments)
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def measure_ours(files: list[pathlib.Path]) -> dict[str, float]:
    """Rates, and where the time of an image goes."""
    import jax

    from arniqa_jax.data import crops
    from arniqa_jax.data.images import decode_image
    from arniqa_jax.evaluation.regressors import Regressor
    from arniqa_jax.model.encoder import Encoder
    from arniqa_jax.model.simclr import SimCLR
    from arniqa_jax.scoring import inputs, scorer

    module = SimCLR()
    variables = jax.jit(lambda: module.init(jax.random.key(0), _blank(), train=False))()
    encoder = Encoder(module, variables, "random")
    weights = np.random.default_rng(0).normal(size=4096)
    regressor = Regressor("", 1, (0, 1), True, "five", _SIZE, "", 0, weights, 0)
    model = scorer.Scorer(encoder, regressor)

    def score_all():
        items = (inputs.Input(str(file)) for file in files)
        views = inputs.load_all(model.view, items, len(os.sched_getaffinity(0)))
        features = np.stack([values for _, values in model.embed(views)])
        return model.scores_of(features)

    image = decode_image(files[0], apply_orientation=True)
    view = model.view(image)
    list(model.embed([(None, view)]))  # compiles
    start = time.perf_counter()
    score_all()
    seconds = time.perf_counter() - start
    params = model.params["encoder"]
    batch = jax.device_put(np.stack([view[0]] * model.batch_size))

    def encode():
        scorer._embed(model._stateless, params, batch).block_until_ready()

    encode()
    encoding = _milliseconds(encode) / model.batch_size
    return {
        "end to end": len(files) / seconds,
        "encoder": 1000 / encoding,
        "decode, ms": _milliseconds(
            lambda: decode_image(files[0], apply_orientation=True)
        ),
        "half scale, ms": _milliseconds(crops.half_scale, image),
        "half scale and crops, ms": _milliseconds(model.view, image),
        "transfer, ms": _milliseconds(
            lambda: jax.device_put(view[0]).block_until_ready()
        ),
        "encoder, ms": encoding,
    }


def _blank() -> np.ndarray:
    return np.zeros((1, 32, 32, 3), np.float32)


def measure_torch(files: list[pathlib.Path]) -> dict[str, float]:
    """The same work, as one would write it in PyTorch."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    sys.path.append(str(_GOLDEN))
    import plain_resnet

    model = plain_resnet.ResNet50().eval()
    weights = torch.randn(4096)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])

    def five_crops(image):
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        pixels = (pixels - mean[:, None, None]) / std[:, None, None]
        _, height, width = pixels.shape
        # Zeros outside, as crops of a smaller image have them.
        tall, wide = max(0, _SIZE - height), max(0, _SIZE - width)
        pixels = torch.nn.functional.pad(pixels, (0, wide, 0, tall))
        bottom, right = pixels.shape[1] - _SIZE, pixels.shape[2] - _SIZE
        offsets = ((bottom // 2, right // 2), (0, 0), (bottom, 0), (0, right))
        offsets += ((bottom, right),)
        return [pixels[:, t : t + _SIZE, x : x + _SIZE] for t, x in offsets]

    def score(file):
        image = Image.open(file).convert("RGB")
        half = image.resize((image.width // 2, image.height // 2), Image.BICUBIC)
        crops = torch.stack(five_crops(image) + five_crops(half))
        features = torch.nn.functional.normalize(model(crops), dim=1)
        return torch.hstack([features[:5], features[5:]]) @ weights

    with torch.inference_mode():
        score(files[0])
        start = time.perf_counter()
        for file in files:
            score(file).mean().item()
        seconds = time.perf_counter() - start
        crops = torch.rand(_CROPS, 3, _SIZE, _SIZE)
        encoding = _milliseconds(model, crops)
    return {"end to end": len(files) / seconds, "encoder": 1000 / encoding}


if __name__ == "__main__":
    main()
