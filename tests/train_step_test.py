"""The step: what a pair shares, independence of devices and chunks, and its cost.

Everything runs with the tiny encoder at 64 pixels, so that the chains compile once for
one device and once for eight.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from jax.sharding import AxisType

from arniqa_jax import degradation
from arniqa_jax.distributed import sharding
from arniqa_jax.model import losses, simclr
from arniqa_jax.training import optimizers, train_step
from benchmarks import scaling

_OPTIONS = {"max_distortions": 4, "num_levels": 5, "pristine_prob": 0.05, "tile": 0}
_MODEL = simclr.SimCLR(arch="tiny", embedding_dim=16)
_PAIRS, _SIZE = 8, 64


def _mesh(devices: int) -> jax.sharding.Mesh:
    return jax.make_mesh(
        (devices,), ("data",), axis_types=(AxisType.Auto,),
        devices=jax.devices()[:devices],
    )  # fmt: skip


def _batch(step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    # Smooth pictures: on noise, every distortion looks alike; and in flat blocks,
    # rounding would decide which of equal values is the maximum of a pooling window.
    coarse = rng.integers(0, 256, (_PAIRS, 2, 2, 8, 8, 3))
    scale = (1, 1, 1, _SIZE // 8, _SIZE // 8, 1)
    images = scipy.ndimage.zoom(coarse, scale, order=1).astype(np.uint8)
    return {
        "images": images,
        "seed": rng.integers(2**32, size=_PAIRS, dtype=np.uint32),
        "skipped": np.full((_PAIRS, 2), step, np.int32),
        # One of the pairs contains the request to stop.
        "stop": np.where(np.arange(_PAIRS) == 5, 75 * (step == 3), 0).astype(np.int32),
    }


def _state(optimizer) -> train_step.TrainState:
    images = jnp.zeros((1, _SIZE, _SIZE, 3))
    init = jax.jit(_MODEL.init, static_argnames="train")
    variables = init(jax.random.key(0), images, train=False)
    return train_step.initial_state(variables, optimizer)


_SCHEDULE = optimizers.learning_rate_schedule(
    name="constant", learning_rate=1e-3, batch_size=16, steps_per_epoch=1,
    total_steps=5, first_period_epochs=1.0, period_multiplier=2.0, floor=0.0,
    warmup_steps=0, lr_scaling="none",
)  # fmt: skip


def _run(devices: int):
    """The state after five steps, the metrics, the last preview, the compiled step."""
    mesh = _mesh(devices)
    optimizer = optimizers.optimizer(
        name="sgd", schedule=_SCHEDULE, momentum=0.9, weight_decay=1e-4
    )
    step = train_step.make_step(
        _MODEL, optimizer, _SCHEDULE, mesh,
        temperature=0.1, accumulation=1, degradation_options=_OPTIONS,
    )  # fmt: skip
    state = jax.device_put(_state(optimizer), sharding.replicated(mesh))
    key = train_step.run_key(27, mesh)
    history = []
    for k in range(5):
        batch = sharding.put_batch(_batch(k), mesh)
        state, metrics, preview = step(state, batch, key)
        history.append(jax.device_get(metrics))
    return jax.device_get(state), history, jax.device_get(preview), step


@pytest.fixture(scope="module")
def one_device():
    return _run(1)


@pytest.fixture(scope="module")
def eight_devices():
    return _run(8)


@pytest.mark.slow
def test_eight_devices_compute_what_one_computes(one_device, eight_devices):
    """Without distortions, golden_training_test compares three devices with PyTorch."""
    state, history, *_ = one_device
    sharded_state, sharded_history, *_ = eight_devices
    for metrics, sharded in zip(history, sharded_history, strict=True):
        np.testing.assert_allclose(sharded["loss"], metrics["loss"], rtol=1e-5)
    # Not the momentum: where a distortion leaves flat areas, rounding decides which of
    # equal values a pooling window passes its gradient to.
    for field in ("params", "batch_stats"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
            getattr(sharded_state, field),
            getattr(state, field),
        )


@pytest.mark.slow
def test_what_eight_devices_exchange_in_a_step(eight_devices):
    state, _, _, step = eight_devices
    batch = sharding.put_batch(_batch(0), _mesh(8))
    key = train_step.run_key(27, _mesh(8))
    program = step.lower(state, batch, key).compile()
    found = scaling.collectives(program.as_text())
    assert {one.kind for one in found} == {"all-reduce", "all-gather"}
    *small, gradients = sorted(one.bytes for one in found if one.kind == "all-reduce")
    parameters, statistics = (
        4 * sum(leaf.size for leaf in jax.tree.leaves(tree))
        for tree in (state.params, state.batch_stats)
    )
    # Once, all of them together, though two views have gone through every layer.
    np.testing.assert_allclose(gradients, parameters, rtol=0.01)
    # Two numbers per channel of a layer, of two views, there and back; and scalars.
    assert 4 * statistics <= sum(small) < 4 * statistics + 64
    # The embeddings, and two numbers for each of their rows; no images.
    gathers = [one.shapes for one in found if one.kind == "all-gather"]
    assert gathers == [((4 * _PAIRS, 16),), ((4 * _PAIRS, 2),)]


def test_the_step_learns(one_device):
    state, history, *_ = one_device
    assert state.step == 5
    assert set(history[0]) == {*train_step.METRICS, "stop"}
    assert all(metrics["nonfinite"] == 0 for metrics in history)
    assert all(metrics["learning_rate"] == np.float32(1e-3) for metrics in history)
    assert [metrics["bad_photos"] for metrics in history] == [0, 16, 32, 48, 64]
    assert [metrics["stop"] for metrics in history] == [0, 0, 0, 75, 0]
    # The statistics were updated twice a step, from 0 and 1.
    assert np.abs(state.batch_stats["encoder"]["bn1"]["mean"]).min() > 0


def test_the_compiled_step_holds_one_copy_of_the_state(one_device):
    state, _, preview, step = one_device
    arguments = state, _batch(0), train_step.run_key(27, _mesh(1))
    memory = step.lower(*arguments).compile().memory_analysis()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert size > 100_000
    assert memory.alias_size_in_bytes >= size
    # The other outputs are the preview and the metrics.
    fresh = memory.output_size_in_bytes - memory.alias_size_in_bytes
    assert fresh < preview.images.nbytes + 4096


@pytest.mark.slow
def test_the_preview_is_what_the_step_saw(one_device):
    *_, preview, _ = one_device
    degrade = jax.jit(functools.partial(train_step.degrade, **_OPTIONS))
    crops, expected = degrade(jax.random.key(27), _batch(4))
    np.testing.assert_array_equal(preview.images, expected.images)
    np.testing.assert_array_equal(preview.chains.ops, expected.chains.ops)
    assert preview.images.shape == (train_step.PREVIEW_PAIRS, 2, 2, _SIZE, _SIZE, 3)
    assert crops.min() >= 0 and crops.max() <= 1


@pytest.fixture(scope="module")
def preview_of(one_device):
    """The preview of a batch by the compiled step: of its first four pairs."""
    state, _, _, step = one_device

    def preview(batch):
        # The step takes the memory of the state that it is given.
        _, _, preview = step(jax.tree.map(jnp.array, state), batch, run_key)
        return jax.device_get(preview)

    run_key = train_step.run_key(27, _mesh(1))
    return preview


def test_a_pair_depends_on_its_seed_and_not_on_its_place(preview_of):
    batch = _batch(0)
    order = np.array([2, 0, 3, 1, *range(_PAIRS - 1, 3, -1)])
    moved = preview_of({name: value[order] for name, value in batch.items()})
    np.testing.assert_array_equal(moved.images, preview_of(batch).images[order[:4]])


def test_all_crops_of_a_pair_share_the_chain(preview_of):
    """Equal crops under deterministic distortions stay equal; pairs differ."""
    batches = [_batch(k) for k in range(6)]
    for batch in batches:
        batch["images"][:] = batches[0]["images"][0, 0, 0]
    crops, chains = jax.tree.map(
        lambda *x: np.concatenate(x), *map(preview_of, batches)
    )
    names = list(degradation.CATALOGUE)
    random = {
        "motion_blur", "color_shift", "white_noise", "white_noise_color_component",
        "impulse_noise", "multiplicative_noise", "jitter", "non_eccentricity_patch",
        "color_block",
    }  # fmt: skip
    same = {
        n: all(names[op] not in random for op in chains.ops[n] if op >= 0)
        for n in range(len(crops))
    }
    assert any(same.values()) and not all(same.values())
    equal = {n: bool((crops[n] == crops[n, :1, :1]).all()) for n in same}
    for n in same:
        described = degradation.describe(chains.ops[n], chains.levels[n])
        assert equal[n] or not same[n], described
    # A random distortion may change less than a step of 8 bits at its lowest level.
    drawn = [equal[n] for n in same if not same[n]]
    assert sum(drawn) < len(drawn) / 4


@pytest.mark.slow
def test_chunks_change_only_what_batch_norm_sees():
    """With two chunks: the gradient of the loss over all embeddings of both."""
    optimizer = optimizers.optimizer(
        name="sgd", schedule=_SCHEDULE, momentum=0.9, weight_decay=1e-4
    )
    state = _state(optimizer)
    views = jax.random.uniform(jax.random.key(3), (2, 8, 32, 32, 3))
    contrast, statistics, grads = jax.jit(
        lambda s, v: train_step._gradients(_MODEL, s, *v, losses.contrast, 2)
    )(state, views)

    def directly(params):
        # Pairs 0 and 2, then 1 and 3; two rows (scales) a pair.
        chunks = [np.array([0, 1, 4, 5]), np.array([2, 3, 6, 7])]
        order = np.argsort(np.concatenate(chunks))
        batch_stats, embeddings = state.batch_stats, []
        for rows in chunks:
            *z, batch_stats = simclr.embed_views(
                _MODEL, params, batch_stats, views[0][rows], views[1][rows]
            )
            embeddings.append(z)
        a, b = (jnp.concatenate(z)[order] for z in zip(*embeddings, strict=True))
        contrast = losses.contrast(a, b)
        return contrast.loss, (contrast, batch_stats)

    expected_grads, expected = jax.jit(jax.grad(directly, has_aux=True))(state.params)
    np.testing.assert_allclose(contrast.loss, expected[0].loss, rtol=1e-5)
    for got, wanted in (((contrast, statistics), expected), (grads, expected_grads)):
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), got, wanted
        )
