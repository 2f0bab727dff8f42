"""Batches out of a stream of images, some computed at a time, back in its order."""

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

# Batches of images that wait for others of their size, at most, beside those computed.
_WAITING_BATCHES = 16

Scales = tuple[np.ndarray, ...]


def embed_all(
    views: Iterable[tuple[Any, Scales | None]],
    embed_batch: Callable[[list[Scales]], np.ndarray],
    batch_size: int,
    at_a_time: int,
) -> Iterator[tuple[Any, np.ndarray | None]]:
    """Embeds a stream in batches of images of one size, in bounded memory.

    Args:
      views: pairs of anything and a view, which may be None.
      embed_batch: features of up to `batch_size` views of one size, a row for each;
        called in threads.
      batch_size: images in a batch.
      at_a_time: batches that are computed at a time.

    Yields:
      Pairs of the same thing and its features, or None, in the order of `views`.
    """
    ready: dict[int, tuple[Any, np.ndarray | None]] = {}
    groups: dict[tuple[int, ...], list] = {}
    computing: collections.deque = collections.deque()
    emitted = 0
    waiting = (_WAITING_BATCHES + at_a_time) * batch_size
    pool = ThreadPoolExecutor(at_a_time, thread_name_prefix="embed")

    def start(group: list) -> None:
        scales = [view for _, _, view in group]
        computing.append((group, pool.submit(embed_batch, scales)))

    def in_order(still_computing: int) -> Iterator:
        nonlocal emitted
        while True:
            while emitted in ready:
                yield ready.pop(emitted)
                emitted += 1
            if len(computing) <= still_computing:
                return
            group, future = computing.popleft()
            for (index, tag, _), features in zip(group, future.result(), strict=True):
                ready[index] = tag, features

    try:
        for index, (tag, view) in enumerate(views):
            if view is None:
                ready[index] = tag, None
            else:
                size = view[0].shape
                groups.setdefault(size, []).append((index, tag, view))
                if len(groups[size]) == batch_size:
                    start(groups.pop(size))
            if groups and index - emitted >= waiting:
                start(groups.pop(next(iter(groups))))
            # As many as run, and one more for the thread that is done first.
            yield from in_order(at_a_time)
        for group in groups.values():
            start(group)
        yield from in_order(0)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
