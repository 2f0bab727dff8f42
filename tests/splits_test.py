"""Official split files, their validation, and seeded splits."""

import numpy as np
import pytest

from arniqa_jax import errors
from arniqa_jax.datasets import splits

# Ten images of five contents.
CONTENTS = [str(i // 2) for i in range(10)]


def _write(folder, **parts):
    folder.mkdir(exist_ok=True)
    parts = {"train": [[0, 1, 2, 3]], "val": [[4, 5]], "test": [[6, 7, 8, 9]]} | parts
    for name, indices in parts.items():
        np.save(folder / f"{name}.npy", np.array(indices))
    return folder


def test_padding_is_dropped(tmp_path):
    folder = _write(
        tmp_path,
        train=[[0, 1, -1], [-1, 2, 3]],
        val=[[4, -1], [4, 5]],
        test=[[6, -1], [8, 9]],
    )
    first, second = splits.read_official(folder, CONTENTS)
    assert first.train.tolist() == [0, 1] and first.test.tolist() == [6]
    assert second.train.tolist() == [2, 3] and second.validation.tolist() == [4, 5]


def test_one_dimensional_files_are_one_split(tmp_path):
    folder = _write(tmp_path, train=[0, 1], val=[2, 3], test=[4])
    (split,) = splits.read_official(folder, CONTENTS)
    assert split.test.tolist() == [4]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"test": [[6, 7, 12]]},
            r"test\.npy: split 0: index 12 is out of range.* 10 rows",
        ),
        ({"test": [[6, -2]]}, r"test\.npy: split 0: index -2 is out of range"),
        ({"val": [[4, 3]]}, r"val\.npy: split 0: index 3 is also in the train part"),
        ({"train": [[0, 1, 1]]}, r"train\.npy: split 0: index 1 is also in the train"),
        ({"val": [[4]], "test": [[6, 5]]}, r"index 5 shows '2', .* validation part"),
        ({"val": [[-1]]}, r"val\.npy: split 0: the part is empty"),
        ({"val": [[4], [5]]}, r"numbers of splits differ"),
        ({"val": [[0.5]]}, r"val\.npy: expected integers"),
    ],
    ids=[
        "range",
        "negative",
        "twice",
        "repeated",
        "content",
        "empty",
        "count",
        "float",
    ],
)
def test_violations_name_file_split_and_index(tmp_path, parts, message):
    folder = _write(tmp_path, **parts)
    with pytest.raises(errors.DatasetError, match=message):
        splits.read_official(folder, CONTENTS)


def test_missing_and_damaged_files(tmp_path):
    folder = _write(tmp_path)
    (folder / "val.npy").write_bytes(b"")
    with pytest.raises(errors.DatasetError, match=r"val\.npy: not a \.npy array"):
        splits.read_official(folder, CONTENTS)
    (folder / "val.npy").unlink()
    with pytest.raises(errors.DatasetError, match=r"val\.npy: missing"):
        splits.read_official(folder, CONTENTS)


def test_drawn_splits():
    contents = [f"c{i // 4}" for i in range(80)]  # 20 contents
    drawn = splits.draw(contents, seed=5)
    assert len(drawn) == 10
    for split in drawn:
        parts = list(split.parts().values())
        assert [len(part) for part in parts] == [56, 8, 16]  # 70/10/20 by content
        assert sorted(np.concatenate(parts)) == list(range(80))
        of_part = [{contents[i] for i in part} for part in parts]
        assert [len(c) for c in of_part] == [14, 2, 4]
    again = splits.draw(contents, seed=5)
    assert all((a.test == b.test).all() for a, b in zip(drawn, again, strict=True))
    other = splits.draw(contents, seed=6)
    assert any((a.test != b.test).any() for a, b in zip(drawn, other, strict=True))
    assert len({tuple(split.test) for split in drawn}) == 10


def test_too_few_contents():
    with pytest.raises(errors.DatasetError, match="at least 3 different"):
        splits.draw(["a", "b", "a"], seed=0)


def test_last_tenth_in_a_seeded_order_is_for_validation():
    parts = ["train"] * 40 + ["test"] * 10
    split = splits.from_parts(parts, seed=1)
    assert len(split.validation) == 4 and len(split.train) == 36
    expected = np.random.default_rng(1).permutation(40)[-4:]
    assert split.validation.tolist() == sorted(expected)
    assert split.test.tolist() == list(range(40, 50))
    given = splits.from_parts(["train", "validation", "test"], seed=1)
    assert given.train.tolist() == [0] and given.validation.tolist() == [1]
    with pytest.raises(errors.DatasetError, match="test part"):
        splits.from_parts(["train"] * 9, seed=1)


def test_dropped_rows_are_followed():
    split = splits.Split(np.array([0, 1, 2]), np.array([3]), np.array([4, 5]))
    moved = splits.restrict(split, np.array([0, -1, 1, 2, -1, 3]))
    assert moved.train.tolist() == [0, 1]
    assert moved.validation.tolist() == [2] and moved.test.tolist() == [3]
