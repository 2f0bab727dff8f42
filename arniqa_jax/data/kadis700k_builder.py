"""TFDS builder of KADIS-700k's pristine photographs; importing it registers it.

The builder has its own module, because it must be importable by name, and the module of
a running command has the name `__main__`.
"""

import os
from collections.abc import Iterator

import tensorflow_datasets as tfds
from absl import logging

from arniqa_jax.data import folders, images
from arniqa_jax.errors import DatasetError, ImageError


class Kadis700k(tfds.core.GeneratorBasedBuilder):
    """The unchanged PNG files of `ref_imgs` as one `train` split, in file order."""

    VERSION = tfds.core.Version("1.0.0")
    # Nothing is downloaded, so there are no checksums. To look for them, TFDS would
    # import importlib_resources, which it does not declare as a dependency.
    url_infos = None
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Download KADIS-700k from its authors (https://database.mmsp-kn.de) and unpack "
        "it; manual_dir is the folder that holds ref_imgs."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="140,000 pristine photographs, 512 x 384, for pre-training.",
            homepage="https://database.mmsp-kn.de/kadid-10k-database.html",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=(None, None, 3), encoding_format="png"
                    ),
                    "file": tfds.features.Text(),
                }
            ),
            # Keep the order of the files, and avoid sorting 50 GB on disk.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        return {"train": self._generate_examples(dl_manager.manual_dir / "ref_imgs")}

    def _generate_examples(self, folder) -> Iterator[tuple[int, dict[str, str]]]:
        written = skipped = 0
        for file in list_files(folder):
            path = os.path.join(folder, file)
            try:
                images.decode_image(path, apply_orientation=False)
            except ImageError as error:
                logging.warning("skipped: %s", error)
                skipped += 1
                continue
            # Given a path, TFDS stores the bytes of the file and needs no TensorFlow.
            yield written, {"image": path, "file": file}
            written += 1
        if written < 2:
            raise DatasetError(
                f"{folder}: expected at least two readable photographs, found {written}"
            )
        logging.info("wrote %d photographs, skipped %d", written, skipped)


def list_files(folder: str | os.PathLike) -> list[str]:
    """Return the names of the PNG files in a folder, sorted, without hidden files."""
    return sorted(
        file
        for file in os.listdir(folder)
        if file.lower().endswith(".png") and not folders.is_hidden(file)
    )
