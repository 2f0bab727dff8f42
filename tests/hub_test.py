"""Models on the Hugging Face hub, against a stand-in on this machine."""

import json
import sys

import hub_server
import jax
import numpy as np
import pytest
import small_model

import arniqa_jax
from arniqa_jax import command, errors, push
from arniqa_jax.evaluation import job
from arniqa_jax.weights import (
    encoders,
    hub,
    model_card,
    model_directory,
    torch_import,
)
from benchmarks import soak
from configs import evaluate as evaluate_config
from configs import pretrain

IMAGE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf://org/my-repo_1.0", hub.Address("org/my-repo_1.0")),
        ("hf://org/repo@v1", hub.Address("org/repo", "v1")),
        ("hf://org/repo@refs/pr/1:live", hub.Address("org/repo", "refs/pr/1", "live")),
        ("hf://org/repo:live", hub.Address("org/repo", None, "live")),
    ],
)
def test_addresses(text, expected):
    assert hub.parse(text) == expected


@pytest.mark.parametrize("text", ["hf://repo", "hf://a/b/c", "hf://a/b@", "hf://a/b:"])
def test_what_is_no_address(text):
    with pytest.raises(errors.UsageError, match="expected hf://ORG/REPO"):
        arniqa_jax.load(text)


def test_without_the_library_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(errors.ArniqaError, match=r"arniqa_jax\[hub\]"):
        arniqa_jax.load("hf://org/repo")


@pytest.fixture
def server(monkeypatch, tmp_path):
    constants = pytest.importorskip(
        "huggingface_hub.constants", reason="huggingface_hub: pip install '.[hub]'"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "secret")
    with hub_server.serve() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        yield server


def _push(*arguments):
    """Run the command, whose flags keep no value between the tests."""
    push.FLAGS.unparse_flags()
    for flag in push.FLAGS:
        push.FLAGS[flag].unparse()
    return push.main(command.parse_flags(["push", *map(str, arguments)], push.FLAGS))


def test_what_was_pushed_gives_the_same_scores(server, tmp_path, capsys):
    model = small_model.write(tmp_path / "model", "live", "csiq")
    assert _push(model, "hf://org/repo", "--private") == 0
    ((commit, files),) = server.commits["org/repo"]
    assert server.private == {"org/repo": True}
    assert f"/org/repo/commit/{commit}" in capsys.readouterr().out
    assert files.keys() == {
        "README.md",
        "model.json",
        "encoder.safetensors",
        *(f"regressors/{n}.{s}" for n in ("live", "csiq") for s in ("json", "npz")),
    }
    for name in ("live", "csiq"):
        found = arniqa_jax.load(f"hf://org/repo:{name}").score([IMAGE])
        expected = arniqa_jax.load(f"{model}:{name}").score([IMAGE])
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(errors.UsageError, match="several regressors"):
        arniqa_jax.load("hf://org/repo")
    # The card is for people, and is not downloaded.
    assert not any(
        "README" in path for method, path, _ in server.asked if method != "POST"
    )


def test_a_revision_is_kept(server, tmp_path):
    _push(small_model.write(tmp_path / "one", "live"), "hf://org/repo")
    _push(small_model.write(tmp_path / "two", "csiq"), "hf://org/repo")
    (first, _), _ = server.commits["org/repo"]
    assert arniqa_jax.load(f"hf://org/repo@{first}").regressor.dataset == "live"
    assert arniqa_jax.load("hf://org/repo").regressor.dataset == "csiq"


def test_an_evaluation_of_a_model_on_the_hub(server, tmp_path):
    _push(small_model.write(tmp_path / "model"), "hf://org/repo")
    config = evaluate_config.get_config()
    config.data.workers = 0
    config.evaluation.root = str(tmp_path)
    config.evaluation.datasets = "csv:scored"
    config.evaluation.figures = False
    soak.write_scored(tmp_path / "scored")
    job.evaluate(config, str(tmp_path / "x"), "hf://org/repo", "best")
    # The regressor is in the directory of the evaluation, which names the encoder.
    scored = arniqa_jax.load(tmp_path / "x")
    assert scored.regressor.dataset == "scored"
    assert np.isfinite(scored.score([IMAGE])).all()


def test_a_run_starts_from_a_model_on_the_hub(server, tmp_path):
    model = small_model.write(tmp_path / "model")
    _push(model, "hf://org/repo")
    config = pretrain.get_config()
    config.model.arch, config.model.init = "tiny", "hf://org/repo"
    found = encoders.initial_variables(config)
    expected = encoders.load(model).variables
    jax.tree.map(
        np.testing.assert_array_equal,
        found["params"]["encoder"],
        expected["params"]["encoder"],
    )


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://org/missing", "hf://org/missing: .*404"),
        ("hf://org/repo@v9", "hf://org/repo: .*404"),
        ("hf://org/other", "holds no model.json"),
    ],
)
def test_what_the_hub_does_not_have(server, tmp_path, address, message):
    server.commits = {
        "org/repo": [("1" * 40, {})],
        "org/other": [("2" * 40, {"a": b""})],
    }
    with pytest.raises(errors.ArniqaError, match=message) as error:
        arniqa_jax.load(address)
    assert "\n" not in str(error.value)


def test_a_push_without_the_right_token(server, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "wrong")
    with pytest.raises(errors.ArniqaError, match=r"hf://org/repo: .*401"):
        _push(small_model.write(tmp_path / "model"), "hf://org/repo")
    assert not server.commits


def test_nobody_answers(server, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(errors.ArniqaError, match="hf://org/repo: "):
        arniqa_jax.load("hf://org/repo")
    with pytest.raises(errors.ArniqaError, match="hf://org/repo: "):
        _push(small_model.write(tmp_path / "model"), "hf://org/repo")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a model and an address are needed"),
        (["model"], "a model and an address are needed"),
        (["model", "org/repo"], "a model and an address are needed"),
        (["model", "hf://org/repo:live"], "leave out :live"),
        (["missing", "hf://org/repo"], "no such directory"),
        (["gs://bucket/model", "hf://org/repo"], "expected a local path"),
    ],
)
def test_wrong_use(arguments, message):
    with pytest.raises(errors.UsageError, match=message):
        _push(*arguments)


def test_a_dry_run_prints_the_card_and_needs_no_library(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # an import would fail
    model = small_model.write(tmp_path / "model", "live")
    encoder = model_directory.read_encoder(model)
    results = tmp_path / "results.json"
    figure = {"median": 0.8754, "low": 0.85, "high": None}
    dataset = {
        "name": "live",
        "title": "LIVE",
        "note": "779 of 982 images",
        "images": 779,
        "figures": {"srcc": figure, "plcc": None},
    }
    cross = {"train": "live", "test": "csiq", "images": 866}
    found = {
        "fingerprint": encoder.fingerprint,
        "datasets": [dataset, {**dataset, "name": "csiq", "title": "CSIQ"}],
        "cross": [{**cross, "figures": {"srcc": {**figure, "median": 0.625}}}],
    }
    results.write_text(json.dumps(found))
    flag = f"--results={results}"
    assert _push(model, "hf://org/repo", "--dry_run", flag, "--licence=mit") == 0
    card = capsys.readouterr().out
    assert card.startswith("---\nlibrary_name: arniqa_jax\n")
    assert "license: mit\n---\n" in card
    assert 'arniqa_jax.load("hf://org/repo")' in card
    assert "| live | live | 779 | 1 to 100 | lower |" in card
    assert "| LIVE | 779 | 0.875 | undefined |" in card
    assert "LIVE: 779 of 982 images." in card
    assert "| LIVE | CSIQ | 866 | 0.625 |" in card
    assert encoder.fingerprint in card
    found["fingerprint"] = "0" * 64
    results.write_text(json.dumps(found))
    with pytest.raises(errors.UsageError, match="results of another encoder"):
        _push(model, "hf://org/repo", "--dry_run", flag)


def test_the_last_results_of_this_encoder(tmp_path):
    model = small_model.write(tmp_path / "model")
    encoder = model_directory.read_encoder(model)
    assert model_card.find_results(model, encoder, None) is None
    for name, fingerprint in (("a", encoder.fingerprint), ("b", "0" * 64)):
        folder = model / "results" / name
        folder.mkdir(parents=True)
        found = {"fingerprint": fingerprint, "datasets": [], "name": name}
        (folder / "results.json").write_text(json.dumps(found))
    assert model_card.find_results(model, encoder, None)["name"] == "a"


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"fingerprint": 1, "datasets": []}']
)
def test_results_that_cannot_be_read(tmp_path, text):
    model = small_model.write(tmp_path / "model")
    encoder = model_directory.read_encoder(model)
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(errors.UsageError, match=r"expected a results\.json"):
        model_card.find_results(model, encoder, str(tmp_path / "results.json"))


def test_a_directory_with_safetensors_is_the_same_model(tmp_path):
    model = small_model.write(tmp_path / "model", "live")
    torch_import.convert(model, tmp_path / "copy", [], safetensors=True)
    names = {path.name for path in (tmp_path / "copy").iterdir()}
    assert names == {"model.json", "encoder.safetensors", "regressors"}
    found = arniqa_jax.load(tmp_path / "copy").score([IMAGE])
    np.testing.assert_array_equal(found, arniqa_jax.load(model).score([IMAGE]))
    path = tmp_path / "copy" / "encoder.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(errors.CheckpointError, match="does not hold the encoder"):
        arniqa_jax.load(tmp_path / "copy")
