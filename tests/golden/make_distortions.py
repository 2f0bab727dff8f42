"""Cuts tests/golden/distortions.* out of the development data.

    python tests/golden/make_distortions.py SHARED/data

The source holds outputs of the official PyTorch implementation (torch 2.14,
torchvision 0.29, kornia 0.9, Pillow 13) on two crops of scikit-image's photographs:
`astronaut()[:224, 100:324]` and `coffee()[120:344, 180:404]`. Kept are, of every
deterministic distortion but lens_blur (its official kernel is wrong) and the codecs,
five windows of 6x6 pixels: four corners and the middle; and of the random ones whose
definition is the same here, mean and standard deviation of residual statistics over
64 draws on the first image.
"""

import json
import pathlib
import sys

import numpy as np

HERE = pathlib.Path(__file__).parent
WINDOW = 6
SAME_DEFINITION = (
    *("white_noise", "white_noise_color_component", "impulse_noise"),
    *("multiplicative_noise", "color_block", "jitter/1", "jitter/2"),
)


def main(source: pathlib.Path) -> None:
    reference = np.load(source / "distortion_reference.npz")
    # Of windows of 48x48, the part in the corner of the image.
    part = [slice(0, WINDOW), slice(-WINDOW, None)]
    parts = [(part[0], part[0]), (part[0], part[1]), (part[1], part[0])]
    parts += [(part[1], part[1]), (part[0], part[0])]
    cut = {}
    for key in reference.files:
        values = reference[key]
        if "/" in key and not key.startswith("jpeg"):
            windows = [values[:, i, *parts[i]] for i in range(len(parts))]
            cut[key] = np.stack(windows, 1)
    np.savez_compressed(HERE / "distortions.npz", **cut)

    statistics = json.loads((source / "distortion_statistics.json").read_text())
    levels = {
        key: value
        for key, value in statistics["levels"].items()
        if key.startswith(SAME_DEFINITION)
    }
    lines = [f'    "{key}": {json.dumps(value)}' for key, value in levels.items()]
    fields = json.dumps(statistics["fields"])
    text = f'{{\n  "fields": {fields},\n  "levels": {{\n'
    text += ",\n".join(lines) + "\n  }\n}\n"
    (HERE / "distortions.json").write_text(text)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
