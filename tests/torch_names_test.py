"""PyTorch's weights: every tensor is mapped correctly, and back unchanged."""

import pathlib

import jax
import numpy as np
import pytest
import seeded_weights

from arniqa_jax import errors
from arniqa_jax.inference.encoder import Encoder
from arniqa_jax.model import resnet, simclr
from arniqa_jax.weights import torch_files, torch_names

GOLDEN = pathlib.Path(__file__).parent / "golden" / "resnet50.npz"


@pytest.fixture(scope="module")
def tiny():
    """A state dict of `tiny` in the official layout."""
    return torch_names.to_torch(_variables(simclr.SimCLR(arch="tiny")))


def _variables(module):
    expected = torch_names.abstract_variables(module, projector=True)
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: rng.uniform(0.5, 1.5, x.shape).astype(np.float32), expected
    )


def _torchvision(arch):
    """A seeded state dict in torchvision's names, classifier included."""
    module = simclr.SimCLR(arch=arch)
    expected = torch_names.abstract_variables(module, projector=False)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), expected)
    children = {number: name for name, number in torch_names._CHILDREN.items()}
    tensors = {"fc.weight": np.zeros((1000, module.feature_dim), np.float32)}
    for name, value in torch_names.to_torch(zeros).items():
        number, _, rest = name.removeprefix("model.").partition(".")
        name = f"{children[number]}.{rest}"
        tensors[name] = (
            value
            if name.endswith("num_batches_tracked")
            else seeded_weights.seeded_tensor(name, value.shape)
        )
    return tensors


@pytest.mark.slow
def test_resnet50_agrees_with_pytorch_layer_by_layer():
    golden = np.load(GOLDEN)
    imported = torch_names.from_torch(_torchvision("resnet50"), "seeded")
    assert imported.module.arch == "resnet50"
    assert imported.layout.title == "torchvision"
    mean, std = (np.float32(v) for v in (simclr.MEAN, simclr.STD))
    image = seeded_weights.seeded_image(96)
    network = resnet.ResNet(resnet.ARCHITECTURES["resnet50"])
    variables = {k: v["encoder"] for k, v in imported.variables.items()}

    @jax.jit
    def run(variables, x):
        return network.apply(
            variables,
            x,
            train=False,
            capture_intermediates=lambda module, _: "layer" in str(module.name),
            mutable=["intermediates"],
        )

    features, captured = run(variables, (image - mean) / std)
    for name in golden.files:
        if name.startswith("layer"):
            output = captured["intermediates"][name.replace(".", "_")]["__call__"][0]
            found = np.asarray(output).mean((1, 2))[0, :32]
            _assert_close(found, golden[name])
    _assert_close(np.asarray(features)[0], golden["features"])
    encoder = Encoder(imported.module, imported.variables, "seeded")
    folded = jax.jit(lambda v, x: encoder.embed(encoder.fold(v), x))
    found = np.asarray(folded(imported.variables, image))[0]
    _assert_close(found, golden["features"] / np.linalg.norm(golden["features"]))


def _assert_close(found, expected):
    np.testing.assert_allclose(
        found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).mean()
    )


@pytest.mark.parametrize("arch", ["resnet18", "resnet34", "resnet50"])
def test_export_and_import_are_the_identity(arch, tmp_path):
    module = simclr.SimCLR(arch=arch, embedding_dim=7)
    variables = _variables(module)
    path = tmp_path / "weights.safetensors"
    torch_files.write_tensors(path, torch_names.to_torch(variables))
    imported = torch_names.from_torch(torch_files.read_tensors(path), "weights")
    assert imported.module == module
    jax.tree.map(np.testing.assert_array_equal, imported.variables, variables)


def test_a_projector_with_batch_norm_comes_back():
    module = simclr.SimCLR(arch="tiny", projector_norm="batch")
    variables = _variables(module)
    imported = torch_names.from_torch(torch_names.to_torch(variables), "weights")
    assert imported.module == module
    jax.tree.map(np.testing.assert_array_equal, imported.variables, variables)


def test_names_are_the_official_ones():
    names = torch_names.to_torch(_variables(simclr.SimCLR())).keys()
    # 53 convolutions, 53 BatchNorms of 5 tensors, two linear layers of 2.
    assert len(names) == 53 + 53 * 5 + 4
    assert names >= {
        *("model.0.weight", "model.1.running_var", "model.1.num_batches_tracked"),
        *("model.4.0.downsample.0.weight", "model.4.0.downsample.1.bias"),
        *("model.7.2.conv3.weight", "projector.0.bias", "projector.2.weight"),
    }


@pytest.mark.parametrize(
    ("encoder", "children", "projector", "title", "imagenet_input"),
    [
        ("encoder.model.", True, "encoder.projector.", "ARNIQA, official", True),
        ("", False, None, "torchvision", True),
        ("encoder.", True, "projector.", "CONTRIQUE", False),
        ("module.encoder.", False, None, "Re-IQA", False),
    ],
)
def test_other_layouts(tiny, encoder, children, projector, title, imagenet_input):
    names = {number: name for name, number in torch_names._CHILDREN.items()}
    tensors = {}
    for name, value in tiny.items():
        part, number, rest = name.split(".", 2) if "model" in name else (name, "", "")
        if number:
            number = number if children else names[number]
            tensors[f"{encoder}{number}.{rest}"] = value
        elif projector:
            tensors[part.replace("projector.", projector)] = value
    imported = torch_names.from_torch(tensors, "file")
    assert imported.layout.title.startswith(title)
    assert imported.layout.imagenet_input == imagenet_input
    assert imported.module.arch == "tiny"
    has_projector = title.startswith("ARNIQA")
    assert ("projector_0" in imported.variables["params"]) == has_projector
    expected = torch_names.from_torch(tiny, "file").variables
    for collection in ("params", "batch_stats"):
        jax.tree.map(
            np.testing.assert_array_equal,
            imported.variables[collection]["encoder"],
            expected[collection]["encoder"],
        )


def test_every_difference_is_listed_in_one_error(tiny):
    tensors = dict(tiny)
    del tensors["model.1.bias"]
    tensors["model.9.weight"] = np.zeros(3)
    tensors["model.4.0.bn1.weight"] = np.zeros(9)
    tensors["projector.2.bias"] = np.full(128, np.nan)
    with pytest.raises(errors.CheckpointError) as error:
        torch_names.from_torch(tensors, "ARNIQA.pth")
    message = str(error.value)
    assert message.startswith("ARNIQA.pth does not hold the tensors of tiny")
    for part in (
        "model.1.bias is missing",
        "model.9.weight is left over",
        "model.4.0.bn1.weight is (9,), expected (8,)",
        "projector.2.bias has values that are not finite",
    ):
        assert part in message
    assert message.count(";") == 3


def test_a_file_of_something_else():
    with pytest.raises(errors.CheckpointError, match=r"no ResNet.*found a, b"):
        torch_names.from_torch({"a": np.zeros(1), "b": np.zeros(1)}, "file")


def test_safetensors_dtypes(tmp_path):
    import ml_dtypes

    path = tmp_path / "x.safetensors"
    tensors = {
        "half": np.arange(6, dtype=np.float16).reshape(2, 3),
        "brain": np.arange(3).astype(ml_dtypes.bfloat16),
        "count": np.array(5, np.int64),
    }
    torch_files.write_tensors(path, tensors)
    found = torch_files.read_tensors(path)
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype and found[name].shape == value.shape
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("keep", [0, 4, 60, -3])
def test_truncated_safetensors(tmp_path, keep):
    path = tmp_path / "x.safetensors"
    torch_files.write_tensors(path, {"a": np.zeros(100, np.float32)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(errors.CheckpointError, match=r"x\.safetensors cannot be read"):
        torch_files.read_tensors(path)
