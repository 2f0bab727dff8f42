"""The parsers of `benchmarks/accelerators.py` on recorded text, and the drawn chains.

The snippets come from libtpu 0.0.42 and the CUDA plugin of JAX 0.10.2, shortened to
what the parsers read.
"""

import pathlib
import sys
import time

import jax
import numpy as np
import pytest

sys.path.append(str(pathlib.Path(__file__).parents[1] / "benchmarks"))

from accelerator import bundles, costs, draws, hlo, targets

from arniqa_jax import degradation
from arniqa_jax.degradation import jitter
from arniqa_jax.degradation.catalogue import CATALOGUE
from configs import pretrain

ROOT = pathlib.Path(__file__).parents[1]
CHIP = targets.CHIPS["v5e"]
# A loop of 5 iterations, a loop whose trip count is data, a conditional, a fusion that
# reads a slice and one that changes a slice in place.
PROGRAM = """\
HloModule jit_step, is_scheduled=true

%sliced (p0: f32[100,8,128], p1: s32[]) -> f32[1,8,128] {
  %p0 = f32[100,8,128]{2,1,0:T(8,128)} parameter(0)
  %p1 = s32[]{:T(128)S(6)} parameter(1)
  %zero = s32[] constant(0)
  ROOT %ds = f32[1,8,128]{2,1,0:T(8,128)} dynamic-slice(%p0, %p1, %zero, %zero), \
dynamic_slice_sizes={1,8,128}
}

%updated (q0: f32[100,8,128], q1: f32[1,8,128], q2: s32[]) -> f32[100,8,128] {
  %q0 = f32[100,8,128]{2,1,0:T(8,128)} parameter(0)
  %q1 = f32[1,8,128]{2,1,0:T(8,128)} parameter(1)
  %q2 = s32[]{:T(128)S(6)} parameter(2)
  %none = s32[] constant(0)
  ROOT %dus = f32[100,8,128]{2,1,0:T(8,128)} dynamic-update-slice(%q0, %q1, %q2, \
%none, %none)
}

%fixed (c: (s32[], f32[100,8,128])) -> pred[] {
  %c = (s32[], f32[100,8,128]{2,1,0:T(8,128)}) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  %five = s32[] constant(5)
  ROOT %less = pred[] compare(%i, %five), direction=LT
}

%fixed_body (b: (s32[], f32[100,8,128])) -> (s32[], f32[100,8,128]) {
  %b = (s32[], f32[100,8,128]{2,1,0:T(8,128)}) parameter(0)
  %bi = s32[] get-tuple-element(%b), index=0
  %bx = f32[100,8,128]{2,1,0:T(8,128)} get-tuple-element(%b), index=1
  %read = f32[1,8,128]{2,1,0:T(8,128)} fusion(%bx, %bi), kind=kLoop, calls=%sliced, \
metadata={op_name="jit(step)/jvp(SimCLR)/encoder/layer2_0/conv1/read"}
  %write = f32[100,8,128]{2,1,0:T(8,128)} fusion(%bx, %read, %bi), kind=kLoop, \
calls=%updated, backend_config={"estimated_cycles":"1500"}
  ROOT %bt = (s32[], f32[100,8,128]{2,1,0:T(8,128)}) tuple(%bi, %write)
}

%open (d: (s32[], s32[])) -> pred[] {
  %d = (s32[], s32[]) parameter(0)
  %di = s32[] get-tuple-element(%d), index=0
  %dn = s32[] get-tuple-element(%d), index=1
  ROOT %dless = pred[] compare(%di, %dn), direction=LT
}

%open_body (e: (s32[], s32[])) -> (s32[], s32[]) {
  %e = (s32[], s32[]) parameter(0)
  ROOT %et = (s32[], s32[]) copy(%e)
}

%left (l: f32[8,128]) -> f32[8,128] {
  %l = f32[8,128]{1,0:T(8,128)} parameter(0)
  ROOT %lcopy = f32[8,128]{1,0:T(8,128)} copy(%l)
}

%right (r: f32[8,128]) -> f32[8,128] {
  ROOT %r = f32[8,128]{1,0:T(8,128)} parameter(0)
}

ENTRY %main (a: f32[100,8,128], n: s32[], w: f32[8,128]) -> f32[8,128] {
  %a = f32[100,8,128]{2,1,0:T(8,128)} parameter(0)
  %n = s32[] parameter(1)
  %w = f32[8,128]{1,0:T(8,128)} parameter(2)
  %t = (s32[], f32[100,8,128]{2,1,0:T(8,128)}) tuple(%n, %a)
  %loop = (s32[], f32[100,8,128]{2,1,0:T(8,128)}) while(%t), condition=%fixed, \
body=%fixed_body
  %u = (s32[], s32[]) tuple(%n, %n)
  %data = (s32[], s32[]) while(%u), condition=%open, body=%open_body
  %ar-start = f32[8,128]{1,0:T(8,128)} all-reduce-start(%w), to_apply=%add
  %grown = bf16[3,300]{1,0:T(8,128)(2,1)S(1)} fusion(%w), kind=kLoop, calls=%right
  %ar-done = f32[8,128]{1,0:T(8,128)} all-reduce-done(%ar-start)
  %ag = f32[16,128]{1,0:T(8,128)} all-gather(%w), dimensions={0}
  ROOT %either = f32[8,128]{1,0:T(8,128)} conditional(%n, %w, %ar-done), \
branch_computations={%left, %right}
}
"""


@pytest.fixture(scope="module")
def program():
    return hlo.Program(PROGRAM)


def times(program, **weights):
    return {item.operation.name: item.times for item in program.executed(**weights)}


def test_loops_and_branches_run_as_often_as_they_say(program):
    ran = times(
        program,
        mean_trips=lambda loop, inside: 2.5,
        branch_weights=lambda conditional, count, inside: [("x", 0.25), ("y", 0.75)],
    )
    assert (ran["read"], ran["write"], ran["et"]) == (5, 5, 2.5)
    assert (ran["lcopy"], ran["grown"]) == (0.25, 1)
    assert "ds" not in ran  # inside of a fusion: not launched


def test_bytes_are_what_goes_through_hbm(program):
    bytes_of = {
        item.operation.name: program.bytes(item.operation, item.computation)
        for item in program.executed()
    }
    row = 8 * 128 * 4
    assert bytes_of["read"] == 2 * row + 4
    # The slice is read and written; the rest of the array stays where it is.
    assert bytes_of["write"] == 2 * row + 4
    assert bytes_of["grown"] == row  # its result, S(1), stays in the core
    assert bytes_of["lcopy"] == 2 * row
    assert bytes_of["loop"] == bytes_of["a"] == bytes_of["ar-done"] == 0


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("f32[100]{0}", 400),
        ("bf16[3,300]{1,0:T(8,128)(2,1)}", 8 * 384 * 2),
        ("bf16[300,3]{0,1:T(4,128)(2,1)}", 4 * 384 * 2),
        ("f32[2,5,7,3]{2,3,1,0:T(8,128)}", 2 * 5 * 8 * 128 * 4),
        ("(f32[8,128]{1,0:T(8,128)S(1)}, u32[]{:S(2)}, pred[10]{0})", 10),
        ("f8e4m3fn[16]{0}", 16),
        ("f32[]", 4),
    ],
)
def test_arrays_are_padded_to_their_tiles(written, size):
    assert hlo.size_in_hbm(written) == size


def test_collectives_have_bytes_and_may_overlap(program):
    found = costs.collectives(program, CHIP, 8)
    one = 8 * 128 * 4
    reduced, gathered = found["all-reduce"], found["all-gather"]
    assert (reduced.count, reduced.bytes, reduced.overlapped) == (1, one, 1)
    assert (gathered.count, gathered.bytes, gathered.overlapped) == (1, one, 0)
    # 7 of 8 parts are sent twice, at 100 GB/s in one direction.
    np.testing.assert_allclose(reduced.seconds, 2 * 7 / 8 * one / 100e9)
    np.testing.assert_allclose(gathered.seconds, 7 * one / 100e9)


def test_time_is_the_larger_of_bundles_and_bytes(program):
    parts = costs.by_part(
        program, CHIP, costs.part_of, {"read": 15_000.0, "write": 1.0}
    )
    stage = parts["encoder forward: stage 2"]
    assert (stage.bundles, stage.launches, stage.unlisted) == (75_000, 5, 0)
    np.testing.assert_allclose(stage.seconds, 5 * 15_000 / 1.5e9)
    # The rest is bound by its bytes: one bundle, and no trust in estimated cycles.
    rest = parts["moved ahead, source unknown"]
    np.testing.assert_allclose(rest.seconds, rest.bytes / 819e9)


@pytest.mark.parametrize(
    ("path", "inside", "part"),
    [
        (
            "jit(step)/jvp(SimCLR)/encoder/layer1_0/conv1/x",
            "",
            "encoder forward: stage 1",
        ),
        (
            "jit(step)/transpose(jvp(SimCLR))/encoder/layer4_2/bn3/mul",
            "",
            "encoder backward: stage 4",
        ),
        (
            "jit(step)/transpose(jvp(SimCLR))/encoder/conv1/x",
            "",
            "encoder backward: stem",
        ),
        (
            "jit(loss)/jvp(PlainSimCLR)/_Bottleneck_7/Conv_0/x",
            "",
            "encoder forward: stage 3",
        ),
        ("jit(step)/jvp(SimCLR)/projector_0/dot_general", "", "projector forward"),
        ("jit(step)/transpose(jvp(shard_map))/all_gather", "", "loss"),
        ("jit(step)/jit(_apply)/while/body/gather", "", "degradation: dispatch"),
        ("jit(step)/jit(_apply)/while/body/mul", "jitter", "degradation: jitter"),
        ("jit(step)/mul", "", "optimizer and the rest"),
        ("", "", "moved ahead, source unknown"),
    ],
)
def test_parts_come_from_the_path(path, inside, part):
    assert costs.part_of(path, inside) == part


def test_bundles_count_their_loops():
    listing = """\
 0x0   : > { %s1 = smov 0 }
 0x1   : > { %v1 = vld } // Start region 7
 0x2 LB: > { %p3 = scmp.ge.s32.totalorder %s1, 10 }
 0x3   : > { %4 = sbr.rel (!%p3) target = $region7 }
 0x4   : > { %5 = vst }
a note, no bundle
"""
    assert bundles.count(listing) == 2 + 3 * 10
    # The first and the last trip of a software pipeline do not run its body.
    assert bundles.count(listing + " 0x5 : > { %6 = iter bound }\n") == 3 + 3 * 8


def test_equal_operations_share_a_listing(tmp_path):
    (tmp_path / "17-fusion.3-66-final_bundles.txt").write_text(" 0x0   : > { }\n")
    (tmp_path / "17-fusion.3-66-schedule-analysis_final_bundles.txt").write_text("x")
    (tmp_path / "17-TLP-00-deduplication-map.txt").write_text(
        "key:fusion.3\nordinal:1\nequivalent_hlos[size=2]:\n  fusion.3\n  fusion.9\n"
    )
    assert bundles.read(tmp_path) == {"fusion.3": 1, "fusion.9": 1}


def test_other_dumps_are_swept(tmp_path):
    (tmp_path / "old-1-final_bundles.txt").write_text("of an earlier program")
    with bundles.swept(tmp_path):
        (tmp_path / "17-fusion.3-12-llo.txt").write_text("large")
        kept = tmp_path / "17-fusion.3-66-final_bundles.txt"
        kept.write_text(" 0x0 : > { }\n")
        for _ in range(100):
            if len(list(tmp_path.iterdir())) == 1:
                break
            time.sleep(0.05)
    assert list(tmp_path.iterdir()) == [kept]


@pytest.mark.parametrize("changes", [{}, {"max_distortions": 7, "pristine_prob": 0.5}])
def test_applications_are_those_of_drawn_chains(changes):
    config = pretrain.get_config()
    config.degradation.update(changes)
    options = dict(**config.degradation)
    options.pop("tile")
    samples = 40_000
    keys = jax.random.split(jax.random.key(5), samples)
    chains = jax.device_get(degradation.draw_chains(keys, **options))
    drawn = draws.of_config(config)
    used = chains.ops >= 0
    counts = np.bincount(chains.ops[used], minlength=len(CATALOGUE)) / samples
    expected = np.array(list(drawn.applications.values()))
    # Each count is a mean of 0 or 1 over the samples: five standard deviations.
    assert (abs(counts - expected) < 5 * np.sqrt(expected / samples)).all()
    levels = np.bincount(chains.levels[used]) / used.sum()
    np.testing.assert_allclose(levels, drawn.levels, atol=5 * 0.5 / samples**0.5)


def test_mean_trips_are_those_of_the_levels():
    drawn = draws.of_config(pretrain.get_config())
    np.testing.assert_allclose(drawn.length, 2.375)
    weights = np.exp(-((np.arange(5) / 2.5) ** 2) / 2)
    patches = (weights * [20, 40, 60, 80, 100]).sum() / weights.sum()
    np.testing.assert_allclose(drawn.mean_trips("non_eccentricity_patch"), patches)
    shares = drawn.branch_shares("jitter", len(jitter.WINDOWS))
    np.testing.assert_allclose(sum(shares), 1)
    # The smallest window takes levels 1 and 2, each other window takes one level.
    np.testing.assert_allclose(shares[1:], drawn.levels[2:])


@pytest.mark.parametrize("tile", [1, 4])
def test_mean_tiles_are_those_of_drawn_chains(tile):
    config = pretrain.get_config()
    keys = jax.random.split(jax.random.key(1), 16 * 1000)
    ops = np.asarray(degradation.draw_chains(keys).ops).reshape(1000, 16, 4)
    counts = (ops[..., None] == np.arange(len(CATALOGUE))).sum(1)
    seen = (-(-counts // tile)).sum(-1).mean()
    np.testing.assert_allclose(draws.mean_tiles(config, 16, tile), seen, rtol=0.02)
