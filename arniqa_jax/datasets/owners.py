"""Readers of label files as the owners of the datasets distribute them."""

import contextlib
import dataclasses
import io
import pathlib

import numpy as np

from arniqa_jax import errors
from arniqa_jax.data import folders
from arniqa_jax.datasets import labels, text_table
from arniqa_jax.datasets.labels import Label
from arniqa_jax.storage.bucket_paths import AnyPath

# Folders of LIVE in the order of its MATLAB files, with their numbers of images.
LIVE_FOLDERS = {"jp2k": 227, "jpeg": 233, "wn": 174, "gblur": 174, "fastfading": 174}
# Distortions in CSIQ's workbook -> in its file names, in the order of `dst_idx`.
_CSIQ_TYPES = {
    "noise": "AWGN",
    "jpeg": "JPEG",
    "jpeg_2000": "jpeg2000",
    "fnoise": "fnoise",
    "blur": "BLUR",
    "contrast": "contrast",
}


def read_live(path: AnyPath) -> list[Label]:
    """Read `dmos_realigned.mat` and `refnames_all.mat` in the same folder.

    Both list the images of the five folders, `img1.bmp` to `imgN.bmp`, one folder after
    the other. `orgs` marks copies of the references, which are left out. If a folder
    has an `info.txt` (`rapids.bmp img3.bmp 0.85`), the names of the references are
    compared with it.

    Raises:
      DatasetError: a file is missing or damaged, or the files contradict each other.
    """
    names_path = _sibling(path, "refnames_all.mat")
    dmos = _mat_array(path, "dmos_new")
    is_copy = _mat_array(path, "orgs")
    names = [str(_only(cell)) for cell in _mat_array(names_path, "refnames_all")]
    images = [
        (folder, f"img{number}.bmp")
        for folder, count in LIVE_FOLDERS.items()
        for number in range(1, count + 1)
    ]
    if not len(dmos) == len(is_copy) == len(names) == len(images):
        raise errors.DatasetError(
            f"{path}: expected {len(images)} images, found {len(dmos)} scores, "
            f"{len(is_copy)} marks of references and, in {names_path.name}, "
            f"{len(names)} names"
        )
    rows = [
        Label(f"{folder}/{file}", repr(float(score)), f"refimgs/{name}")
        for (folder, file), score, copy, name in zip(
            images, dmos, is_copy, names, strict=True
        )
        if not copy
    ]
    for folder in LIVE_FOLDERS:
        _compare_with_info(path.parent, folder, rows)
    return rows


def _compare_with_info(root: AnyPath, folder: str, rows: list[Label]) -> None:
    """Raise an error if `FOLDER/info.txt` names another reference for an image."""
    info = root / folder / "info.txt"
    if not info.is_file():
        return
    reference_of = {}
    for line in info.read_text(errors="replace").splitlines():
        cells = line.lower().split()
        if len(cells) >= 2:
            reference_of[cells[1]] = cells[0]
    for row in rows:
        parent, _, file = row.image.partition("/")
        listed = reference_of.get(file.lower())
        if parent == folder and listed:
            name = row.reference.rpartition("/")[2]
            if listed != name.lower():
                raise errors.DatasetError(
                    f"{info}: {file} is a version of {listed}, but of {name} according "
                    f"to refnames_all.mat"
                )


def read_csiq(path: AnyPath) -> list[Label]:
    """Read the sheet `all_by_image` of `csiq.DMOS.xlsx`.

    The sheet has some lines of text and then the columns image, dst_idx, dst_type,
    dst_lev, dmos_std and dmos. The rows are returned by distortion, image (without `_`)
    and level, which is the order that the official splits refer to.

    Raises:
      DatasetError: the file is not a workbook with this sheet, or a distortion is
        unknown.
    """
    rows = _sheet(path, "all_by_image")
    wanted = {"image", "dst_type", "dst_lev", "dmos"}
    headers = [[text_table.normal_name(cell) for cell in cells] for cells in rows]
    above = next((i for i, names in enumerate(headers) if wanted <= set(names)), None)
    if above is None:
        raise errors.DatasetError(
            f"{path}: expected the columns {', '.join(sorted(wanted))} in the sheet "
            f"all_by_image, found none"
        )
    place = {name: headers[above].index(name) for name in wanted}
    found = []
    for number, cells in enumerate(rows[above + 1 :], start=above + 2):
        image, kind, level, score = (
            cells[place[name]] for name in ("image", "dst_type", "dst_lev", "dmos")
        )
        if image is None:
            continue
        kind = text_table.normal_name(kind)
        if kind not in _CSIQ_TYPES:
            raise errors.DatasetError(
                f"{path}: line {number}: distortion {kind!r}, expected one of "
                f"{', '.join(_CSIQ_TYPES)}"
            )
        image = str(image).removesuffix(".0")  # `1600` is a number in the workbook
        name = _CSIQ_TYPES[kind]
        file = f"{image}.{name}.{int(level)}.png"
        label = Label(file, str(score), f"{image}.png", line=number)
        order = (list(_CSIQ_TYPES).index(kind), image.replace("_", ""), int(level))
        found.append((*order, label))
    return [label for *_, label in sorted(found, key=lambda item: item[:3])]


def read_tid2013(path: AnyPath) -> list[Label]:
    """Read `mos_with_names.txt`: `5.51429 I01_01_1.bmp` per line, without a header."""
    found = []
    for number, line in enumerate(text_table.read_text(path).splitlines(), start=1):
        cells = line.split()
        if cells and len(cells) != 2:
            raise errors.DatasetError(
                f"{path}: line {number}: expected a score and a name, found {line!r}"
            )
        if cells:
            content = cells[1].partition("_")[0]
            found.append(Label(cells[1], cells[0], f"{content}.bmp", line=number))
    return found


def read_pipal(path: AnyPath) -> list[Label]:
    """Read the folder `Train_Label`: lines `A0001_00_00.bmp,1435.8` in `.txt` files.

    The first part of a name is the name of the reference in `Train_Ref`.
    """
    found = []
    # A pattern without a dot in front also matches hidden files.
    files = [file for file in path.glob("*.txt") if not folders.is_hidden(file.name)]
    for file in sorted(files):
        lines = text_table.read_text(file).splitlines()
        for number, line in enumerate(lines, start=1):
            cells = [cell.strip() for cell in line.split(",")]
            if line.strip() and len(cells) != 2:
                raise errors.DatasetError(
                    f"{file}: line {number}: expected a name and a score, found "
                    f"{line!r}"
                )
            if line.strip():
                reference = cells[0].partition("_")[0] + pathlib.Path(cells[0]).suffix
                found.append(Label(cells[0], cells[1], reference, line=number))
    return found


def read_spaq(path: AnyPath) -> list[Label]:
    """Read `MOS and Image attribute scores.xlsx`: `Image name`, `MOS` and others."""
    return labels.from_rows(path, _sheet(path), ("image name",), ("mos",))


def read_clive(path: AnyPath) -> list[Label]:
    """Read `AllImages_release.mat` and `AllMOS_release.mat` in the same folder.

    The first seven rows are the training images of the study (`t1.bmp` ... `t7.bmp`).
    They do not belong to the dataset.
    """
    scores_path = _sibling(path, "AllMOS_release.mat")
    names = _mat_array(path, "AllImages_release")
    scores = _mat_array(scores_path, "AllMOS_release")
    if len(names) != len(scores):
        raise errors.DatasetError(
            f"{path}: {len(names)} names, {scores_path.name}: {len(scores)} scores"
        )
    rows = [
        Label(str(_only(name)), str(float(score)))
        for name, score in zip(names, scores, strict=True)
    ]
    return rows[7:]


def read_biq2021(path: AnyPath) -> list[Label]:
    """Read `Train (Images and MOS).csv` and the test table in the same folder.

    The two tables are the official split.
    """
    test_path = _sibling(path, "Test (Images and MOS).csv")
    found = []
    for part, file in (("train", path), ("test", test_path)):
        rows = labels.read_table(file, image=("image name",), score=("mos",))
        found += [dataclasses.replace(label, part=part) for label in rows]
    return found


def _mat_array(path: AnyPath, key: str) -> np.ndarray:
    """Return one variable of a MATLAB file, as a flat array."""
    import scipy.io

    content = io.BytesIO(path.read_bytes())
    try:
        return scipy.io.loadmat(content)[key].ravel()
    except Exception as error:  # of many types if the file is damaged
        raise errors.DatasetError(
            f"{path}: expected a MATLAB file with the variable {key}: "
            f"{errors.one_line(error)}"
        ) from error


def _only(cell):
    """Return the text of a MATLAB cell, which contains an array of one string."""
    return cell.item() if hasattr(cell, "item") else cell


def _sheet(path: AnyPath, name: str | None = None) -> list[tuple]:
    """Return the cells of a workbook's sheet `name`, or of the active sheet."""
    import openpyxl

    content = io.BytesIO(path.read_bytes())
    try:
        book = openpyxl.load_workbook(content, read_only=True, data_only=True)
        with contextlib.closing(book):
            sheet = book[name] if name else book.active
            return list(sheet.iter_rows(values_only=True))
    except Exception as error:  # of many types if the file is damaged
        problem = errors.one_line(error).strip("'\"")
        raise errors.DatasetError(f"{path}: not a readable .xlsx: {problem}") from error


def _sibling(path: AnyPath, name: str) -> AnyPath:
    for candidate in path.parent.iterdir():
        if candidate.name.lower() == name.lower():
            return candidate
    raise errors.DatasetError(f"{path.parent}: expected {name} next to {path.name}")
