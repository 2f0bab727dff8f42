"""Chains: their distribution, and a batch gives the same as each sample alone."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from scipy import stats

from arniqa_jax import degradation, errors
from arniqa_jax.degradation import chain

NAMES = list(degradation.CATALOGUE)
GROUPS = [d.group for d in degradation.CATALOGUE.values()]
GROUP_NAMES = list(dict.fromkeys(GROUPS))
DRAWS = 100_000
SAMPLES = 8


def _keys(count: int, seed: int = 0):
    return jax.random.split(jax.random.key(seed), count)


_draw = jax.jit(
    degradation.draw_chains,
    static_argnames=("max_distortions", "num_levels", "pristine_prob"),
)


def _images(count: int = SAMPLES, crops: int = 2, size: int = 48):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.random((count, crops, size, size, 3), np.float32))


def _chains(*rows) -> degradation.Chains:
    """Chains of (name, level) pairs, level from 1."""
    ops = np.full((len(rows), 4), -1, np.int32)
    levels = np.zeros((len(rows), 4), np.int32)
    for row, steps in enumerate(rows):
        for position, (name, level) in enumerate(steps):
            ops[row, position] = NAMES.index(name)
            levels[row, position] = level - 1
    return degradation.Chains(jnp.asarray(ops), jnp.asarray(levels))


@pytest.fixture(scope="module")
def drawn():
    return jax.tree.map(np.asarray, _draw(_keys(DRAWS)))


def _assert_distributed(counts, probabilities):
    counts = np.asarray(counts).ravel()
    expected = np.asarray(probabilities, float).ravel()
    expected = expected / expected.sum() * counts.sum()
    # With these fixed keys, a correct implementation stays far above this p-value.
    assert stats.chisquare(counts, expected).pvalue > 1e-6


def test_length_and_pristine_share(drawn):
    lengths = (drawn.ops >= 0).sum(1)
    assert (np.diff((drawn.ops >= 0).astype(int), axis=1) <= 0).all()
    _assert_distributed(np.bincount(lengths, minlength=5), [0.05] + [0.95 / 4] * 4)


def test_groups_are_distinct_and_their_order_is_uniform(drawn):
    group = np.array([GROUP_NAMES.index(g) for g in GROUPS])
    full = group[drawn.ops[(drawn.ops >= 0).all(1)]]
    assert all(len(set(row)) == 4 for row in full)
    index = {order: i for i, order in enumerate(itertools.permutations(range(7), 4))}
    counts = np.zeros(len(index))
    for row in full:
        counts[index[tuple(row)]] += 1
    _assert_distributed(counts, np.ones(len(index)))
    first = group[drawn.ops[drawn.ops[:, 0] >= 0, 0]]
    _assert_distributed(np.bincount(first), np.ones(7))


def test_distortions_are_uniform_in_their_group(drawn):
    counts = np.bincount(drawn.ops[drawn.ops >= 0], minlength=24)
    _assert_distributed(counts, [1 / GROUPS.count(group) for group in GROUPS])


def test_levels_fall_off_as_a_normal(drawn):
    levels = drawn.levels[drawn.ops >= 0]
    _assert_distributed(np.bincount(levels), np.exp(-(np.arange(5) ** 2) / 12.5))
    # Independent of the distortion.
    table = np.zeros((24, 5))
    np.add.at(table, (drawn.ops[drawn.ops >= 0], levels), 1)
    assert stats.chi2_contingency(table).pvalue > 1e-6


def test_other_settings():
    chains = _draw(_keys(2000), max_distortions=7, num_levels=2, pristine_prob=0)
    lengths = np.asarray((chains.ops >= 0).sum(1))
    assert chains.ops.shape == chains.levels.shape == (2000, 7)
    assert chains.ops.dtype == chains.levels.dtype == jnp.int32
    assert set(lengths) == set(range(1, 8))
    assert set(np.asarray(chains.levels).ravel()) == {0, 1}
    empty = _draw(_keys(50), pristine_prob=1.0)
    assert (np.asarray(empty.ops) == -1).all()
    for wrong in (
        {"max_distortions": 8},
        {"max_distortions": 0},
        {"num_levels": 6},
        {"pristine_prob": 1.5},
    ):
        with pytest.raises(errors.UsageError, match=next(iter(wrong))):
            degradation.draw_chains(_keys(2), **wrong)


def test_a_key_draws_the_same_chain_in_any_batch():
    keys = _keys(16)
    whole = _draw(keys)
    others = _draw(jnp.concatenate([_keys(13, seed=1), keys[5:8]]))
    np.testing.assert_array_equal(whole.ops[5:8], others.ops[13:])
    np.testing.assert_array_equal(whole.levels[5:8], others.levels[13:])


# Chains that hold every distortion, in all groups and positions, one empty.
EVERY = _chains(
    [("gaussian_blur", 3), ("jpeg", 2), ("white_noise", 1), ("brighten", 4)],
    [("jpeg2000", 2), ("color_shift", 5), ("impulse_noise", 3), ("jitter", 2)],
    [],
    [("darken", 5), ("motion_blur", 4), ("color_block", 1), ("high_sharpen", 2)],
    [("pixelate", 3), ("mean_shift", 4), ("jpeg", 5), ("color_saturation_2", 4)],
    [("linear_contrast_change", 5), ("non_eccentricity_patch", 1), ("lens_blur", 2)],
    [("quantization", 2), ("color_diffusion", 3), ("multiplicative_noise", 5)],
    [
        ("white_noise_color_component", 5),
        ("non_linear_contrast_change", 2),
        ("color_saturation_1", 3),
        ("jpeg", 1),
    ],
)


def test_every_distortion_is_in_the_chains_below():
    assert set(np.asarray(EVERY.ops).ravel()) == {-1, *range(len(NAMES))}


@functools.cache
def _everything(tile: int):
    return np.asarray(
        degradation.apply_chains(_keys(SAMPLES), _images(), EVERY, tile=tile)
    )


def test_a_chain_is_its_distortions_one_after_another():
    """Against `distort`, for the distortions that are not random."""
    steps = [[("pixelate", 3), ("mean_shift", 4), ("darken", 2)], [("lens_blur", 3)]]
    rows = _chains(*steps, *[[]] * (SAMPLES - 2))
    images = _images()
    out = degradation.apply_chains(_keys(SAMPLES), images, rows, tile=1)
    for index, chain_steps in enumerate([*steps, []]):
        expected = images[index]
        for name, level in chain_steps:
            expected = degradation.distort(
                jax.random.key(0), expected, name=name, level=level
            )
        np.testing.assert_allclose(out[index], expected, atol=1e-6)


def test_crops_share_the_chain_and_draw_apart():
    images = jnp.full_like(_images(), 0.5)
    keys = _keys(SAMPLES)
    rows = _chains(*[[("white_noise", 3)]] * SAMPLES)
    out = np.asarray(degradation.apply_chains(keys, images, rows, tile=1)) - 0.5
    residual = out.reshape(SAMPLES * 2, -1)
    np.testing.assert_allclose(residual.std(1), np.sqrt(0.003), rtol=0.05)
    correlation = np.corrcoef(residual)
    np.testing.assert_allclose(correlation, np.eye(SAMPLES * 2), atol=0.06)


def test_a_pristine_sample_is_left_alone():
    np.testing.assert_array_equal(_everything(1)[2], _images()[2])


@pytest.mark.parametrize("tile", [pytest.param(3, marks=pytest.mark.slow), 0])
def test_results_do_not_depend_on_the_tile(tile):
    difference = np.abs(_everything(tile) - _everything(1))
    # The last bit of a matmul may, and where a distortion floors to 8 bits, that may
    # move one value in ten thousand by one step.
    assert np.mean(difference > 1e-6) < 1e-4
    assert difference.max() < 1.01 / 255


def test_results_do_not_depend_on_the_place_in_the_batch():
    """Nor on its size: see the sharded test, where each device has one sample."""
    keys, images = _keys(SAMPLES), _images()
    order = np.array([6, 1, 1, 4, 0, 7, 2, 4])
    rows = jax.tree.map(lambda leaf: leaf[order], EVERY)
    out = degradation.apply_chains(keys[order], images[order], rows, tile=1)
    np.testing.assert_allclose(out, _everything(1)[order], atol=1e-6)


@pytest.mark.slow
def test_sharded_over_devices_without_a_collective():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = PartitionSpec("data")
    apply = jax.jit(
        jax.shard_map(
            functools.partial(degradation.apply_chains, tile=1),
            mesh=mesh,
            in_specs=split,
            out_specs=split,
        )
    )
    compiled = apply.lower(_keys(SAMPLES), _images(), EVERY).compile()
    text = compiled.as_text()
    assert "while" in text
    for collective in ("all-", "collective", "reduce-scatter", "send", "recv"):
        assert f" {collective}" not in text, collective
    sharding = jax.sharding.NamedSharding(mesh, split)
    arguments = jax.device_put((_keys(SAMPLES), _images(), EVERY), sharding)
    np.testing.assert_allclose(compiled(*arguments), _everything(1), atol=1e-6)


@pytest.mark.parametrize("tile", [1, 2, 5])
def test_tiles_cover_every_sample_once(tile):
    ops = jnp.array([3, -1, 3, 0, 23, 3, -1, 0, 3], jnp.int32)
    plan = jax.tree.map(np.asarray, chain._plan(ops, tile))
    done = []
    for op, rows in zip(plan.ops[: plan.count], plan.rows[: plan.count], strict=True):
        assert (ops[rows] == op).all()
        done += sorted(set(rows))
    assert sorted(done) == [0, 2, 3, 4, 5, 7, 8]
    assert plan.count == -(-4 // tile) + -(-2 // tile) + 1


def test_wrong_arguments():
    keys, images = _keys(SAMPLES), _images()

    def wrong(match, keys=keys, images=images, chains=EVERY, **options):
        with pytest.raises(errors.UsageError, match=match):
            jax.eval_shape(
                functools.partial(degradation.apply_chains, **options),
                *(keys, images, chains),
            )

    wrong("8 keys need images of shape", images=images[:3])
    wrong("8 keys need images of shape", images=images[:, 0])
    wrong("as many chains", chains=jax.tree.map(lambda leaf: leaf[:2], EVERY))
    wrong("at least 48x48", images=images[:, :, :40])
    wrong("float32", images=images.astype(jnp.bfloat16))
    wrong("tile", tile=-1)


def test_describe():
    ops, levels = np.asarray(EVERY.ops), np.asarray(EVERY.levels)
    assert degradation.describe(ops[2], levels[2]) == "pristine"
    assert degradation.describe(ops[5], levels[5]) == (
        "linear_contrast_change 5, non_eccentricity_patch 1, lens_blur 2"
    )
