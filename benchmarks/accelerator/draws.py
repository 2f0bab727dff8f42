"""How often each distortion is drawn and its loops run, from the catalogue."""

import dataclasses
import math

from arniqa_jax.degradation.catalogue import CATALOGUE

# Trip counts that depend on data, as functions of the level's parameter. Patches and
# blocks are copied one by one. Blurs add pairs of rows from the middle outwards.
_TRIPS = {
    "non_eccentricity_patch": lambda value: value,
    "color_block": lambda value: value,
    "lens_blur": lambda value: value + 1,
    "motion_blur": lambda value: (value + 1) / 2,  # for a vertical line, the maximum
}
# Standard deviation of the level index; `chain.draw_chains` draws it from a normal
# density cut at 0.
_LEVEL_DEVIATION = 2.5
# Levels (from 0) for which each branch of a switch inside a distortion runs.
_SWITCHES = {"jitter": ((0, 1), (2,), (3,), (4,))}


@dataclasses.dataclass(frozen=True)
class Draws:
    """The means over the chains that a `degradation` config draws.

    Attributes:
      applications: mean number of times that a pair goes through each distortion.
      levels: probability of each level index.
      max_distortions: number of positions of a chain.
    """

    applications: dict[str, float]
    levels: tuple[float, ...]
    max_distortions: int

    @property
    def length(self) -> float:
        """The mean length of a chain."""
        return sum(self.applications.values())

    def mean_trips(self, name: str) -> float:
        """Return the mean trip count of a distortion's loop that depends on data."""
        trips = _TRIPS.get(name, lambda value: 1.0)
        values = CATALOGUE[name].levels
        return sum(p * trips(v) for p, v in zip(self.levels, values, strict=False))

    def branch_shares(self, name: str, branches: int) -> list[float]:
        """Return how often each branch of a switch inside a distortion runs.

        The shares are equal, unless the branches are known to be groups of levels.
        """
        groups = _SWITCHES.get(name, ())
        if len(groups) != branches:
            return [1 / branches] * branches
        return [
            sum(self.levels[i] for i in group if i < len(self.levels))
            for group in groups
        ]


def of_config(config) -> Draws:
    """Return the means for a config's `degradation`.

    A non-empty chain has a length uniform in 1..max_distortions and draws that many of
    the groups without replacement. In each group every distortion is equally likely. So
    each distortion of a group of n has the mean length / groups / n.
    """
    options = config.degradation
    mean_length = (1 - options.pristine_prob) * (1 + options.max_distortions) / 2
    groups: dict[str, int] = {}
    for distortion in CATALOGUE.values():
        groups[distortion.group] = groups.get(distortion.group, 0) + 1
    applications = {
        name: mean_length / len(groups) / groups[distortion.group]
        for name, distortion in CATALOGUE.items()
    }
    weights = [
        math.exp(-((index / _LEVEL_DEVIATION) ** 2) / 2)
        for index in range(options.num_levels)
    ]
    levels = tuple(weight / sum(weights) for weight in weights)
    return Draws(applications, levels, options.max_distortions)


def mean_tiles(config, pairs: int, tile: int) -> float:
    """Return the mean number of tiles of a position of the chains.

    Among N pairs, the number with one distortion is binomial; it is cut into tiles of
    `tile`.
    """
    drawn, options = of_config(config), config.degradation
    mean = 0.0
    for position in range(options.max_distortions):
        used = (1 - options.pristine_prob) * (1 - position / options.max_distortions)
        for applications in drawn.applications.values():
            probability = used * applications / drawn.length
            if not probability:
                continue
            mean += sum(
                _binomial(pairs, n, probability) * -(-n // tile)
                for n in range(1, pairs + 1)
            )
    return mean / options.max_distortions


def _binomial(count: int, n: int, probability: float) -> float:
    """Return the probability of n among `count`."""
    ways = math.lgamma(count + 1) - math.lgamma(n + 1) - math.lgamma(count - n + 1)
    odds = n * math.log(probability) + (count - n) * math.log1p(-probability)
    return math.exp(ways + odds)
