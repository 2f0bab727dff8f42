"""Distortion type and level of an image of a synthetic dataset, from its file name.

The names of types are those of `degradation` if it has the same distortion. Groups are
the seven of KADID-10k, plus `transmission` (errors) and `other`.
"""

import pathlib
import re

BLUR, COLOR, JPEG = "blur", "color_distortion", "jpeg"
NOISE, BRIGHTNESS, SPATIAL = "noise", "brightness_change", "spatial_distortion"
CONTRAST, TRANSMISSION, OTHER = "sharpness_contrast", "transmission", "other"

# Code in the file name, or folder name, -> (type, group).
LIVE_TYPES = {
    "jp2k": ("jpeg2000", JPEG),
    "jpeg": ("jpeg", JPEG),
    "wn": ("white_noise", NOISE),
    "gblur": ("gaussian_blur", BLUR),
    "fastfading": ("fast_fading", TRANSMISSION),
}
CSIQ_TYPES = {
    "awgn": ("white_noise", NOISE),
    "blur": ("gaussian_blur", BLUR),
    "contrast": ("contrast_decrease", CONTRAST),
    "fnoise": ("pink_noise", NOISE),
    "jpeg": ("jpeg", JPEG),
    "jpeg2000": ("jpeg2000", JPEG),
}
TID2013_TYPES = {
    "01": ("white_noise", NOISE),
    "02": ("white_noise_color_component", NOISE),
    "03": ("spatially_correlated_noise", NOISE),
    "04": ("masked_noise", NOISE),
    "05": ("high_frequency_noise", NOISE),
    "06": ("impulse_noise", NOISE),
    "07": ("quantization_noise", NOISE),
    "08": ("gaussian_blur", BLUR),
    "09": ("denoising", BLUR),
    "10": ("jpeg", JPEG),
    "11": ("jpeg2000", JPEG),
    "12": ("jpeg_transmission", TRANSMISSION),
    "13": ("jpeg2000_transmission", TRANSMISSION),
    "14": ("non_eccentricity_patch", SPATIAL),
    "15": ("color_block", SPATIAL),
    "16": ("mean_shift", BRIGHTNESS),
    "17": ("contrast_change", CONTRAST),
    "18": ("color_saturation", COLOR),
    "19": ("multiplicative_noise", NOISE),
    "20": ("comfort_noise", NOISE),
    "21": ("noisy_compression", JPEG),
    "22": ("color_quantization_dither", COLOR),
    "23": ("chromatic_aberration", COLOR),
    "24": ("sparse_sampling", OTHER),
}
KADID10K_TYPES = {
    "01": ("gaussian_blur", BLUR),
    "02": ("lens_blur", BLUR),
    "03": ("motion_blur", BLUR),
    "04": ("color_diffusion", COLOR),
    "05": ("color_shift", COLOR),
    "06": ("color_quantization", COLOR),
    "07": ("color_saturation_1", COLOR),
    "08": ("color_saturation_2", COLOR),
    "09": ("jpeg2000", JPEG),
    "10": ("jpeg", JPEG),
    "11": ("white_noise", NOISE),
    "12": ("white_noise_color_component", NOISE),
    "13": ("impulse_noise", NOISE),
    "14": ("multiplicative_noise", NOISE),
    "15": ("denoising", NOISE),
    "16": ("brighten", BRIGHTNESS),
    "17": ("darken", BRIGHTNESS),
    "18": ("mean_shift", BRIGHTNESS),
    "19": ("jitter", SPATIAL),
    "20": ("non_eccentricity_patch", SPATIAL),
    "21": ("pixelate", SPATIAL),
    "22": ("quantization", SPATIAL),
    "23": ("color_block", SPATIAL),
    "24": ("high_sharpen", CONTRAST),
    "25": ("linear_contrast_change", CONTRAST),
}

# (type, group, level), or None for a name that does not follow the dataset's pattern.
Distortion = tuple[str, str, int]


def live(image: str) -> Distortion | None:
    """Return the distortion of an image such as `jp2k/img3.bmp`.

    The folder is the type. The level is not known (0).
    """
    found = LIVE_TYPES.get(pathlib.PurePosixPath(image).parent.name.lower())
    return found and (*found, 0)


def csiq(image: str) -> Distortion | None:
    """Return the distortion of an image such as `1600.AWGN.3.png`.

    The parts are content, type, and level 1..5.
    """
    return _match(r".+\.(\w+)\.(\d)\.png", image, CSIQ_TYPES)


def tid2013(image: str) -> Distortion | None:
    """Return the distortion of an image such as `i01_08_5.bmp`.

    The parts are content, type, and level 1..5.
    """
    return _match(r"i\d\d_(\d\d)_(\d)\.bmp", image, TID2013_TYPES)


def kadid10k(image: str) -> Distortion | None:
    """Return the distortion of an image such as `I01_08_05.png`.

    The parts are content, type, and level 1..5.
    """
    return _match(r"i\d\d_(\d\d)_(\d\d)\.png", image, KADID10K_TYPES)


def _match(pattern: str, image: str, types: dict) -> Distortion | None:
    match = re.fullmatch(pattern, pathlib.PurePosixPath(image).name.lower())
    if match is None or match[1] not in types:
        return None
    return (*types[match[1]], int(match[2]))
