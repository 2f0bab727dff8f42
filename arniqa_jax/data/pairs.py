"""Batches of pairs of crops from photographs, by grain.

A batch is a dictionary of NumPy arrays, rows first:

    images   uint8  (N, 2 views, 2 scales, size, size, 3); the scales are full and half
    seed     uint32 (N,), a new one for each pair and epoch
    record   int64  (N, 2), indices of the photographs of the two views
    skipped  int32  (N, 2), number of unreadable photographs before each of them

The content of a batch depends only on the seed and the step. Each global batch is
planned first: a few numbers per pair say which photographs and which seed to use. Then
every process loads its rows of the plan. So the content does not depend on the number
of processes or workers, and a run resumes at any step by slicing the plan.
"""

import collections
import functools
import math

import grain
import numpy as np
from absl import logging

from arniqa_jax.data import crops
from arniqa_jax.data.photos import PhotoSource
from arniqa_jax.data.workers import Batches
from arniqa_jax.errors import DatasetError, ImageError, UsageError

PAIRINGS = ("independent", "rolled", "same")


def pair_batches(
    source: PhotoSource,
    *,
    seed: int,
    patch_size: int,
    batch_size: int,
    start_step: int = 0,
    workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    pairing: str = "independent",
    max_bad_share: float = 0.05,
    cache_mib: int = 128,
) -> Batches:
    """Return an endless iterator over batches, from `start_step` on.

    View A visits the photographs in a new random order each epoch. With `independent`,
    view B is another photograph, drawn uniformly. With `rolled`, view B is the
    photograph of the next row of the global batch, so that a pair needs one decoding
    instead of two. With `same`, view B is the photograph of view A, which is the
    objective of earlier methods, for comparison. All crops are drawn independently.

    An unreadable photograph is replaced by the next readable one. Loading starts at
    once.

    Args:
      source: at least two photographs; pickled for the workers.
      seed: all randomness derives from it; 32 bits.
      patch_size: side of a crop in pixels.
      batch_size: number of pairs over all processes, a multiple of `process_count`.
      start_step: number of batches to skip at the start.
      workers: number of processes that load; 0 loads in a thread of this process. A
        script that uses workers needs `if __name__ == "__main__"`, as always in
        multiprocessing.
      process_index, process_count: the index of this process among the processes that
        train together, and their number. The rows of a process are a contiguous block
        of the global batch.
      pairing: one of `PAIRINGS`.
      max_bad_share: the largest fraction of unreadable photographs that is tolerated.
      cache_mib: how many MiB of decoded photographs each loading process keeps. A small
        set of photographs stays decoded, and with `rolled` each photograph is decoded
        once for two rows.

    Returns:
      An iterator. The caller must close it, which ends the workers.

    Raises:
      UsageError: an argument is out of its range.
      DatasetError: raised by the iterator if the unreadable photographs in a row are
        more than `max_bad_share` of all, or if fewer than two are readable.
    """
    if pairing not in PAIRINGS:
        raise UsageError(
            f"data.pairing={pairing!r} is unknown: expected one of "
            f"{', '.join(PAIRINGS)}"
        )
    if batch_size < 1 or batch_size % process_count:
        raise UsageError(
            f"train.batch_size={batch_size} must be a positive multiple of the "
            f"number of processes, {process_count}"
        )
    if not 0 <= seed < 2**32:
        raise UsageError(f"seed={seed} is not in 0..{2**32 - 1}")
    if min(workers, cache_mib) < 0 or patch_size < 1 or not 0 <= max_bad_share <= 1:
        raise UsageError(
            f"expected data.workers >= 0, data.cache_mib >= 0, data.patch_size >= 1 "
            f"and data.max_bad_share in 0..1, found {workers}, {cache_mib}, "
            f"{patch_size} and {max_bad_share}"
        )
    rows = batch_size // process_count
    load = _Loader(
        source,
        patch_size=patch_size,
        rows=slice(process_index * rows, (process_index + 1) * rows),
        pairing=pairing,
        max_bad_share=max_bad_share,
        cache_bytes=cache_mib * 2**20,
    )
    dataset = (
        grain.MapDataset.range(len(source))
        .seed(seed)
        .map_with_index(_Shuffle(seed, len(source)))
        .random_map(functools.partial(_plan_pair, number=len(source)))
        .repeat()
        # The batches are made by the MapDataset, not by the iterator. Only then are
        # they the same for any number of workers, and only then can they be sliced to
        # resume.
        .batch(batch_size, drop_remainder=True)
        .map(load)[start_step:]
        # The unit of the buffer is a batch, so grain's default of 500 takes gigabytes.
        .to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))
    )
    return Batches(dataset, workers)


class BadPhotographs:
    """Counts the unreadable photographs that batches have replaced.

    Each process counts those of its own rows, and every start begins at zero. So
    `max_bad_share` protects against a wrong folder or a failing disk; it is not an
    exact measure.
    """

    def __init__(self, source: PhotoSource, max_bad_share: float):
        self._source = source
        self._max_bad_share = max_bad_share
        self._reasons: dict[int, str] = {}

    def update(self, batch: dict[str, np.ndarray]) -> int:
        """Log a warning for each new unreadable photograph; return the number skipped.

        Returns:
          The number of times that this batch skipped a photograph.

        Raises:
          DatasetError: more different photographs than `max_bad_share` of all are
            unreadable.
        """
        for row, view in np.argwhere(batch["skipped"]):
            # The partner may lie among the skipped ones. It is not unreadable.
            partner = batch["record"][row, 0] if view else None
            index, left = batch["record"][row, view], batch["skipped"][row, view]
            while left:
                index = (index - 1) % len(self._source)
                if index != partner:
                    left -= 1
                    self._add(int(index))
        return int(batch["skipped"].sum())

    def _add(self, index: int) -> None:
        if index in self._reasons:
            return
        try:
            self._source[index]
            reason = f"{self._source.name(index)}: was unreadable temporarily"
        except ImageError as error:
            reason = str(error)
        self._reasons[index] = reason
        logging.warning("unreadable, replaced by the next photograph: %s", reason)
        if len(self._reasons) > _allowed(self._source, self._max_bad_share):
            raise _too_many(
                self._source,
                self._max_bad_share,
                len(self._reasons),
                next(iter(self._reasons.values())),
            )


def _allowed(source: PhotoSource, max_bad_share: float) -> int:
    # Rounding comes first, because 0.29 * 100 is 28.999999999999996.
    return math.floor(round(max_bad_share * len(source), 6))


def _too_many(
    source: PhotoSource, max_bad_share: float, bad: int, first: str
) -> DatasetError:
    return DatasetError(
        f"unreadable: {bad} of the {len(source)} photographs so far, more than "
        f"data.max_bad_share={max_bad_share:g} allows; the first: {first}. Repair or "
        "remove them, or raise data.max_bad_share"
    )


class _Shuffle:
    """The photograph at each position of the concatenated epochs; picklable.

    grain's own shuffle takes 7 ms per record if there are four photographs, because it
    searches a domain of 2^16 indices for them.
    """

    def __init__(self, seed: int, number: int):
        self._seed = seed
        self._number = number
        self._epoch, self._order = -1, np.empty(0, int)

    def __call__(self, place: int, _) -> int:
        epoch, place = divmod(place, self._number)
        if epoch != self._epoch:
            rng = np.random.default_rng([self._seed, epoch])
            self._epoch, self._order = epoch, rng.permutation(self._number)
        return int(self._order[place])


def _plan_pair(record: int, rng: np.random.Generator, *, number: int) -> dict:
    """Return the two photographs of a pair and the seed of all its randomness."""
    seed = rng.integers(2**32, dtype=np.uint32)
    # The partner is never the record itself.
    partner = (record + 1 + int(rng.integers(number - 1))) % number
    return {"record": record, "partner": partner, "seed": seed}


class _Loader:
    """Loads the rows of this process, given the plan of a global batch; picklable."""

    def __init__(
        self,
        source: PhotoSource,
        *,
        patch_size: int,
        rows: slice,
        pairing: str,
        max_bad_share: float,
        cache_bytes: int,
    ):
        self._source = source
        self._patch_size = patch_size
        self._rows = rows
        self._pairing = pairing
        self._max_bad_share = max_bad_share
        self._cache_bytes = cache_bytes
        self._cache = collections.OrderedDict()
        self._cached_bytes = 0

    def __call__(self, plan: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        records, partners = plan["record"], plan["partner"]
        if self._pairing == "rolled":
            partners = _roll(records, partners)
        self._request(records[self._rows], partners[self._rows])
        pairs = [
            self._load(int(records[row]), int(partners[row]), int(plan["seed"][row]))
            for row in range(len(records))[self._rows]
        ]
        images, used, skipped = zip(*pairs, strict=True)
        return {
            "images": np.stack(images),
            "seed": plan["seed"][self._rows],
            "record": np.array(used, np.int64),
            "skipped": np.array(skipped, np.int32),
        }

    def _request(self, records: np.ndarray, partners: np.ndarray) -> None:
        """Let the source begin to read the photographs of a batch, if it can."""
        request = getattr(self._source, "request", None)
        if request is None:
            return
        pairs = np.stack([records, partners], axis=-1)
        wanted = pairs[:, :1] if self._pairing == "same" else pairs
        wanted = dict.fromkeys(wanted.ravel().tolist())  # each once, in order
        request([index for index in wanted if index not in self._cache])

    def _load(self, record: int, partner: int, seed: int):
        """Return crops (2 views, 2 scales, size, size, 3), records, skips of a pair."""
        rng = np.random.default_rng(seed)
        record, skipped_record, scales_record = self._readable(record)
        if self._pairing == "same":
            partner, skipped_partner, scales_partner = record, 0, scales_record
        else:
            partner, skipped_partner, scales_partner = self._readable(
                partner, but=record
            )
        images = [
            [crops.random_crop(rng, image, self._patch_size) for image in scales]
            for scales in (scales_record, scales_partner)
        ]
        return images, (record, partner), (skipped_record, skipped_partner)

    def _readable(self, start: int, but: int | None = None):
        """Return index, skips and scales of the first readable photograph from `start`.

        `but` is an index that is passed over.
        """
        first, skipped, number = "", 0, len(self._source)
        for index in range(start, start + number):
            index %= number
            if index == but:
                continue
            try:
                return index, skipped, self._scales(index)
            except ImageError as error:
                first = first or str(error)
                skipped += 1
            # Even if all other photographs are readable, too many are unreadable.
            if skipped > _allowed(self._source, self._max_bad_share):
                raise _too_many(self._source, self._max_bad_share, skipped, first)
        raise DatasetError(
            f"of {number} photographs, no two are readable; the first bad one: {first}"
        )

    def _scales(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a photograph and its half-scale version, cached.

        The cache needs no lock, because only one thread loads (`num_threads=1`).
        """
        if index in self._cache:
            self._cache.move_to_end(index)
            return self._cache[index]
        image = self._source[index]
        scales = self._cache[index] = (image, crops.half_scale(image))
        self._cached_bytes += sum(scale.nbytes for scale in scales)
        while self._cached_bytes > self._cache_bytes and len(self._cache) > 1:
            _, oldest = self._cache.popitem(last=False)
            self._cached_bytes -= sum(scale.nbytes for scale in oldest)
        return scales


def _roll(records: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Return the photograph of the next row for each row.

    A batch that reaches into the next epoch can contain a photograph twice. So "next"
    means the next row with another photograph. If no row has another one, the result is
    the drawn partner.
    """
    partners = drawn.copy()
    for row, record in enumerate(records):
        following = np.roll(records, -row - 1)
        others = following[following != record]
        if len(others):
            partners[row] = others[0]
    return partners
