"""The labelled datasets: a table of facts about each, and a function to open them.

`open_benchmark("live", root)` finds the folder of the dataset under `root` in any
letter case, reads the owner's label file or the unified table, finds every image,
compares the number of images with the published one and attaches the splits. No image
is decoded.
"""

import dataclasses
from collections.abc import Callable

from absl import logging

from arniqa_jax import errors
from arniqa_jax.datasets import distortion_names, labels, matching, owners, splits
from arniqa_jax.datasets.labelled import AUTHENTIC, SYNTHETIC, Benchmark
from arniqa_jax.storage.bucket_paths import AnyPath


@dataclasses.dataclass(frozen=True)
class Specification:
    """The published facts about a dataset.

    Attributes:
      title: name in tables.
      kind: synthetic or authentic, for the averages of the tables.
      images: published number of distorted images.
      label_file: path under the folder, as the owner distributes it.
      read: reader of `label_file`.
      unified_file: name of the unified table.
      higher_is_better: False for DMOS.
      score_range: scale of the public score; scores may leave it. None for the smallest
        and the largest score of the table.
      source: where the files come from, for error messages.
      folder: name of its folder, in any letter case; by default the title.
      image_components: number of last components of a path that identify an image.
      image_folders: if an image is in several folders, the first of these counts.
      distortion: returns type, group and level for the path of an image.
      shorter_side: images are first resized to this shorter side, in pixels.
      unified_range: scale of the scores in the unified table, if it differs.
      unified_order: whether the unified table has the rows of the official splits.
      averaged: whether the published averages include this dataset.
    """

    title: str
    kind: str
    images: int
    label_file: str
    read: Callable[[AnyPath], list[labels.Label]]
    higher_is_better: bool
    score_range: tuple[float, float] | None
    source: str
    folder: str = ""
    unified_file: str = ""
    image_components: int = 1
    image_folders: tuple[str, ...] = ()
    distortion: Callable[[str], distortion_names.Distortion | None] | None = None
    shorter_side: int = 0
    unified_range: tuple[float, float] | None = None
    unified_order: bool = True
    averaged: bool = False


def _table(
    image: str,
    *score: str,
    reference: tuple[str, ...] = (),
    part: tuple[str, ...] = (),
):
    def read(path: AnyPath) -> list[labels.Label]:
        return labels.read_table(
            path, image=(image,), score=score, reference=reference, part=part
        )

    return read


_UNIFIED_SOURCE = (
    "a table dis_img_path,dis_type,ref_img_path,score that is not part of the "
    "dataset; it comes from the authors of ARNIQA and of earlier papers"
)

DATASETS: dict[str, Specification] = {
    "live": Specification(
        title="LIVE",
        kind=SYNTHETIC,
        images=779,
        label_file="dmos_realigned.mat",
        read=owners.read_live,
        unified_file="LIVE.txt",
        higher_is_better=False,
        score_range=(1, 100),
        source="part of LIVE release 2, with refnames_all.mat (live.ece.utexas.edu)",
        image_components=2,
        distortion=distortion_names.live,
        averaged=True,
    ),
    "csiq": Specification(
        title="CSIQ",
        kind=SYNTHETIC,
        images=866,
        label_file="csiq.DMOS.xlsx",
        read=owners.read_csiq,
        unified_file="CSIQ.txt",
        higher_is_better=False,
        score_range=(0, 1),
        source="part of CSIQ (s2.smu.edu/~eclarson/csiq.html)",
        image_folders=("dst_imgs", "src_imgs"),
        distortion=distortion_names.csiq,
        averaged=True,
    ),
    "tid2013": Specification(
        title="TID2013",
        kind=SYNTHETIC,
        images=3000,
        label_file="mos_with_names.txt",
        read=owners.read_tid2013,
        unified_file="TID2013.txt",
        higher_is_better=True,
        score_range=(0, 9),
        source="part of the archive of TID2013 (ponomarenko.info/tid2013.htm)",
        image_folders=("distorted_images", "reference_images"),
        distortion=distortion_names.tid2013,
        averaged=True,
    ),
    "kadid10k": Specification(
        title="KADID10K",
        kind=SYNTHETIC,
        images=10125,
        label_file="dmos.csv",
        read=_table("dist_img", "dmos", reference=("ref_img",)),
        unified_file="KADID-10k.txt",
        higher_is_better=True,  # the column is called dmos but contains MOS
        score_range=(1, 5),
        source="part of the archive of KADID-10k (database.mmsp-kn.de)",
        image_folders=("images",),
        distortion=distortion_names.kadid10k,
        averaged=True,
    ),
    "flive": Specification(
        title="FLIVE",
        kind=AUTHENTIC,
        images=39810,
        label_file="labels_image.csv",
        read=_table("name", "mos", "mos_image"),
        higher_is_better=True,
        score_range=(1, 100),
        source="from the authors of PaQ-2-PiQ (github.com/baidut/PaQ-2-PiQ)",
        image_components=2,
        image_folders=("database",),
        averaged=True,
    ),
    "spaq": Specification(
        title="SPAQ",
        kind=AUTHENTIC,
        images=11125,
        label_file="Annotations/MOS and Image attribute scores.xlsx",
        read=owners.read_spaq,
        unified_file="SPAQ.txt",
        higher_is_better=True,
        score_range=(1, 100),
        source="part of the archive of SPAQ (github.com/h4nwei/SPAQ)",
        image_folders=("TestImage",),
        shorter_side=512,
        averaged=True,
    ),
    "clive": Specification(
        title="CLIVE",
        kind=AUTHENTIC,
        images=1162,
        label_file="Data/AllImages_release.mat",
        read=owners.read_clive,
        unified_file="LIVE_Challenge.txt",
        higher_is_better=True,
        score_range=(1, 100),
        source="part of the archive of LIVE in the Wild (live.ece.utexas.edu)",
        image_folders=("Images",),
        unified_order=False,
    ),
    "koniq-10k": Specification(
        title="KonIQ-10k",
        kind=AUTHENTIC,
        images=10073,
        label_file="koniq10k_scores_and_distributions.csv",
        read=_table("image_name", "mos_zscore"),
        unified_file="KonIQ-10k.txt",
        higher_is_better=True,
        score_range=(1, 100),
        source="part of KonIQ-10k (database.mmsp-kn.de)",
        image_folders=("512x384", "1024x768"),
        unified_range=(1, 5),  # MOS; the owner's table also has MOS_zscore
    ),
    "koniq-10k-official": Specification(
        title="KonIQ-10k official",
        folder="KonIQ-10k",
        kind=AUTHENTIC,
        images=10073,
        label_file="koniq10k_distributions_sets.csv",
        read=_table("image_name", "mos", part=("set",)),
        higher_is_better=True,
        score_range=(1, 100),
        source="in the repository of its owners (github.com/subpic/koniq, metadata/)",
        image_folders=("512x384", "1024x768"),
    ),
    "biq2021": Specification(
        title="BIQ2021",
        kind=AUTHENTIC,
        images=12000,
        label_file="Train (Images and MOS).csv",
        read=owners.read_biq2021,
        higher_is_better=True,
        score_range=(0, 1),
        source="part of BIQ2021 (github.com/nisarahmedrana/BIQ2021)",
        image_folders=("Images",),
    ),
    "uhd-iqa": Specification(
        title="UHD-IQA",
        kind=AUTHENTIC,
        images=6073,
        label_file="uhd-iqa-metadata.csv",
        read=_table("image_name", "quality_mos", part=("set",)),
        higher_is_better=True,
        score_range=(0, 1),
        source="part of UHD-IQA (database.mmsp-kn.de)",
        shorter_side=512,
    ),
    "pipal": Specification(
        title="PIPAL",
        kind=SYNTHETIC,
        images=23200,
        label_file="Train_Label",
        read=owners.read_pipal,
        higher_is_better=True,
        score_range=None,  # Elo ratings
        source="the training part of PIPAL (github.com/HaomingCai/PIPAL-dataset)",
    ),
}


def open_benchmark(
    name: str, root: AnyPath, *, allow_partial: bool = False, seed: int = 27
) -> Benchmark:
    """Return a dataset of DATASETS under `root`.

    Args:
      name: key of DATASETS.
      root: folder that contains the folder of the dataset.
      allow_partial: whether to leave out rows that cannot be used, and say so in
        `note`, instead of raising.
      seed: seed of the splits, if the dataset has none.

    Raises:
      DatasetError: a folder or label file is missing, or a split file is not valid;
        without `allow_partial` also if an image is missing, ambiguous or labelled
        twice, if the number of rows is not the published one, or if a score is not a
        number. The message is one line with the dataset, the file, what was expected
        and what was found.
    """
    known = DATASETS[name]
    folder = matching.find_folder(root, known.folder or known.title)
    rows, file, source, score_range, owners_order = _read_labels(known, folder, root)
    resolved = matching.resolve(
        rows,
        folder,
        title=known.title,
        file=file,
        published=known.images,
        source=source,
        components=known.image_components,
        preferred=known.image_folders,
        distortion=known.distortion,
        allow_partial=allow_partial,
    )
    parts, origin = splits.attach(
        known.title,
        folder,
        [row.part for row in rows],
        resolved.contents_of_rows,
        resolved.new_index,
        seed=seed,
        owners_order=owners_order,
    )
    return Benchmark(
        **resolved.benchmark_fields(folder, known.shorter_side),
        name=name,
        title=known.title,
        kind=known.kind,
        higher_is_better=known.higher_is_better,
        score_range=score_range or resolved.score_range,
        splits=parts,
        split_origin=origin,
        averaged=known.averaged,
        allow_partial=allow_partial,
    )


def _read_labels(known: Specification, folder: AnyPath, root: AnyPath):
    """Return the rows, the file's name and source, the range, and if splits fit."""
    found = matching.find_path(folder, known.label_file)
    if found is not None:
        return known.read(found), found.name, known.source, known.score_range, True
    # The unified tables of all datasets are distributed as one folder.
    for place in (folder, root, matching.find_path(root, "labels")):
        if not known.unified_file or place is None:
            continue
        unified = matching.find_path(place, known.unified_file)
        if unified is not None:
            logging.info(
                "%s: scores from the unified table %s (the owner's %s is missing)",
                known.title,
                unified,
                known.label_file,
            )
            score_range = known.unified_range or known.score_range
            rows = labels.read_unified(unified)
            name = unified.name
            return rows, name, _UNIFIED_SOURCE, score_range, known.unified_order
    raise errors.DatasetError(
        f"{known.title}: expected the label file {known.label_file} in {folder}, found "
        f"neither it nor a unified table; it is {known.source}"
    )
