"""All readers of folders follow one rule for links, hidden files and order."""

import io
import os

import miniature
import pytest
from PIL import Image

from arniqa_jax.data import folders, photos
from arniqa_jax.datasets import csv_table, matching
from arniqa_jax.scoring import inputs

IMAGES = ["a/x.png", "a/y.png", "b.png", "linked/z.png"]


@pytest.fixture
def tree(tmp_path):
    """Images, hidden ones, a link to another folder, links that make a cycle."""
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    hidden = (".h.png", ".hidden/h.png", "__MACOSX/h.png", "a/._x.png")
    for name in ("a/x.png", "a/y.png", "b.png", *hidden):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / name)
    elsewhere.mkdir()
    Image.new("RGB", (8, 8)).save(elsewhere / "z.png")
    (root / "linked").symlink_to(elsewhere)
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "here").symlink_to(root / "a")
    (elsewhere / "back").symlink_to(root)
    return root


def test_walk_follows_links_but_no_cycle_and_leaves_out_hidden_files(tree):
    found = [(os.path.relpath(e.path, tree), e.is_folder) for e in folders.walk(tree)]
    assert found == [
        ("a", True),
        ("a/x.png", False),
        ("a/y.png", False),
        ("b.png", False),
        ("linked", True),
        ("linked/z.png", False),
    ]


def test_a_broken_link_is_a_file_and_a_hidden_root_is_walked(tmp_path):
    root = tmp_path / ".cache"
    root.mkdir()
    (root / "gone.png").symlink_to(root / "missing")
    (root / "self.png").symlink_to(root / "self.png")
    found = [(os.path.basename(e.path), e.is_folder) for e in folders.walk(root)]
    assert found == [("gone.png", False), ("self.png", False)]


def test_a_folder_that_cannot_be_listed_has_a_reason(tmp_path):
    (entry,) = folders.walk(tmp_path / "nothing")
    assert entry.reason == "unreadable: No such file or directory"


def test_pre_training_scoring_and_datasets_find_the_same_images(tree):
    source = photos.open_photos(str(tree))
    names = [source.name(i) for i in range(len(source))]
    found = inputs.find([str(tree)], io.BytesIO(), inputs.Skipped())
    scored = [item.path for item in found]
    assert scored == names == [str(tree / name) for name in IMAGES]
    index = matching._FileIndex(tree, ())
    assert index.find("z.png", 1) == ["linked/z.png"]
    assert index.find("x.png", 1) == ["a/x.png"]
    assert index.find("h.png", 1) == []


def test_a_table_in_a_folder_with_a_cycle(tree):
    rows = [[name, score] for score, name in enumerate(IMAGES)]
    miniature.write_csv(tree / "scores.csv", "image,score", rows)
    assert csv_table.open_csv(tree).images.names == tuple(IMAGES)
