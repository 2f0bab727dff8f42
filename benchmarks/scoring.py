"""Measure images per second from file to score against what else runs on a CPU.

    python benchmarks/scoring.py [--turns=6] [--torch_python=VENV/bin/python]
        [--cores=1,2] [--clock=cpu]

ResNet-50 with random weights, five crops at two scales, on a CPU with one core and with
two. The contenders are PyTorch, in both layouts and in bfloat16, and onnxruntime with
our exported graph. Each side runs in its own process. They take turns of a few seconds,
so that other programs on the machine affect all of them. A ratio is our rate over the
rate of a contender of the same dtype, within one turn; the table has the median of all
turns, the minimum and the maximum. --clock=cpu counts the CPU seconds of a process
instead of seconds; on a machine that others use, take it with one core.

PyTorch runs in the interpreter of --torch_python, by default this one. What cannot be
imported is left out.
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
    """Make the images, run all sides and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--torch_python", default=sys.executable)
    parser.add_argument("--cores", default="1,2")
    parser.add_argument("--kinds", default="png,jpg")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--role", choices=list(_SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role:
        prepare = _SIDES[arguments.role][-1]
        _take_turns(*prepare(sorted(arguments.folder.iterdir())), arguments.clock)
        return
    pythons = _importable(arguments.torch_python)
    kinds = arguments.kinds.split(",")
    with tempfile.TemporaryDirectory() as folder:
        for kind in kinds:
            _make_images(pathlib.Path(folder) / kind, kind)
        for cores in map(int, arguments.cores.split(",")):
            for kind in kinds:
                with contextlib.ExitStack() as stack:
                    options = [
                        f"--folder={folder}/{kind}",
                        f"--clock={arguments.clock}",
                    ]
                    sides = {
                        name: stack.enter_context(
                            _start(name, python, options, cores, f"{folder}/cache")
                        )
                        for name, python in pythons.items()
                    }
                    _compare(sides, f"{kind}, {cores} core(s)", arguments.turns)


def _importable(torch_python: str) -> dict[str, str]:
    """Return the interpreter of each side that can run, and say which cannot."""
    pythons = {}
    for name, (_, modules, _) in _SIDES.items():
        python = torch_python if "torch" in modules else sys.executable
        found = subprocess.run([python, "-c", f"import {modules}"], capture_output=True)
        if found.returncode:
            print(f"{name}: left out, {python} cannot import {modules}")
        else:
            pythons[name] = python
    return pythons


def _start(
    name: str, python: str, options: list[str], cores: int, cache: str
) -> subprocess.Popen:
    # The last core first: on a shared machine others tend to be on the first one.
    available = sorted(os.sched_getaffinity(0))[-cores:]
    command = ["taskset", "-c", ",".join(map(str, available)), python, __file__]
    pipe = subprocess.PIPE
    command += [f"--role={name}", *options]
    environment = {"JAX_COMPILATION_CACHE_DIR": f"{cache}"}
    environment |= os.environ
    return subprocess.Popen(
        command, stdin=pipe, stdout=pipe, text=True, env=environment
    )


def _compare(sides: dict[str, subprocess.Popen], title: str, turns: int):
    """Print the rates of all sides, and how our side spends its time."""
    parts = {name: json.loads(side.stdout.readline()) for name, side in sides.items()}
    measured = {name: [] for name in sides}
    for _ in range(turns):
        for name, side in sides.items():
            print(file=side.stdin, flush=True)  # an empty line asks for a turn
            measured[name].append(json.loads(side.stdout.readline()))
    for what in ("end to end", "encoder"):
        print(f"\n{what + ', ' + title:34}images/s   ours over it (least to most)")
        rates = {n: np.array([t[what] for t in all]) for n, all in measured.items()}
        for name, rate in rates.items():
            line = f"{name:34}{np.median(rate):8.2f}"
            ours = "ours, bfloat16" if _SIDES[name][0] == "bfloat16" else "ours"
            if name != ours:
                ratios = rates[ours] / rate
                line += f"   {np.median(ratios):5.2f}"
                line += f" ({ratios.min():.2f} to {ratios.max():.2f})"
            print(line, flush=True)
    for part, milliseconds in parts["ours"].items():
        print(f"    ours: {part}, ms: {milliseconds:.1f}", flush=True)
    for side in sides.values():
        side.stdin.close()  # ends the process


def _take_turns(
    parts: dict[str, float], score: Callable, encode: Callable, clock: str
) -> None:
    """Print the parts, then measure whenever the parent asks for a turn."""
    now = {"wall": time.perf_counter, "cpu": time.process_time}[clock]
    print(json.dumps(parts), flush=True)
    for _ in sys.stdin:
        encode()  # warm-up: new memory is slower after the other sides' turns
        start = now()
        score()
        scored = now()
        encode()
        encoded = now()
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


def prepare_ours(files: list[pathlib.Path], precision: str = "highest") -> Prepared:
    """Return the time of each part, a function to score, and one to embed."""
    import jax

    from arniqa_jax.data import crops
    from arniqa_jax.data.images import decode_image
    from arniqa_jax.inference.extractor import map_in_threads
    from arniqa_jax.scoring import inputs, scorer

    encoder, regressor = _random_model(precision)
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


def _random_model(precision: str):
    import jax

    from arniqa_jax.inference.encoder import Encoder
    from arniqa_jax.model.simclr import SimCLR
    from arniqa_jax.weights.regressors import Regressor

    module, blank = SimCLR(), np.zeros((1, 32, 32, 3), np.float32)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), blank, train=False))
    rng = np.random.default_rng(0)

    def value(path, leaf):
        name = path[-1].key
        if name == "kernel":
            scale = np.sqrt(2 / np.prod(leaf.shape[:-1]))
            return scale * rng.standard_normal(leaf.shape, np.float32)
        return np.full(leaf.shape, name in ("scale", "var"), np.float32)

    variables = jax.tree_util.tree_map_with_path(value, shapes)
    weights = rng.normal(size=4096)
    regressor = Regressor("", 1, (0, 1), True, "five", _SIZE, "", 0, weights, 0)
    return Encoder(module, variables, "random", precision=precision), regressor


def prepare_onnxruntime(files: list[pathlib.Path]) -> Prepared:
    """Return the same for onnxruntime and our exported graphs."""
    import onnxruntime

    from arniqa_jax.scoring import onnx_graph

    encoder, regressor = _random_model("highest")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    whole, alone = (
        onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"])
        for graph in (
            onnx_graph.scorer(encoder, {"score": regressor}, "images"),
            onnx_graph.encoder(encoder, batch_size=_CROPS),
        )
    )

    def score():
        for file in files:
            pixels = np.asarray(Image.open(file).convert("RGB"))
            whole.run(None, {"images": pixels[None]})

    pixels = np.random.default_rng(0).random((_CROPS, 3, _SIZE, _SIZE), np.float32)

    def encode():
        for _ in range(_IMAGES):
            alone.run(None, {"pixels": pixels})

    score()
    return {}, score, encode


def prepare_torch(
    files: list[pathlib.Path],
    device: str = "cpu",
    layout: str = "channels first",
    dtype: str = "float32",
) -> Prepared:
    """Return the same for plain PyTorch code."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    sys.path.append(str(_GOLDEN))
    import plain_resnet

    form = {
        "memory_format": torch.channels_last
        if layout == "channels last"
        else torch.contiguous_format,
        "dtype": getattr(torch, dtype),
    }
    model = plain_resnet.ResNet50().eval().to(device, **form)
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
        crops = torch.stack(five_crops(image) + five_crops(half)).to(device, **form)
        features = torch.nn.functional.normalize(model(crops).float(), dim=1)
        return torch.hstack([features[:5], features[5:]]) @ weights

    def score():
        for file in files:
            score_one(file).mean().item()

    pixels = torch.rand(_CROPS, 3, _SIZE, _SIZE, device=device).to(**form)

    @torch.inference_mode()
    def encode():
        for _ in range(_IMAGES):
            model(pixels)

    score()
    return {}, score, encode


def _torch_on_cpu(**options) -> Callable:
    return functools.partial(prepare_torch, device="cpu", **options)


# name: dtype, modules that it imports, how it is prepared
_SIDES = {
    "ours": ("float32", "jax", prepare_ours),
    "PyTorch": ("float32", "torch, PIL", _torch_on_cpu()),
    "PyTorch, channels last": (
        "float32", "torch, PIL", _torch_on_cpu(layout="channels last"),
    ),
    "onnxruntime": ("float32", "onnxruntime, onnx", prepare_onnxruntime),
    "ours, bfloat16": (
        "bfloat16", "jax", functools.partial(prepare_ours, precision="bfloat16"),
    ),
    "PyTorch, channels last, bfloat16": (
        "bfloat16", "torch, PIL",
        _torch_on_cpu(layout="channels last", dtype="bfloat16"),
    ),
}  # fmt: skip


if __name__ == "__main__":
    main()
