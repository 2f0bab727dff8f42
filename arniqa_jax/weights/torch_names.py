"""Layouts of ResNet weights in PyTorch, and the mapping to our variables.

Five layouts are read, and the official one is written. PyTorch stores a convolution as
OIHW and a linear layer as (out, in); our variables have HWIO and (in, out). The bits of
every value stay the same.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from arniqa_jax import errors
from arniqa_jax.model import resnet, simclr


@dataclasses.dataclass(frozen=True)
class Layout:
    """The names of the tensors in one kind of file.

    Attributes:
      title: the software that writes these files.
      encoder: prefix of the names of the encoder.
      children: whether parts of the encoder have the numbers that
        `nn.Sequential(*children)` gives, or torchvision's names.
      projector: prefix of the projector; None if the files hold none that fits ours.
      ignored: prefixes of tensors that are not used, such as a classifier.
      imagenet_input: whether the encoder takes images normalised with ImageNet's mean
        and standard deviation.
      licence: licence of the published files.
    """

    title: str
    encoder: str
    children: bool
    projector: str | None = None
    ignored: tuple[str, ...] = ()
    imagenet_input: bool = True
    licence: str = "unknown: the owner of the file decides"


OFFICIAL = Layout(
    title="ARNIQA",
    encoder="model.",
    children=True,
    projector="projector.",
    ignored=("fc.", "model.fc."),
    licence=(
        "none of their own; the repository that publishes them, "
        "github.com/miccunifi/ARNIQA, is under Apache-2.0 since February 2025 (before: "
        "CC BY-NC 4.0)"
    ),
)
LAYOUTS = (
    OFFICIAL,
    # The official training code saves the whole SimCLR module.
    Layout(
        title="ARNIQA, official training code",
        encoder="encoder.model.",
        children=True,
        projector="encoder.projector.",
        ignored=("encoder.fc.", "encoder.model.fc."),
    ),
    Layout(title="torchvision", encoder="", children=False, ignored=("fc.",)),
    Layout(
        title="CONTRIQUE",
        encoder="encoder.",
        children=True,
        ignored=("projector.",),  # unlike ours, it has BatchNorm after both layers
        imagenet_input=False,
    ),
    Layout(
        title="Re-IQA",
        encoder="module.encoder.",
        children=False,
        ignored=("module.encoder.fc.", "module.head", "module.classifier"),
        imagenet_input=False,
        licence="MIT (github.com/avinabsaha/ReIQA)",
    ),
)

# Numbers of the children of torchvision's ResNet; 2, 3 and 8 have no parameters.
_CHILDREN = {
    "conv1": "0",
    "bn1": "1",
    "layer1": "4",
    "layer2": "5",
    "layer3": "6",
    "layer4": "7",
}
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
# PyTorch counts the updates of the batch statistics. The count is not used here.
_COUNTER = "num_batches_tracked"


@dataclasses.dataclass(frozen=True)
class Imported:
    """The content of a file.

    Attributes:
      module: the module of the variables.
      variables: `params` and `batch_stats` as NumPy arrays; without a projector if the
        file holds none.
      layout: the layout of the file.
    """

    module: simclr.SimCLR
    variables: dict[str, Any]
    layout: Layout


def to_torch(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the state dict of variables, in the official layout.

    The official code has no projector with BatchNorm; such a projector is numbered as
    `nn.Sequential(Linear, BatchNorm1d, ReLU, Linear)`.
    """
    tensors = {}
    for name, path in _names(variables, OFFICIAL):
        tensors[name] = _to_torch(np.asarray(_get(variables, path)))
        if name.endswith("running_var"):
            tensors[name.replace("running_var", _COUNTER)] = np.array(0, np.int64)
    return tensors


def from_torch(tensors: Mapping[str, np.ndarray], name: str) -> Imported:
    """Return the module and variables of a state dict.

    Args:
      tensors: a state dict in one of LAYOUTS.
      name: name of the file, for errors.

    Raises:
      CheckpointError: the layout is unknown, or tensors are missing, left over, of
        another shape, or not finite; the message lists all of them.
    """
    layout = _find_layout(tensors, name)
    tensors = {
        key: value
        for key, value in tensors.items()
        if not key.startswith(layout.ignored or ("\0",))
        and not key.endswith(f".{_COUNTER}")
    }
    module, has_projector = _find_module(tensors, layout)
    expected = abstract_variables(module, projector=has_projector)
    places = dict(_names(expected, layout))
    problems = [f"{key} is missing" for key in places if key not in tensors]
    problems += [f"{key} is left over" for key in tensors if key not in places]
    variables: dict[str, Any] = {}
    for key in places.keys() & tensors.keys():
        value, shape = _from_torch(tensors[key]), _get(expected, places[key]).shape
        if value.shape != shape:
            wanted = _to_torch(np.empty(shape)).shape
            problems.append(f"{key} is {tensors[key].shape}, expected {wanted}")
        elif not np.isfinite(value).all():
            problems.append(f"{key} has values that are not finite")
        _set(variables, places[key], value)
    if problems:
        raise errors.CheckpointError(
            f"{name} does not hold the tensors of {module.arch} in the layout of "
            f"{layout.title}: {'; '.join(sorted(problems))}"
        )
    return Imported(module, variables, layout)


def abstract_variables(module: simclr.SimCLR, *, projector: bool) -> dict[str, Any]:
    """Return shapes and dtypes of `params` and `batch_stats`.

    Args:
      module: the module.
      projector: whether to include its projector.
    """
    shapes = jax.eval_shape(
        lambda: module.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)
    )
    return {
        collection: {
            part: value
            for part, value in parts.items()
            if projector or part == "encoder"
        }
        for collection, parts in shapes.items()
    }


def _find_layout(tensors: Mapping[str, np.ndarray], name: str) -> Layout:
    for layout in LAYOUTS:
        if _stem(layout) in tensors:
            return layout
    some = ", ".join(list(tensors)[:3]) or "nothing"
    raise errors.CheckpointError(
        f"{name} holds no ResNet in a known layout "
        f"({', '.join(layout.title for layout in LAYOUTS)}): found {some}, ..."
    )


def _stem(layout: Layout) -> str:
    """Return the name of the first convolution, by which a layout is recognised."""
    return layout.encoder + ("0" if layout.children else "conv1") + ".weight"


def _find_module(
    tensors: Mapping[str, np.ndarray], layout: Layout
) -> tuple[simclr.SimCLR, bool]:
    """Return the module of these tensors, and whether they include its projector."""
    projector = {
        key.removeprefix(layout.projector): value
        for key, value in tensors.items()
        if layout.projector and key.startswith(layout.projector)
    }
    norm = "1.running_mean" in projector
    last = projector.get("3.weight" if norm else "2.weight")
    options = {"projector_norm": "batch" if norm else "none"}
    if last is not None and last.ndim == 2:
        options["embedding_dim"] = len(last)
    return simclr.SimCLR(arch=_find_arch(tensors, layout), **options), bool(projector)


def _find_arch(tensors: Mapping[str, np.ndarray], layout: Layout) -> str:
    """Return the architecture that is closest to the blocks found."""
    blocks = {
        tuple(key.removeprefix(layout.encoder).split(".")[:2])
        for key in tensors
        if key.startswith(layout.encoder) and key.endswith(".conv1.weight")
    }
    layers = [f"layer{stage}" for stage in range(1, 5)]
    if layout.children:
        layers = [_CHILDREN[layer] for layer in layers]
    stages = [sum(layer == block[0] for block in blocks) for layer in layers]
    is_bottleneck = any(key.endswith(".conv3.weight") for key in tensors)
    stem = tensors[_stem(layout)]

    def distance(arch: str) -> tuple[bool, int, bool]:
        block, expected, width = resnet.ARCHITECTURES[arch]
        return (
            (block is resnet.Bottleneck) != is_bottleneck,
            sum(abs(a - b) for a, b in zip(stages, expected, strict=True)),
            stem.shape[:1] != (width,),
        )

    return min(resnet.ARCHITECTURES, key=distance)


def _names(
    variables: Mapping[str, Any], layout: Layout
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield pairs: a name in PyTorch, and the path in our variables."""
    has_norm = "projector_norm" in variables["params"]
    projector = {
        "projector_0": "0",
        "projector_norm": "1",
        "projector_2": "3" if has_norm else "2",
    }
    for keys, _ in jax.tree_util.tree_leaves_with_path(variables):
        path = tuple(key.key for key in keys)
        _, part, *modules, leaf = path
        if part == "encoder":
            parts = ".".join(modules).replace("_", ".").split(".")
            if layout.children:
                parts[0] = _CHILDREN[parts[0]]
            prefix = layout.encoder + ".".join(parts)
        else:
            prefix = f"{layout.projector}{projector[part]}"
        yield f"{prefix}.{_LEAVES[leaf]}", path


def _to_torch(value: np.ndarray) -> np.ndarray:
    axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(value.ndim)
    return np.ascontiguousarray(value.transpose(axes)) if axes else value


def _from_torch(value: np.ndarray) -> np.ndarray:
    axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(value.ndim)
    value = value.astype(np.float32)
    return np.ascontiguousarray(value.transpose(axes)) if axes else value


def _get(tree: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _set(tree: dict[str, Any], path: tuple[str, ...], value: np.ndarray) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value
