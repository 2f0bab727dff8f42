"""A part of `benchmarks/on_gpu.py`: are the values of the device right?"""

import concurrent.futures
import os
import pathlib
import sys
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

_ROOT = pathlib.Path(__file__).resolve().parents[1]


def golden(settings) -> Iterator[tuple[str, object]]:
    """Yield the errors of distortions and features, against `tests/golden` and the CPU.

    Raises:
      AssertionError: a value is outside the tolerance of its test.
    """
    sys.path.append(str(_ROOT / "tests"))
    import catalogue_test
    import noise_test

    failed = []
    values = _golden_distortions(catalogue_test, settings.small)
    yield "golden distortions", values
    failed += [name for name, row in values.items() if not row["agrees"]]
    features = {name: _golden_features(name) for name in ("default", "highest")}
    # By default an accelerator computes products in TF32 or bfloat16, which is no
    # error.
    features["default"]["agrees"] = features["default"]["error"] < 5e-2
    features["highest"]["agrees"] = features["highest"]["error"] < 1e-4
    yield "golden features", features
    failed += [f"features, {n}" for n, row in features.items() if not row["agrees"]]
    statistics = {}
    for key in noise_test.GOLDEN["levels"]:
        if key.endswith("/2") and not (settings.small and statistics):
            statistics[key] = _passes(lambda key=key: noise_test.test_statistics(key))
    yield "statistics of random distortions", statistics
    failed += [key for key, agrees in statistics.items() if not agrees]
    yield "distortions against the CPU", _against_cpu(catalogue_test, settings.small)
    if failed:
        raise AssertionError(f"outside their tolerance: {', '.join(failed)}")


def _passes(check: Callable[[], None]) -> bool:
    try:
        check()
    except AssertionError:
        return False
    return True


def _threads() -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1))


def _golden_distortions(catalogue_test, small: bool) -> dict[str, dict]:
    """Return each distortion's largest error, and whether it passes the checks."""
    recorded = np.load(catalogue_test.GOLDEN)
    names = sorted({key.split("/")[0] for key in recorded.files})
    keys = list(catalogue_test._golden_keys(names[-2:] if small else names))
    images = jnp.asarray(catalogue_test._photographs().astype(np.float32) / 255)
    near, far, middle = slice(0, 6), slice(-6, None), slice(88, 94)
    windows = [(near, near), (near, far), (far, near), (far, far), (middle, middle)]
    with _threads() as threads:  # compile several at once
        outputs = threads.map(lambda k: catalogue_test._distort_for(k, images), keys)
    table = {}
    for key, out in zip(keys, outputs, strict=True):
        found = np.stack([out[:, rows, columns] for rows, columns in windows], 1)
        expected = catalogue_test._as_float(recorded[key])

        def check(key=key, found=found, expected=expected):
            catalogue_test._check(key, found, expected, share=2e-3)

        row = table.setdefault(key.split("/")[0], {"error": 0.0, "agrees": True})
        row["error"] = max(row["error"], float(np.abs(found - expected).max()))
        row["agrees"] &= _passes(check)
    return table


def _golden_features(precision: str) -> dict[str, float]:
    """Return the relative error of ResNet-50's features at a precision."""
    import seeded_weights
    import torch_names_test

    from arniqa_jax.inference.encoder import Encoder
    from arniqa_jax.weights import torch_names

    weights = torch_names_test._torchvision("resnet50")
    imported = torch_names.from_torch(weights, "seeded")
    encoder = Encoder(
        imported.module, imported.variables, "seeded", precision=precision
    )
    image = seeded_weights.seeded_image(96)
    embed = jax.jit(lambda v, x: encoder.embed(encoder.fold(v), x))
    found = np.asarray(embed(imported.variables, image))[0]
    expected = np.load(torch_names_test.GOLDEN)["features"]
    expected = expected / np.linalg.norm(expected)
    return {"error": float(np.linalg.norm(found - expected))}


def _against_cpu(catalogue_test, small: bool) -> dict[str, dict[str, float]]:
    """Return the differences of all distortions at level 3 between device and CPU.

    Both use the same key.
    """
    from arniqa_jax import degradation

    names = list(degradation.CATALOGUE)[: 2 if small else None]
    images = catalogue_test._photographs().astype(np.float32) / 255
    key = np.asarray(jax.random.key_data(catalogue_test.KEY))

    def distort(case):
        name, device = case
        key_here, images_here = jax.device_put((key, images), device)
        out = degradation.distort(
            jax.random.wrap_key_data(key_here), images_here, name=name, level=3
        )
        return np.asarray(out)

    devices = (jax.devices()[0], jax.devices("cpu")[0])
    with _threads() as threads:
        outputs = threads.map(distort, [(n, d) for n in names for d in devices])
    table = {}
    for name in names:
        error = np.abs(next(outputs) - next(outputs))
        table[name] = {
            "error": float(error.max()),
            "share above half a step of 8 bits": float(np.mean(error > 0.5 / 255)),
        }
    return table
