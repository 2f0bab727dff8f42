"""Miniature copies of the labelled datasets in their owners' layouts, and an encoder.

Quirks of the originals are kept: mixed letter case, spaces and parentheses, the same
file name in several folders, training images that do not belong to a dataset. Images
are noise whose amplitude determines the score, so that an encoder of pixel statistics
predicts the scores in part.
"""

import csv
import dataclasses
import hashlib
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import openpyxl
import scipy.io
from PIL import Image

from arniqa_jax.datasets import catalogue

CONTENTS = 10  # reference photographs of each synthetic dataset
AUTHENTIC_IMAGES = 40


@dataclasses.dataclass(frozen=True)
class PixelStatistics:
    """A stand-in for an encoder: fixed projections of means and deviations."""

    variables: Any
    name: str = "pixels"
    patch_size: int = 32
    feature_dim: int = 6
    pooling: str = "mean"

    def apply(self, variables, images):
        return self.embed(self.fold(variables), images.astype(jnp.float32) / 255)

    def fold(self, variables):
        return variables

    def embed(self, variables, x):
        steps = jnp.abs(x[:, 1:] - x[:, :-1]).mean((1, 2))
        pooled = jnp.concatenate([x.mean((1, 2)), x.std((1, 2)), steps], axis=-1)
        features = jnp.tanh(pooled @ variables["w"])
        return features / (1e-6 + jnp.linalg.norm(features, axis=-1, keepdims=True))

    @property
    def fingerprint(self):
        return hashlib.sha256(np.asarray(self.variables["w"]).tobytes()).hexdigest()


def encoder(seed: int = 0, name: str = "pixels") -> PixelStatistics:
    w = 2 * jax.random.normal(jax.random.key(seed), (9, PixelStatistics.feature_dim))
    return PixelStatistics({"w": w}, name)


class _Painter:
    """Writes images and gives each a score that its noise explains in part."""

    def __init__(self, seed: int):
        self._rng = np.random.default_rng(seed)

    def paint(self, path: pathlib.Path) -> float:
        """Writes a 40 x 48 image; returns a quality of about 0..1, higher is better."""
        path.parent.mkdir(parents=True, exist_ok=True)
        quality = self._rng.uniform()
        noise = self._rng.normal(size=(40, 48, 3)) * 90 * (1 - quality)
        pixels = np.clip(self._rng.uniform(80, 170) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path)
        return float(np.clip(quality + self._rng.normal() * 0.1, 0, 1))


def write_all(root: pathlib.Path) -> dict[str, int]:
    """Write every dataset below `root`; return the number of images of each."""
    writers = (live, csiq, tid2013, kadid10k, flive, spaq, clive, koniq10k)
    writers += (koniq10k_official, biq2021, uhd_iqa, pipal)
    names = tuple(catalogue.DATASETS)
    return {
        name: write(root, _Painter(seed))
        for seed, (name, write) in enumerate(zip(names, writers, strict=True))
    }


def use_counts(monkeypatch, counts: dict[str, int]) -> None:
    """Set the published numbers of images to those of the miniatures."""
    for name, count in counts.items():
        known = dataclasses.replace(catalogue.DATASETS[name], images=count)
        monkeypatch.setitem(catalogue.DATASETS, name, known)


def write_csv(path: pathlib.Path, header: str, rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header.split(","))
        writer.writerows(rows)


_UNIFIED = "dis_img_path,dis_type,ref_img_path,score"


def live(root, painter):
    # The same names in all five folders; DMOS beyond 1..100.
    folder, rows = root / "live", []
    for content in range(CONTENTS):
        painter.paint(folder / "refimgs" / f"Ref{content}.bmp")
    for kind in ("jp2k", "jpeg", "wn", "gblur", "fastfading"):
        for number in range(2 * CONTENTS):
            quality = painter.paint(folder / kind / f"img{number + 1}.bmp")
            reference = f"LIVE/refimgs/ref{number % CONTENTS}.bmp"
            path = f"LIVE/{kind}/img{number + 1}.bmp"
            rows.append([path, kind, reference, 112 - 115 * quality])
    write_csv(folder / "LIVE.txt", _UNIFIED, rows)
    return len(rows)


def csiq(root, painter):
    # Folders in another letter case than in the table.
    folder, rows = root / "CSIQ", []
    for content in range(CONTENTS):
        painter.paint(folder / "src_imgs" / f"p{content}.png")
    for kind in ("AWGN", "BLUR", "contrast", "fnoise", "JPEG", "jpeg2000"):
        for content in range(CONTENTS):
            for level in (1, 2):
                file = f"p{content}.{kind}.{level}.png"
                quality = painter.paint(folder / "dst_imgs" / kind.lower() / file)
                path = f"CSIQ/dst_imgs/{kind}/{file}"
                reference = f"CSIQ/src_imgs/p{content}.png"
                rows.append([path, kind, reference, 1 - quality])
    write_csv(folder / "csiq.TXT", _UNIFIED, rows)
    return len(rows)


def tid2013(root, painter):
    # `I01` in the table, `i01` on disk, and references in capitals.
    folder, lines = root / "TID2013", []
    for content in range(1, CONTENTS + 1):
        painter.paint(folder / "reference_images" / f"I{content:02}.BMP")
        for kind in range(1, 25):
            for level in (1, 5):
                file = f"i{content:02}_{kind:02}_{level}.bmp"
                quality = painter.paint(folder / "distorted_images" / file)
                name = file.upper().replace("BMP", "bmp") if kind % 2 else file
                lines.append(f"{9 * quality:.5f} {name}")
    (folder / "mos_with_names.txt").write_text("\n".join(lines) + "\n")
    return len(lines)


def kadid10k(root, painter):
    folder, rows = root / "kadid10k", []
    for content in range(1, CONTENTS + 1):
        painter.paint(folder / "images" / f"I{content:02}.png")
        for kind in range(1, 26):
            for level in (1, 5):
                file = f"I{content:02}_{kind:02}_{level:02}.png"
                quality = painter.paint(folder / "images" / file)
                rows.append([file, f"I{content:02}.png", 1 + 4 * quality, 0.5])
    write_csv(folder / "dmos.csv", "dist_img,ref_img,dmos,var", rows)
    return len(rows)


def flive(root, painter):
    folder, rows = root / "FLIVE", []
    for number in range(AUTHENTIC_IMAGES):
        source = ("voc_emotic_ava", "EE371R", "blur_dataset")[number % 3]
        file = f"cj{number}+019 (x).jpg"
        quality = painter.paint(folder / "database" / source / file)
        rows.append([f"{source}/{file}", 100 * quality])
    write_csv(folder / "labels_image.csv", "name,mos", rows)
    return len(rows)


def spaq(root, painter):
    folder = root / "SPAQ"
    book = openpyxl.Workbook()
    book.active.append(["Image name", "MOS", "Brightness"])
    for number in range(AUTHENTIC_IMAGES):
        file = f"{number:05}.jpg"
        quality = painter.paint(folder / "TestImage" / file)
        book.active.append([file, 100 * quality, 50.0])
    (folder / "Annotations").mkdir()
    book.save(folder / "Annotations" / "MOS and Image attribute scores.xlsx")
    return AUTHENTIC_IMAGES


def clive(root, painter):
    folder = root / "Clive"
    names, scores = [], []
    for number in range(7):
        name = f"t{number + 1}.bmp"
        painter.paint(folder / "Images" / "trainingImages" / name)
        names.append(name)
        scores.append(50.0)
    for number in range(AUTHENTIC_IMAGES):
        name = f"{number + 3}.{'bmp' if number % 2 else 'JPG'}"
        scores.append(100 * painter.paint(folder / "Images" / name))
        names.append(name)
    cells = np.empty((len(names), 1), object)
    cells[:, 0] = names
    (folder / "Data").mkdir()
    images = {"AllImages_release": cells}
    scipy.io.savemat(folder / "Data" / "AllImages_release.mat", images)
    mos = {"AllMOS_release": np.array([scores])}
    scipy.io.savemat(folder / "Data" / "AllMOS_release.mat", mos)
    return AUTHENTIC_IMAGES


def koniq10k(root, painter):
    # Both sizes are there: the smaller one counts, and of the scores MOS_zscore.
    folder, rows = root / "KonIQ-10k", []
    for number in range(AUTHENTIC_IMAGES):
        file = f"{10004473376 + number}.jpg"
        painter.paint(folder / "1024x768" / file)
        quality = painter.paint(folder / "512x384" / file)
        rows.append([file, 105, 1 + 4 * quality, 0.5, 100 * quality])
    header = "image_name,c_total,MOS,SD,MOS_zscore"
    write_csv(folder / "koniq10k_scores_and_distributions.csv", header, rows)
    return len(rows)


def koniq10k_official(root, painter):
    # The table of the official split, of the same images and scores.
    folder, rows = root / "KonIQ-10k", []
    with open(folder / "koniq10k_scores_and_distributions.csv") as file:
        for number, row in enumerate(csv.DictReader(file)):
            part = ("training", "training", "validation", "test")[number % 4]
            rows.append([row["image_name"], 105, row["MOS_zscore"], 9.5, part])
    header = "image_name,c_total,MOS,SD,set"
    write_csv(folder / "koniq10k_distributions_sets.csv", header, rows)
    return len(rows)


def uhd_iqa(root, painter):
    folder, rows = root / "UHD-IQA", []
    for number in range(AUTHENTIC_IMAGES):
        part = ("training", "training", "validation", "test")[number % 4]
        quality = painter.paint(folder / part / f"{number}.png")
        rows.append([f"{number}.png", quality, part, "a, quoted cell"])
    header = "image_name,quality_mos,set,user_name"
    write_csv(folder / "uhd-iqa-metadata.csv", header, rows)
    return len(rows)


def pipal(root, painter):
    # The distorted images lie in four folders, the scores in a file for each reference.
    folder, count = root / "PIPAL", 0
    (folder / "Train_Label").mkdir(parents=True)
    (folder / "Train_Label" / "._A0000.txt").write_bytes(b"\x00\x05\x16\x07")
    for content in range(CONTENTS):
        painter.paint(folder / "Train_Ref" / f"A{content:04}.bmp")
        lines = []
        for number in range(6):
            file = f"A{content:04}_{number // 3:02}_{number % 3:02}.bmp"
            place = folder / f"Distortion_{1 + number % 4}"
            lines.append(f"{file},{1000 + 800 * painter.paint(place / file):.4f}")
        (folder / "Train_Label" / f"A{content:04}.txt").write_text("\n".join(lines))
        count += len(lines)
    return count


def live_release(folder, sizes):
    """Write the MATLAB files of LIVE from its unified table.

    Of the `sizes` images of a folder, those that are not in the table are copies.
    """
    with open(folder / "LIVE.txt") as file:
        score_of = {row["dis_img_path"]: row for row in csv.DictReader(file)}
    dmos, copies, names = [], [], []
    for kind, size in sizes.items():
        rows = {
            int(path.rpartition("img")[2].removesuffix(".bmp")): row
            for path, row in score_of.items()
            if path.split("/")[-2] == kind
        }
        for number in range(1, size + 1):
            row = rows.get(number)
            dmos.append(float(row["score"]) if row else 0.0)
            copies.append(row is None)
            name = row["ref_img_path"].rpartition("/")[2] if row else "ref0.bmp"
            names.append(name)
    cells = np.empty((1, len(names)), object)
    cells[0] = [np.array([name]) for name in names]
    scipy.io.savemat(
        folder / "dmos_realigned.mat",
        {"dmos_new": np.array([dmos]), "orgs": np.array([copies], np.uint8)},
    )
    scipy.io.savemat(folder / "refnames_all.mat", {"refnames_all": cells})


def csiq_release(folder):
    """Write `csiq.DMOS.xlsx` from the unified table of CSIQ, by image."""
    (table,) = (p for p in folder.iterdir() if p.name.lower() == "csiq.txt")
    types = {"awgn": "noise", "jpeg2000": "jpeg 2000"}
    rows = []
    with open(table) as file:
        for row in csv.DictReader(file):
            image, kind, level, _ = row["dis_img_path"].rpartition("/")[2].split(".")
            kind = types.get(kind.lower(), kind.lower())
            # `1600` is a number in the workbook.
            image = int(image) if image.isdigit() else image
            cells = (image, 0, kind, int(level), 0.1, float(row["score"]))
            rows.append((None, None, None, *cells))
    rows.sort(key=lambda row: (str(row[3]), row[5], row[6]))
    book = openpyxl.Workbook()
    book.active.title = "overview"
    sheet = book.create_sheet("all_by_image")
    sheet.append(["CSIQ"])
    names = ("image", "dst_idx", "dst_type", "dst_lev", "dmos_std", "dmos")
    sheet.append([None, None, None, *names])
    for row in rows:
        sheet.append(row)
    book.save(folder / "csiq.DMOS.xlsx")


def biq2021(root, painter):
    folder = root / "biq2021"
    parts = {"Train": [], "Test": []}
    for number in range(AUTHENTIC_IMAGES):
        file = f"ss01 ({number}).jpg"
        quality = painter.paint(folder / "Images" / file)
        parts["Test" if number % 5 == 4 else "Train"].append([file, f"{quality:.4f}"])
    for part, rows in parts.items():
        write_csv(folder / f"{part} (Images and MOS).csv", "Image Name,MOS", rows)
    return AUTHENTIC_IMAGES
