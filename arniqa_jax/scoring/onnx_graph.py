"""A model as an ONNX graph, for onnxruntime and other engines (extra `onnx`).

The graph is built from the folded weights, in float32, with operators of opset 18.

Names of values end in their axes: N images, B crops of all images, C channels, H and W
pixels, S scales (full, half), D features.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from arniqa_jax import errors
from arniqa_jax.inference import folded_encoder, preprocessing
from arniqa_jax.inference.encoder import Encoder
from arniqa_jax.model import simclr
from arniqa_jax.scoring import onnx_crops
from arniqa_jax.version import __version__
from arniqa_jax.weights.regressors import Regressor

_OPSET = 18
_IR_VERSION = 10  # of ONNX 1.16; later versions need newer engines
_CROPS = len(preprocessing.CROPS["five"])


def scorer(
    encoder: Encoder, regressors: Mapping[str, Regressor], takes: str = "images"
) -> bytes:
    """Return a serialised graph from uint8 pixels to public scores.

    Args:
      encoder: the encoder.
      regressors: regressors for five crops; each becomes an output of its name, float32
        (N,), higher is better.
      takes: `images`, one input (N, H, W, 3) with N, H and W dynamic, halved and
        cropped inside the graph; or `crops`, one input (N, 5, 2, P, P, 3).

    Raises:
      UsageError: there is no regressor, or one for whole images.
    """
    if not regressors:
        raise errors.UsageError(
            f"the model of {encoder.name} has no regressor: export it with "
            "--input=encoder, or fit one with arniqa_jax.evaluate"
        )
    whole = [name for name, found in regressors.items() if found.crops != "five"]
    if whole:
        raise errors.UsageError(
            f"only regressors fitted on crops=five can be exported, not {whole[0]}"
        )
    graph = _Graph()
    size = encoder.patch_size
    if takes == "images":
        shape = ("images", "height", "width", 3)
        pixels_BCHW = onnx_crops.crops(graph, "images", size)
    else:
        shape = ("images", _CROPS, 2, size, size, 3)
        flat = graph.add("Reshape", "crops", np.array([-1, size, size, 3]))
        pixels_BCHW = graph.add("Transpose", flat, perm=[0, 3, 1, 2])
    scaled = graph.add("Div", graph.cast(pixels_BCHW, "float32"), np.float32(255))
    pooled_BD = _encode(graph, encoder, scaled)
    square = graph.add("Mul", pooled_BD, pooled_BD)
    square = graph.add("ReduceSum", square, np.array([1]), keepdims=1)
    norm = graph.add("Sqrt", graph.add("Max", square, np.float32(1e-24)))
    features_BD = graph.add("Div", pooled_BD, norm)
    features_ND = _mean_over_crops(graph, features_BD, encoder.feature_dim, takes)
    _score(graph, features_ND, regressors)
    outputs = dict.fromkeys(regressors, ("float32", ("images",)))
    return graph.serialise({takes: ("uint8", shape)}, outputs, _properties(encoder))


def encoder(encoder: Encoder, batch_size: int) -> bytes:
    """Return a serialised graph of the encoder alone, with fixed shapes.

    It takes `pixels`, float32 (batch_size, 3, P, P) in [0, 1], and gives `features`,
    float32 (batch_size, D), which are not divided by their length. It has convolutions,
    additions, ReLU, pooling and one normalisation of the input; engines such as CoreML
    and DirectML compile that as a whole.
    """
    graph = _Graph()
    size = encoder.patch_size
    pooled = _encode(graph, encoder, "pixels")
    graph.add("Identity", pooled, output="features")
    return graph.serialise(
        {"pixels": ("float32", (batch_size, 3, size, size))},
        {"features": ("float32", (batch_size, encoder.feature_dim))},
        _properties(encoder),
    )


class _Graph:
    """Nodes and constants, in the order in which they were added."""

    def __init__(self):
        self.onnx = _import_onnx()
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def add(self, kind: str, *inputs: Any, output: str | None = None, **attributes):
        """Add a node; arrays among its inputs become constants. Return its output."""
        names = [v if isinstance(v, str) else self.constant(v) for v in inputs]
        output = output or f"{kind}_{len(self._nodes)}"
        node = self.onnx.helper.make_node(kind, names, [output], **attributes)
        self._nodes.append(node)
        return output

    def cast(self, value: str, dtype: str) -> str:
        """Add a conversion to a NumPy dtype; return its output."""
        to = self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.add("Cast", value, to=to)

    def constant(self, value: Any) -> str:
        """Add an array as a constant; return its name."""
        name = f"constant_{len(self._constants)}"
        array = self.onnx.numpy_helper.from_array(np.asarray(value), name)
        self._constants.append(array)
        return name

    def serialise(
        self,
        inputs: Mapping[str, tuple[str, tuple]],
        outputs: Mapping[str, tuple[str, tuple]],
        properties: Mapping[str, str],
    ) -> bytes:
        """Check the graph and return it, with its inputs and outputs, as bytes."""
        helper = self.onnx.helper

        def values(described):
            return [
                helper.make_tensor_value_info(
                    name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape
                )
                for name, (dtype, shape) in described.items()
            ]

        graph = helper.make_graph(
            self._nodes, "arniqa", values(inputs), values(outputs), self._constants
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", _OPSET)],
            ir_version=_IR_VERSION,
            producer_name="arniqa_jax",
            producer_version=__version__,
        )
        helper.set_model_props(model, dict(properties))
        self.onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString()


def _properties(encoder: Encoder) -> dict[str, str]:
    """Return the metadata of a graph about its encoder."""
    return {
        "patch_size": str(encoder.patch_size),
        "arch": encoder.module.arch,
        "encoder": encoder.fingerprint,
    }


def _encode(graph: _Graph, encoder: Encoder, pixels_BCHW: str) -> str:
    """Return the features before the division by their length, (B, D)."""
    weights = jax.device_get(jax.jit(encoder.fold)(encoder.variables))
    x = pixels_BCHW
    if encoder.imagenet_input:
        mean, std = (
            np.float32(v).reshape(1, 3, 1, 1) for v in (simclr.MEAN, simclr.STD)
        )
        x = graph.add("Div", graph.add("Sub", x, mean), std)
    x = graph.add("Relu", _convolve(graph, x, weights["conv1"], 2))
    x = graph.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for name, stride in folded_encoder.blocks(weights):
        x = _block(graph, x, weights[name], stride)
    return graph.add("Flatten", graph.add("GlobalAveragePool", x))


def _block(graph: _Graph, x: str, weights: Mapping[str, Any], stride: int) -> str:
    """Add a residual block, see `folded_encoder`."""
    bottleneck = "conv3" in weights
    y = _convolve(graph, x, weights["conv1"], 1 if bottleneck else stride)
    y = graph.add("Relu", y)
    y = _convolve(graph, y, weights["conv2"], stride if bottleneck else 1)
    if bottleneck:
        y = _convolve(graph, graph.add("Relu", y), weights["conv3"], 1)
    if "downsample_0" in weights:
        x = _convolve(graph, x, weights["downsample_0"], stride)
    return graph.add("Relu", graph.add("Add", x, y))


def _convolve(graph: _Graph, x: str, weights: Mapping[str, Any], stride: int) -> str:
    kernel_OIHW = np.ascontiguousarray(weights["kernel"].transpose(3, 2, 0, 1))
    side = kernel_OIHW.shape[-1]
    return graph.add(
        "Conv",
        x,
        kernel_OIHW,
        np.asarray(weights["bias"]),
        kernel_shape=[side, side],
        strides=[stride, stride],
        pads=[side // 2] * 4,
    )


def _mean_over_crops(graph: _Graph, features_BD: str, width: int, takes: str) -> str:
    """Return the mean over the crops of an image, full scale then half, (N, 2 D)."""
    # Both orders of the crops have them on the second axis.
    first, third = (2, -1) if takes == "images" else (-1, 2)
    x = graph.add("Reshape", features_BD, np.array([first, _CROPS, third, width]))
    x = graph.add("ReduceMean", x, np.array([1]), keepdims=0)
    if takes == "images":
        x = graph.add("Transpose", x, perm=[1, 0, 2])
    return graph.add("Reshape", x, np.array([-1, 2 * width]))


def _score(
    graph: _Graph, features_ND: str, regressors: Mapping[str, Regressor]
) -> None:
    """Add an output for each regressor.

    A public score is a linear function of a raw score, s = a r + b, so it is one of the
    features, too: s = f . (a w) + (a r0 + b), where w and r0 are weights and intercept.
    """
    for name, regressor in regressors.items():
        offset = float(regressor.public_scores(np.zeros(1))[0])
        factor = float(regressor.public_scores(np.ones(1))[0]) - offset
        weights_D = np.float32(factor * regressor.weights_D)
        intercept = np.float32(factor * regressor.intercept + offset)
        score = graph.add("MatMul", features_ND, weights_D)
        graph.add("Add", score, intercept, output=name)


def _import_onnx() -> Any:
    try:
        import onnx
        import onnx.checker
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise errors.ArniqaError(
            "writing .onnx needs the package onnx: pip install 'arniqa_jax[onnx]'"
        ) from error
    return onnx
