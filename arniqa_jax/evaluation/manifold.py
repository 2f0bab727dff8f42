"""The distortion manifold: features of the images in two dimensions."""

import dataclasses
import importlib.util

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from arniqa_jax.datasets.labelled import Benchmark
from arniqa_jax.inference.dataset_extractor import DatasetExtractor

# With more images, t-SNE takes minutes and points cover each other.
_IMAGES = 3000
STEPS = 1000  # steps of t-SNE
_TITLES = {"tsne": "t-SNE", "umap": "UMAP"}


@dataclasses.dataclass(frozen=True)
class Manifold:
    """Points of the images of a dataset.

    Attributes:
      method: `tsne` or `umap`.
      indices: indices of the images.
      points_N2: float, one row per image.
    """

    method: str
    indices: np.ndarray
    points_N2: np.ndarray

    @property
    def title(self) -> str:
        """The name of the method as it is usually written."""
        return _TITLES[self.method]


def compute(
    benchmark: Benchmark, extractor: DatasetExtractor, seed: int
) -> list[Manifold]:
    """Return the mean features of at most 3,000 images in two dimensions.

    Returns:
      The t-SNE and, if the package umap is installed, the UMAP.
    """
    features = extractor.dataset(benchmark)
    indices = features.readable(np.arange(len(benchmark)))
    if len(indices) > _IMAGES:
        rng = np.random.default_rng(seed)
        indices = np.sort(rng.choice(indices, _IMAGES, replace=False))
    means_ND = features.means(indices)
    found = [Manifold("tsne", indices, _tsne(means_ND, seed))]
    if importlib.util.find_spec("umap"):
        import umap

        points_N2 = umap.UMAP(random_state=seed).fit_transform(means_ND)
        found.append(Manifold("umap", indices, points_N2))
    return found


def palette(count: int) -> np.ndarray:
    """Return RGB colours in [0, 1], (count, 3)."""
    return colormaps["gist_rainbow"](np.linspace(0, 1, count))[:, :3]


def opacities(levels_N: np.ndarray) -> np.ndarray:
    """Return an opacity in [0, 1] for each level; level 0 means unknown."""
    return np.clip(np.where(levels_N == 0, 0.8, 0.15 + 0.17 * levels_N), 0, 1)


def _tsne(means_ND: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    # The usual 50 components preserve the distances and save most of the time.
    components = min(50, *means_ND.shape)
    reduced = PCA(components, random_state=seed).fit_transform(means_ND)
    perplexity = min(30.0, (len(means_ND) - 1) / 3)
    return TSNE(
        perplexity=perplexity,
        init="pca",
        learning_rate="auto",
        max_iter=STEPS,
        random_state=seed,
    ).fit_transform(reduced)


def draw(benchmark: Benchmark, manifold: Manifold) -> Figure:
    """Draw a manifold; colour = distortion, opacity = level."""
    indices, points_N2 = manifold.indices, manifold.points_N2
    types = np.array(benchmark.types)[indices]
    names = list(dict.fromkeys(types))
    colors = palette(len(names))
    opacity = opacities(benchmark.levels_N[indices])
    figure = Figure(figsize=(9, 6.5))
    axes = figure.add_subplot()
    for name, color in zip(names, colors, strict=True):
        of_type = types == name
        rgba = np.column_stack([np.tile(color, (of_type.sum(), 1)), opacity[of_type]])
        axes.scatter(*points_N2[of_type].T, c=rgba, s=14, linewidths=0)
    handles = [
        Line2D([], [], marker="o", linestyle="", color=color, label=name)
        for name, color in zip(names, colors, strict=True)
    ]
    axes.legend(
        handles=handles,
        loc="center left",
        bbox_to_anchor=(1, 0.5),
        fontsize="small",
        frameon=False,
    )
    axes.set(
        xticks=[],
        yticks=[],
        title=f"{benchmark.title}: {manifold.title} of the mean features of "
        f"{len(indices):,} images; opacity = level",
    )
    return figure
