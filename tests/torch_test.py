"""PyTorch's own files, read and written; needs the extra `convert`."""

import hashlib
import importlib.util
import pathlib
import warnings

import jax
import numpy as np
import pytest
import seeded_weights

from arniqa_jax import errors
from arniqa_jax.weights import encoders, model_directory, torch_files, torch_import

torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed: pip install '.[convert]'"
)
nn = torch.nn


@pytest.fixture(scope="module")
def plain_resnet():
    """The module that the golden values and the benchmark use too."""
    path = pathlib.Path(__file__).parent / "golden" / "plain_resnet.py"
    spec = importlib.util.spec_from_file_location("plain_resnet", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def official(plain_resnet):
    """The official module with seeded weights."""
    module = plain_resnet.Official().eval()
    state = {
        name: torch.from_numpy(seeded_weights.seeded_tensor(name, tuple(value.shape)))
        for name, value in module.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    module.load_state_dict(state, strict=False)
    return module


@pytest.fixture(scope="module")
def files(official, tmp_path_factory):
    """ARNIQA.pth and regressor_live.pth as they are published."""
    folder = tmp_path_factory.mktemp("files")
    torch.save(official.state_dict(), folder / "ARNIQA.pth")
    linear = nn.Linear(4096, 1).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.script(linear).save(folder / "regressor_live.pth")
    return folder, linear


@pytest.fixture(scope="module")
def model(files, tmp_path_factory):
    folder, _ = files
    target = tmp_path_factory.mktemp("models") / "official"
    regressors = [folder / "regressor_live.pth"]
    torch_import.convert(folder / "ARNIQA.pth", target, regressors)
    return target


def test_the_official_files_give_the_features_and_scores_of_pytorch(
    plain_resnet, official, files, model
):
    folder, linear = files
    encoder = encoders.load(model)
    image = seeded_weights.seeded_image(96)
    with torch.inference_mode():
        expected, _ = official(plain_resnet.normalized(image))
    found = jax.jit(lambda v, x: encoder.embed(encoder.fold(v), x))(
        encoder.variables, image
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    regressor = model_directory.find_regressors(model, encoder)["live"]
    assert (regressor.dataset, regressor.higher_is_better) == ("LIVE", False)
    np.testing.assert_array_equal(
        regressor.weights_D, linear.weight.detach().numpy()[0]
    )
    assert regressor.intercept == linear.bias.item()
    source = model_directory.read_source(model)
    content = (folder / "ARNIQA.pth").read_bytes()
    assert source.sha256 == hashlib.sha256(content).hexdigest()


def test_export_loads_strictly_and_holds_every_bit(
    plain_resnet, official, model, tmp_path
):
    torch_import.convert(model, tmp_path / "back.pth", [])
    state = torch.load(tmp_path / "back.pth", weights_only=True)
    plain_resnet.Official().load_state_dict(state, strict=True)
    for name, value in official.state_dict().items():
        assert torch.equal(state[name], value), name


def _states():
    """State dicts with what can be unusual about a tensor."""
    base = torch.arange(24.0).reshape(4, 6)
    yield {"plain": base, "transposed": base.T, "strided": base[1:, ::2]}
    yield {"one": base[0], "two": base[1], "shared": base}
    yield {"expanded": base[0].expand(3, 6), "empty": base[:0], "scalar": base[1, 2]}
    yield {"parameter": nn.Parameter(base), "count": torch.tensor(3)}
    for dtype in ("float64", "float16", "int32", "int16", "int8", "uint8", "bool"):
        yield {dtype: base.to(getattr(torch, dtype))}
    yield nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).state_dict()


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_the_reader_agrees_with_pytorch(tmp_path, protocol):
    for state in _states():
        torch.save(state, tmp_path / "x.pth", pickle_protocol=protocol)
        found = torch_files.read_tensors(tmp_path / "x.pth")
        assert found.keys() == state.keys()
        for name, value in state.items():
            expected = value.detach().numpy()
            assert found[name].dtype == expected.dtype, name
            assert found[name].shape == expected.shape, name
            np.testing.assert_array_equal(found[name], expected)


def test_bfloat16_keeps_its_bits(tmp_path):
    value = torch.linspace(-3, 3, 50).to(torch.bfloat16)
    torch.save({"a": value}, tmp_path / "x.pth")
    (found,) = torch_files.read_tensors(tmp_path / "x.pth").values()
    expected = value.view(torch.int16).numpy()
    np.testing.assert_array_equal(found.view(np.int16), expected)


def test_the_format_before_1_6_is_refused_by_name(tmp_path):
    state = {"a": torch.ones(3)}
    torch.save(state, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(errors.CheckpointError, match=r"PyTorch's format before 1\.6"):
        torch_files.read_tensors(tmp_path / "x.pth")


def test_a_checkpoint_with_a_pickled_object_is_not_read(tmp_path):
    content = {"state_dict": {}, "config": pathlib.PurePosixPath("x")}
    torch.save(content, tmp_path / "last_x.pth")
    with pytest.raises(errors.CheckpointError, match=r"PurePosixPath.*cannot be read"):
        torch_files.read_tensors(tmp_path / "last_x.pth")


@pytest.mark.parametrize("keep", [0, 100, -100])
def test_damaged_files(files, tmp_path, keep):
    folder, _ = files
    for name, read in (
        ("ARNIQA.pth", torch_files.read_tensors),
        ("regressor_live.pth", torch_files.read_regressor),
    ):
        path = tmp_path / name
        path.write_bytes((folder / name).read_bytes()[:keep])
        with pytest.raises(errors.CheckpointError, match=name):
            read(path)


def test_a_regressor_of_another_width(model, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Linear(1024, 1)).save(tmp_path / "regressor_csiq.pth")
    encoder = encoders.load(model)
    with pytest.raises(errors.CheckpointError, match=r"1024 features.*gives 4096"):
        torch_import.read_regressor(tmp_path / "regressor_csiq.pth", "csiq", encoder)
