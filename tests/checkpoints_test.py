"""Checkpoints: which are kept, which is the best, and the errors of damaged ones."""

import errno
import os
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from orbax.checkpoint import v1 as ocp

from arniqa_jax import errors
from arniqa_jax.distributed import sharding
from arniqa_jax.storage import checkpoints
from arniqa_jax.training import train_step

_OPTIMIZER = optax.sgd(0.1, momentum=0.9)


def _state(step: int, width: int = 3) -> train_step.TrainState:
    variables = {
        "params": {"kernel": jnp.arange(2.0 * width).reshape(2, width) + step},
        "batch_stats": {"mean": jnp.full(width, step, jnp.float32)},
    }
    state = train_step.initial_state(variables, _OPTIMIZER)
    return state.replace(step=jnp.int32(step))


def _abstract(width: int = 3):
    return jax.eval_shape(lambda: _state(0, width))


@pytest.fixture
def store(tmp_path):
    store = checkpoints.Checkpoints(tmp_path / "checkpoints", {"seed": 27})
    yield store
    store.close()


def _save(store, scores):
    for step, srcc in scores.items():
        store.save(_state(step), srcc=srcc)
        store.wait()


def _replicated():
    return sharding.replicated(sharding.make_mesh())


def test_a_state_comes_back_bit_for_bit_on_every_device(store):
    _save(store, {5: None})
    assert store.latest == 5
    state = store.restore(5, _abstract(), _replicated())
    jax.tree.map(np.testing.assert_array_equal, state, _state(5))
    assert jax.tree.structure(state) == jax.tree.structure(_state(5))
    assert len(state.params["kernel"].sharding.device_set) == 8


def test_the_last_two_and_the_best_are_kept(store, tmp_path):
    _save(store, {1: 0.2, 2: 0.8, 3: 0.5, 4: None, 5: 0.3, 6: None})
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["2", "5", "6"]
    assert store.best == 2
    directory = tmp_path / "checkpoints"
    assert checkpoints.find(directory, "best") == 2
    assert checkpoints.find(directory, "last") == 6
    assert checkpoints.find(directory, "5") == 5
    with pytest.raises(errors.CheckpointError, match="untrained or one of the steps 2"):
        checkpoints.find(directory, "4")


def test_a_kill_while_an_old_one_is_removed_leaves_no_half(
    store, tmp_path, monkeypatch
):
    directory = tmp_path / "checkpoints"

    def die_halfway(path):
        files = sorted(file for file in path.rglob("*") if file.is_file())
        for file in files[::2]:
            file.unlink()
        raise KeyboardInterrupt

    _save(store, {1: 0.4, 2: 0.5})
    monkeypatch.setattr(shutil, "rmtree", die_halfway)
    with pytest.raises(KeyboardInterrupt):
        _save(store, {3: 0.3})
    monkeypatch.undo()
    store.close()
    again = checkpoints.Checkpoints(directory, {})
    assert sorted(os.listdir(directory)) == ["2", "3"]
    assert again.best == 2
    for step in (2, 3):
        again.restore(step, _abstract(), _replicated())
    again.close()


def test_of_equally_good_ones_the_first_is_the_best(store):
    _save(store, {1: 0.5, 2: 0.5})
    assert store.best == 1


def test_without_validation_the_last_is_the_best(store):
    assert store.best is None
    _save(store, {1: None, 2: None})
    assert store.best == 2


def test_a_save_copies_before_the_state_is_donated(store):
    """The state is overwritten while it is being written to disk."""
    overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)
    state = jax.device_put(_state(7), _replicated())
    store.save(state)
    overwrite(state)
    store.wait()
    restored = store.restore(7, _abstract(), _replicated())
    jax.tree.map(np.testing.assert_array_equal, restored, _state(7))


def test_the_model_alone_can_be_read(store, tmp_path):
    _save(store, {5: None})
    like = {"params": _abstract().params, "batch_stats": _abstract().batch_stats}
    variables = checkpoints.load_variables(tmp_path / "checkpoints" / "5", like)
    np.testing.assert_array_equal(
        variables["params"]["kernel"], _state(5).params["kernel"]
    )


def test_what_is_stored_besides(store, tmp_path):
    _save(store, {5: 0.5})
    metadata = ocp.checkpointables_metadata(tmp_path / "checkpoints" / "5")
    assert metadata.custom_metadata["config"] == {"seed": 27}
    assert metadata.custom_metadata["versions"]["jax"] == jax.__version__


def test_another_shape_is_named(store):
    _save(store, {5: None})
    with pytest.raises(
        errors.CheckpointError, match=r"stats.mean is \(3,\), expected \(4,\)"
    ):
        store.restore(5, _abstract(width=4), _replicated())


def test_another_tree_is_named(store):
    _save(store, {5: None})
    other = _abstract().replace(params={"weight": _abstract().params["kernel"]})
    with pytest.raises(
        errors.CheckpointError, match=r"kernel is .*, expected none and 1 more"
    ):
        store.restore(5, other, _replicated())


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_file_is_an_error_of_one_line(tmp_path, capfd, damage):
    # Many arrays, so that many reads are in flight when the first one fails.
    arrays = {f"kernel_{k}": np.full((32, 32), k, np.float32) for k in range(60)}
    variables = {"params": arrays, "batch_stats": {}}
    directory = tmp_path / "5"
    checkpoints.save_variables(directory, variables)
    for file in (directory / "model").rglob("d/*"):
        content = np.fromfile(file, np.uint8)
        content = content[:8] if damage == "truncated" else 255 - content
        content.tofile(file)
    with pytest.raises(errors.CheckpointError) as error:
        checkpoints.load_variables(directory, variables)
    expected = r".*/5 cannot be read as .*: its files are truncated or damaged \(.*"
    assert re.fullmatch(expected, str(error.value))
    # Nothing of Orbax and its event loop.
    assert capfd.readouterr() == ("", "")


def test_a_full_disk_keeps_the_checkpoint_before(store, monkeypatch):
    _save(store, {5: None})

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(ocp.training.Checkpointer, "save_checkpointables_async", full)
        with pytest.raises(errors.CheckpointError, match=r"No space.*at step 5"):
            store.save(_state(6))
    assert store.latest == 5


def test_a_directory_without_checkpoints(tmp_path):
    with pytest.raises(errors.CheckpointError, match="does not exist"):
        checkpoints.find(tmp_path / "none", "best")
    with pytest.raises(errors.CheckpointError, match="no complete checkpoint"):
        checkpoints.find(tmp_path, "best")
