"""The exported ONNX graph, run by onnxruntime."""

import dataclasses
import sys

import documented
import jax
import numpy as np
import pytest
import small_model
from PIL import Image

import arniqa_jax
from arniqa_jax import command, errors, export
from arniqa_jax.inference import preprocessing
from arniqa_jax.inference.encoder import Encoder
from arniqa_jax.model.simclr import SimCLR
from arniqa_jax.scoring import onnx_crops, onnx_graph, scorer
from arniqa_jax.weights import torch_names

onnx = pytest.importorskip("onnx", reason="onnx: pip install '.[onnx]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="pip install onnxruntime")


def _session(content):
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model with two regressors of different scale and direction."""
    return small_model.write(tmp_path_factory.mktemp("models") / "m", "live", "csiq")


@pytest.fixture(scope="module")
def graph(model):
    return _session(export.export_onnx(*scorer.load_all(model), "images"))


def _photographs(height, width, count=2):
    """Smooth colours with edges and some noise, as photographs have."""
    rng = np.random.default_rng(height * 1000 + width)
    small = rng.integers(0, 256, (count, 5, 7, 3), np.uint8)
    images = [
        np.asarray(Image.fromarray(s).resize((width, height), Image.Resampling.NEAREST))
        for s in small
    ]
    noise = rng.integers(-20, 21, (count, height, width, 3))
    return np.clip(np.stack(images) + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "size",
    [(90, 120), (64, 64), (71, 45), (33, 200), (1, 1), (1, 50), (2, 3), (31, 32)],
)
def test_images_of_any_size_have_the_scores_of_the_scorer(model, graph, size):
    images = _photographs(*size)
    scores = graph.run(None, {"images": images})
    assert [output.name for output in graph.get_outputs()] == ["csiq", "live"]
    for name, found in zip(("csiq", "live"), scores, strict=True):
        expected = arniqa_jax.load(f"{model}:{name}").score(list(images))
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_crops_are_those_of_pillow():
    """Every bit, also of odd sides, where the operator Resize differs."""
    graph = onnx_graph._Graph()
    graph.add("Identity", onnx_crops.crops(graph, "images", 32), output="crops")
    shapes = {"images": ("n", "h", "w", 3), "crops": ("b", 3, 32, 32)}
    described = {name: ("uint8", shape) for name, shape in shapes.items()}
    outputs = {"crops": described.pop("crops")}
    session = _session(graph.serialise(described, outputs, {}))
    rng = np.random.default_rng(0)
    for size in [(71, 45), (301, 455), (200, 300), (1, 1), (1, 9), (3, 2), (5, 1000)]:
        images = rng.integers(0, 256, (2, *size, 3), np.uint8)
        (found,) = session.run(None, {"images": images})
        found = found.reshape(2, 5, 2, 3, 32, 32).transpose(2, 1, 0, 4, 5, 3)
        expected = [preprocessing.evaluation_crops(image, 32) for image in images]
        np.testing.assert_array_equal(found, expected)


def test_a_batch_of_any_size(graph):
    images = _photographs(50, 70, count=5)
    together = np.stack(graph.run(None, {"images": images}))
    for i in range(5):
        alone = np.stack(graph.run(None, {"images": images[i : i + 1]}))
        np.testing.assert_allclose(together[:, i : i + 1], alone, atol=1e-5)


def test_crops(model):
    loaded = arniqa_jax.load(f"{model}:live")
    content = export.export_onnx(*scorer.load_all(f"{model}:live"), "crops")
    images = _photographs(60, 80, count=3)
    views = np.stack([preprocessing.evaluation_crops(image, 32) for image in images])
    (found,) = _session(content).run(None, {"crops": views})
    np.testing.assert_allclose(found, loaded.score(list(images)), atol=1e-5)


def test_the_encoder_alone(model):
    """Fixed shapes, only simple operators; the length and the scores are outside."""
    loaded = arniqa_jax.load(f"{model}:live")
    content = export.export_onnx(*scorer.load_all(model), "encoder")
    kinds = {node.op_type for node in onnx.load_from_string(content).graph.node}
    assert kinds == {
        *("Sub", "Div", "Conv", "Relu", "MaxPool", "Add", "GlobalAveragePool"),
        *("Flatten", "Identity"),
    }
    session = _session(content)
    assert session.get_inputs()[0].shape == [10, 3, 32, 32]
    (image,) = _photographs(60, 80, count=1)
    views = preprocessing.evaluation_crops(image, 32).reshape(10, 32, 32, 3)
    pixels = np.float32(views.transpose(0, 3, 1, 2)) / 255
    (features,) = session.run(None, {"pixels": pixels})
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    (expected,) = loaded.features([image])
    np.testing.assert_allclose(features.reshape(5, -1), expected, atol=1e-6)


@pytest.mark.slow
def test_bottleneck_blocks_without_normalisation():
    """ResNet-50's topology, and an encoder that takes [0, 1], such as CONTRIQUE's."""
    module = SimCLR(arch="resnet50")
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda x: np.float32(
            rng.normal(0, np.sqrt(2 / np.prod(x.shape[:-1])), x.shape)
            if len(x.shape) == 4
            else rng.uniform(0.5, 1.0, x.shape)
        ),
        torch_names.abstract_variables(module, projector=False),
    )
    encoder = Encoder(module, variables, "seeded", patch_size=64)
    pixels = rng.random((10, 3, 64, 64), np.float32)
    for imagenet_input in (True, False):
        encoder = dataclasses.replace(encoder, imagenet_input=imagenet_input)
        (found,) = _session(export.export_onnx(encoder, {}, "encoder")).run(
            None, {"pixels": pixels}
        )
        found /= np.linalg.norm(found, axis=1, keepdims=True)
        expected = jax.jit(lambda v, x, e=encoder: e.embed(e.fold(v), x))(
            variables, pixels.transpose(0, 2, 3, 1)
        )
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_cannot_be_exported(tmp_path):
    whole = scorer.load_all(small_model.write(tmp_path / "w", "live", crops="whole"))
    with pytest.raises(errors.UsageError, match="crops=five"):
        export.export_onnx(*whole, "images")
    none = scorer.load_all(small_model.write(tmp_path / "n"))
    with pytest.raises(errors.UsageError, match="no regressor"):
        export.export_onnx(*none, "images")


def test_the_input_is_chosen_for_onnx_only(tmp_path):
    arguments = ["export", "--model=M", "--to=x.stablehlo", "--input=crops"]
    with pytest.raises(errors.UsageError, match=r"--input needs a --to .*\.onnx"):
        export.main(command.parse_flags(arguments, export.FLAGS))
    for name in ("x.ONNX", "x.pth", "x"):
        arguments = ["export", "--model=M", f"--to={name}"]
        with pytest.raises(errors.UsageError, match=r"ends in \.onnx or \.stablehlo"):
            export.main(command.parse_flags(arguments, export.FLAGS))


def test_without_the_library_the_error_says_what_to_install(monkeypatch, model):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(errors.ArniqaError, match=r"arniqa_jax\[onnx\]"):
        export.export_onnx(*scorer.load_all(model), "images")


_SAVED = {
    "color.jpg": ("RGB", {}),
    "gray.png": ("L", {}),
    "turned.jpg": (
        "RGB",
        {
            "exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0"
            b"\x01\0\x06\0\0\0\0\0\0"
        },
    ),
    "palette.gif": ("P", {}),
    "transparent.png": ("RGBA", {}),
}


@pytest.mark.parametrize("name", _SAVED)
def test_the_loader_of_the_documentation(tmp_path, model, monkeypatch, capsys, name):
    """It imports three libraries, has at most 30 lines, and scores as `score` does."""
    content = export.export_onnx(*scorer.load_all(f"{model}:live"), "images")
    (tmp_path / "scorer.onnx").write_bytes(content)
    mode, options = _SAVED[name]
    (pixels,) = _photographs(71, 45, count=1)
    image = Image.fromarray(pixels).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(pixels[..., 0]))
    image.save(tmp_path / name, **options)
    page = documented.ROOT / "docs" / "onnx.md"
    blocks = [b.text for b in documented.blocks(page) if b.language == "python"]
    (loader,) = blocks
    assert len(loader.splitlines()) <= 30
    imported = {line.split()[1] for line in loader.splitlines() if "import " in line}
    assert imported == {"numpy", "onnxruntime", "PIL"}
    monkeypatch.chdir(tmp_path)
    exec(loader.replace("photo.jpg", name), {})
    shown, _, found = capsys.readouterr().out.strip().rpartition(" ")
    (expected,) = arniqa_jax.load(f"{model}:live").score([tmp_path / name])
    assert shown == "live" and float(found) == pytest.approx(expected, abs=1e-5)
