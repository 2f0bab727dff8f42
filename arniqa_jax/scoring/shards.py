"""Digests of paths: sets of paths that are done, and fixed parts of all images."""

import dataclasses
import hashlib

import numpy as np

from arniqa_jax import errors
from arniqa_jax.storage.bucket_paths import AnyPath


@dataclasses.dataclass(frozen=True)
class Shard:
    """A fixed part of all images: those whose hash is `index` modulo `count`.

    The part of an image follows from its path alone, as it stands in the table. So a
    shard can be repeated, and files can be added, without touching other shards.
    """

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Return the shard that `I/N` names, I from 0 to N - 1.

        Raises:
          UsageError: the text is something else.
        """
        parts = text.split("/")
        if len(parts) == 2 and all(part.isdecimal() for part in parts):
            shard = cls(*map(int, parts))
            if shard.index < shard.count:
                return shard
        raise errors.UsageError(
            f"--shard={text}: expected I/N with I from 0 to N - 1, for example 0/8"
        )

    def has(self, shown: str) -> bool:
        """Return whether a path is in this part."""
        return self.count == 1 or int(digest(shown)) % self.count == self.index

    def file(self, output: AnyPath) -> AnyPath:
        """Return the name of the table of this part: `NAME-00000-of-00008.csv`."""
        if self.count == 1:
            return output
        name = f"{output.stem}-{self.index:05d}-of-{self.count:05d}{output.suffix}"
        return output.parent / name


ALL = Shard(0, 1)


def digest(shown: str) -> np.uint64:
    """Return a number for a path, 64 bits of its BLAKE2b digest."""
    value = hashlib.blake2b(shown.encode(), digest_size=8).digest()
    return np.frombuffer(value, np.uint64)[0]


def contains(digests: np.ndarray, shown: str) -> bool:
    """Return whether the digest of a path is among `digests`, sorted uint64."""
    number = digest(shown)
    at = np.searchsorted(digests, number)
    return bool(at < len(digests) and digests[at] == number)
