"""Importing a part of the package loads no library that this part does not use."""

import json
import subprocess
import sys

# Each line imports one more module; beside it, what may not be loaded until then.
_ONLY_WHERE_USED = (
    *("matplotlib", "openpyxl", "pandas", "pyarrow", "skimage", "sklearn"),
    *("tensorboardX", "tensorflow_datasets", "torch", "wandb"),
)
_STEPS = {
    "arniqa_jax": ("absl", "jax", "ml_collections", "numpy", "PIL"),
    "arniqa_jax.score": ("jax", "numpy", "PIL"),
    "arniqa_jax.scoring.job": ("grain", "optax", "scipy", "dm_pix"),
    "arniqa_jax.training.loop": ("scipy",),
    "arniqa_jax.evaluation.job": (),
}


def test_importing_loads_only_what_is_used():
    program = (
        "import importlib, json, sys\n"
        f"for module, absent in {_STEPS}.items():\n"
        "    importlib.import_module(module)\n"
        f"    absent = (*absent, *{_ONLY_WHERE_USED})\n"
        "    print(json.dumps([name for name in absent if name in sys.modules]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    loaded = map(json.loads, done.stdout.splitlines())
    assert dict(zip(_STEPS, loaded, strict=True)) == {name: [] for name in _STEPS}
