"""Strict JAX for every test: several devices, no implicit broadcasting, one cache."""

import os
import pathlib
import signal

# These variables must be set before JAX is imported. Commands that tests start inherit
# them. All runs of the suite share one compilation cache, which is not the user's.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XDG_CACHE_HOME"] = str(pathlib.Path(__file__).parents[1] / ".jax_cache")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.environ["XDG_CACHE_HOME"])

import jax
import pytest
from absl import flags

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)

# If a shell starts the suite in the background, the suite ignores Ctrl-C, and so would
# every command that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# grain's worker processes read absl flags, which only `app.run` parses.
flags.FLAGS.mark_as_parsed()

SHARED = pathlib.Path(__file__).parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items):
    if SHARED.is_dir():
        return
    skip = pytest.mark.skip(reason="the development data in ../shared is not here")
    for item in items:
        if "shared" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Free the compiled programs of a module: together they take gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The folder with the development data; tests that use it are marked `shared`."""
    return SHARED
