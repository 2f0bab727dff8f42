"""Sharing the images of one command between processes, and joining their tables.

Process r of P takes every P-th image from the r-th on, so that the joined table has the
order of the inputs. The processes meet only at the end.
"""

import contextlib
import dataclasses
import itertools
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from arniqa_jax import errors
from arniqa_jax.distributed import agreement


@dataclasses.dataclass(frozen=True)
class Share:
    """The part of the work that a process does.

    Attributes:
      rank: of this process.
      count: number of processes.
      output: what this process writes; None for standard output.
      whole: what there is at the end.
    """

    rank: int
    count: int
    output: pathlib.Path | None
    whole: pathlib.Path | None

    @classmethod
    def of_this_process(cls, output: pathlib.Path | None) -> "Share":
        """The share under `jax.distributed`; everything without it.

        Raises:
          UsageError: several processes, and no file, or one that cannot be joined.
        """
        rank, count = jax.process_index(), jax.process_count()
        if count == 1:
            return cls(0, 1, output, output)
        if output is None or output.suffix == ".parquet":
            raise errors.UsageError(
                "several processes need --output, a .csv or .jsonl file on a file "
                "system that all share"
            )
        if output.exists():
            raise errors.UsageError(f"{output} exists already: remove it")
        name = f"{output.stem}.part-{rank}-of-{count}{output.suffix}"
        return cls(rank, count, output.with_name(name), output)

    def take(self, items: Iterable[Any]) -> Iterator[Any]:
        """Every `count`-th item."""
        return itertools.islice(items, self.rank, None, self.count)

    def merge(self, failed: int) -> int:
        """Waits for all; process 0 joins the tables. The sum of `failed` over all."""
        if self.count == 1:
            return failed
        total = int(np.sum(multihost_utils.process_allgather(np.array(failed))))
        if self.rank == 0:
            self._join()
        agreement.wait_for_all("scores are joined")
        return total

    def _join(self) -> None:
        # Rows are lines but for paths with a line feed, which CSV quotes.
        from arniqa_jax.scoring import tables

        ranks = range(self.count)
        name = self.output.name.replace("part-0-of", "part-{}-of")
        paths = [self.output.with_name(name.format(rank)) for rank in ranks]
        aside = self.whole.with_name(f".{self.whole.name}.tmp")
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(open(path, "rb")) for path in paths]
            target = stack.enter_context(open(aside, "wb"))
            if self.whole.suffix == ".csv":
                header, *_ = [file.readline() for file in files]
                target.write(header)
            ends = [(end for _, end in tables.read_rows(path)) for path in paths]
            for rank in itertools.cycle(ranks):
                end = next(ends[rank], None)
                if end is None:
                    break
                target.write(files[rank].read(end - files[rank].tell()))
        os.replace(aside, self.whole)
        for path in paths:
            path.unlink()
