"""Files of a bucket, requested together before they are used one by one."""

from collections.abc import Iterable
from concurrent import futures
from typing import Any

from arniqa_jax.storage import buckets

# Requests in flight. One takes some 50 ms, and decoding a photograph 5 ms.
_THREADS = 16


class ReadAhead:
    """Reads the files of a batch in parallel; picklable.

    The answer to a request comes after tens of milliseconds. A batch that reads its
    photographs one after the other would spend nearly all of its time on waiting.
    """

    def __init__(self):
        self._pool: futures.ThreadPoolExecutor | None = None
        self._requested: dict[str, futures.Future[bytes]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()

    def request(self, urls: Iterable[str]) -> None:
        """Begin to read files; what was requested before and not used is forgotten."""
        if self._pool is None:
            self._pool = futures.ThreadPoolExecutor(_THREADS, "read-ahead")
        for unused in self._requested.values():
            unused.cancel()
        self._requested = {url: self._pool.submit(buckets.read, url) for url in urls}

    def read(self, url: str) -> bytes:
        """Return the content of a file, which was requested or is read now.

        Raises:
          BucketError: it cannot be read; the message begins with the URL.
        """
        requested = self._requested.pop(url, None)
        return requested.result() if requested else buckets.read(url)
