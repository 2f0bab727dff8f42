"""Two processes extract the features of one dataset: who decodes and holds what."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import miniature
import numpy as np
import pytest

from arniqa_jax.inference.dataset_extractor import DatasetExtractor
from benchmarks import soak

_COUNT, _SIDE = 200, 512
_BYTES = _SIDE * _SIDE * 3  # of a decoded image


class Images:
    """Images that are made when they are asked for; counts them."""

    def __init__(self):
        self.decoded = []
        self.names = tuple(f"{index}.png" for index in range(_COUNT))

    def __len__(self):
        return _COUNT

    def __getitem__(self, index):
        self.decoded.append(index)
        rng = np.random.default_rng(index)
        small = rng.integers(0, 256, (_SIDE // 8, _SIDE // 8, 3), np.uint8)
        return np.ascontiguousarray(small.repeat(8, 0).repeat(8, 1))

    def stamps(self):
        # As the times of files that each machine has its own copy of.
        return [f"made by {os.getpid()}"] * _COUNT


def extract(directory: str, images: Images) -> np.ndarray:
    """Return the features of all images."""
    extractor = DatasetExtractor(miniature.encoder(), pathlib.Path(directory))
    return extractor.extract(images, np.arange(_COUNT), "made")


_CHILD = """
import json, sys, tracemalloc
import jax, numpy as np
from arniqa_jax.distributed import sharding
import evaluation_processes_test as this
address, rank, directory, out = sys.argv[1:]
sharding.start_processes(address, 2, int(rank), heartbeat_seconds=60)
images = this.Images()
tracemalloc.start()
values = this.extract(directory, images)
peak = tracemalloc.get_traced_memory()[1]
with open(out, "w") as file:
    json.dump({"decoded": sorted(images.decoded), "peak": peak}, file)
"""


@pytest.mark.slow
def test_each_process_decodes_and_holds_its_share(tmp_path):
    address = soak.free_address()
    here = pathlib.Path(__file__).parent
    environment = os.environ | {
        "JAX_NUM_CPU_DEVICES": "2",
        "PYTHONPATH": os.pathsep.join([str(here.parent), str(here)]),
    }
    children = [
        subprocess.Popen(
            [
                *(sys.executable, "-c", _CHILD, address, str(rank)),
                *(tmp_path / "features", tmp_path / f"{rank}.json"),
            ],
            env=environment,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for rank in range(2)
    ]
    for child in children:
        _, err = child.communicate(timeout=600)
        assert child.returncode == 0, err
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    # Together every image once; each process every second one.
    assert [one["decoded"] for one in found] == [
        list(range(rank, _COUNT, 2)) for rank in range(2)
    ]
    for one in found:
        # Its share is 75 MiB of pixels, and all images 150.
        assert one["peak"] < 15 * _BYTES, one["peak"] / _BYTES
    (stored,) = (tmp_path / "features").glob("*/*/features.npy")
    expected = extract(tmp_path / "alone", Images())
    np.testing.assert_allclose(np.load(stored), expected, atol=3e-5)
    assert jax.process_count() == 1
