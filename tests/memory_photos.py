"""Photographs in memory, of which some may be bad, for the tests of pairs."""

import numpy as np

from arniqa_jax.errors import ImageError


class Photos:
    """Photographs in memory, some of them bad; counts how often each is decoded."""

    def __init__(self, images, bad=()):
        self.images, self.bad, self.decoded = images, bad, []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        if index in self.bad:
            raise ImageError(f"{self.name(index)}: truncated")
        self.decoded.append(index)
        return self.images[index]

    def name(self, index):
        return f"{index}.png"


def flat(number, bad=(), size=4):
    """Photograph i has the value i everywhere, from 1 on: 0 is what lies outside."""
    levels = range(1, number + 1)
    return Photos([np.full((size, size, 3), k, np.uint8) for k in levels], bad)
