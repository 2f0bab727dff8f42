"""The user's cache: compiled programs, the proxy dataset, official weights."""

import os
import pathlib


def directory() -> pathlib.Path:
    """Return `arniqa_jax` in the user's cache directory; it may not exist yet."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(cache).expanduser() / "arniqa_jax"
