"""The meta tables of IQA-PyTorch, which describe many datasets in one format.

`meta:KADID10k` reads `meta_info/meta_info_KADID10kDataset.csv` under the root, and
reads the images from the folder where IQA-PyTorch expects them. The tables have a
column of images and a column of scores; for synthetic datasets also a column of
references, and for some datasets their official split (`official_split`). Their
`ratio802_...` columns contain random splits without a validation part and are not used;
ten splits are drawn instead.
"""

import dataclasses
import difflib
from collections.abc import Sequence

from arniqa_jax import errors
from arniqa_jax.datasets import labels, matching, splits
from arniqa_jax.datasets.labelled import CUSTOM, Benchmark
from arniqa_jax.storage.bucket_paths import AnyPath


@dataclasses.dataclass(frozen=True)
class MetaTable:
    """What a meta table does not contain.

    Attributes:
      folder: folder of the images under the root, as in IQA-PyTorch's `datasets/`.
      score_range: scale of the scores; None for the smallest and the largest score.
      higher_is_better: False for DMOS, whatever the name of the column.
      preferred: if an image is in several folders, the first of these counts.
    """

    folder: str
    score_range: tuple[float, float] | None = None
    higher_is_better: bool = True
    preferred: tuple[str, ...] = ()


# The key is the middle of the file name, `meta_info_NAMEDataset.csv`.
META_TABLES = {
    "AVA": MetaTable("AVA_dataset", (1, 10)),
    "CGFIQA": MetaTable("CGFIQA"),
    "CSIQ": MetaTable("CSIQ", (0, 1), False, ("dst_imgs", "src_imgs")),
    "FLIVE": MetaTable("FLIVE_Database", (0, 100)),
    "GFIQA": MetaTable("GFIQA"),
    "KADID10k": MetaTable("kadid10k", (1, 5)),
    "KonIQ10k": MetaTable("koniq10k", (1, 100), True, ("512x384", "1024x768")),
    "KonIQ10k++": MetaTable("koniq10k", (1, 5), True, ("512x384", "1024x768")),
    "LIVEChallenge": MetaTable("LIVEC", (1, 100)),
    "LIVEIQA": MetaTable("LIVEIQA_release2", (1, 100), False),
    "LIVEMD": MetaTable("LIVEmultidistortiondatabase", (1, 100), False),
    "PIPAL": MetaTable("PIPAL", (0, 1), True, ("Dist_Imgs", "Train_Ref")),
    "SPAQ": MetaTable("SPAQ", (1, 100), True, ("TestImage",)),
    "TID2008": MetaTable("tid2008", (0, 9)),
    "TID2013": MetaTable("tid2013", (0, 9)),
}
_FOLDER = "meta_info"


def open_meta(
    name: str, root: AnyPath, *, allow_partial: bool = False, seed: int = 27
) -> Benchmark:
    """Return the dataset of a meta table.

    Args:
      name: key of META_TABLES, in any letter case.
      root: folder that contains `meta_info/` and the folders of the images.
      allow_partial: whether to leave out rows that cannot be used, instead of raising.
      seed: seed of the splits, if the table has none.

    Raises:
      UsageError: the name is unknown.
      DatasetError: the table or the folder is missing, or a row cannot be used.
    """
    keys = {key.lower(): key for key in META_TABLES}
    if name.lower() not in keys:
        near = difflib.get_close_matches(name.lower(), keys, n=1)
        hint = f"did you mean {keys[near[0]]}? " if near else ""
        raise errors.UsageError(
            f"evaluation.datasets has no meta table {name!r}; {hint}The names are "
            f"{', '.join(META_TABLES)}; csv:PATH reads other tables"
        )
    key = keys[name.lower()]
    known = META_TABLES[key]
    file = f"meta_info_{key}Dataset.csv"
    path = matching.find_path(root, f"{_FOLDER}/{file}") or matching.find_path(
        root, file
    )
    if path is None:
        raise errors.DatasetError(
            f"{key}: expected the meta table {_FOLDER}/{file} in evaluation.root={root}"
            f", found none; it is in the datasets of IQA-PyTorch on Hugging Face, "
            f"chaofengc/IQA-PyTorch-Datasets-metainfo"
        )
    folder = matching.find_path(root, known.folder)
    if folder is None:
        raise errors.DatasetError(
            f"{key}: expected the folder of its images, {known.folder}, in "
            f"evaluation.root={root}, found none"
        )
    rows = labels.read_table(
        path,
        image=labels.IMAGE_COLUMNS,
        score=labels.SCORE_COLUMNS,
        reference=labels.REFERENCE_COLUMNS,
        part=labels.PART_COLUMNS,
    )
    resolved = matching.resolve(
        rows,
        folder,
        title=key,
        file=path.name,
        published=len(rows),
        source="written by the authors of IQA-PyTorch",
        components=None,
        preferred=known.preferred,
        allow_partial=allow_partial,
    )
    parts, origin = splits.attach(
        key,
        folder,
        _parts([row.part for row in rows]),
        resolved.contents_of_rows,
        resolved.new_index,
        seed=seed,
        owners_order=False,
    )
    return Benchmark(
        **resolved.benchmark_fields(folder),
        name=f"meta-{key.lower()}",
        title=f"{key} (meta)",
        kind=CUSTOM,
        higher_is_better=known.higher_is_better,
        score_range=known.score_range or resolved.score_range,
        splits=parts,
        split_origin=origin,
        allow_partial=allow_partial,
    )


def _parts(of_rows: Sequence[str]) -> list[str]:
    """Return the parts of the rows; a split without a test part tests on validation.

    Some official splits keep the scores of their test part secret.
    """
    if "test" in of_rows:
        return list(of_rows)
    return ["test" if part == "validation" else part for part in of_rows]
