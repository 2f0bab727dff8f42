"""A state dict full of values from NumPy's seeded generator, for any ResNet.

Shared by the golden values' recording under PyTorch and by the tests without it: each
tensor depends on its name and shape alone.
"""

import zlib

import numpy as np


def seeded_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values of the size that a trained network has, float32.

    Args:
      name: in torchvision's names, such as `layer1.0.conv1.weight`.
      shape: in PyTorch's order.
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if len(shape) > 1:
        fan_in = np.prod(shape[1:])
        return rng.normal(0, np.sqrt(2 / fan_in), shape).astype(np.float32)
    if name.endswith(("running_var", "weight")):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    return rng.normal(0, 0.2, shape).astype(np.float32)


def seeded_image(side: int) -> np.ndarray:
    """Smooth gradients and some noise, float32 (1, side, side, 3) in [0, 1]."""
    rng = np.random.default_rng(27)
    y, x = np.mgrid[:side, :side] / side
    image = np.stack([x, y, (x + y) / 2], axis=-1)
    image = 0.8 * image + 0.2 * rng.random(image.shape)
    return image[None].astype(np.float32)


# Three updates that show a mistake: learning rate and decay are larger than the
# paper's, and the second update already lies within a period of the schedule.
TRAINING = {
    "pairs": 6,
    "side": 48,
    "steps": 3,
    "steps_per_epoch": 5,
    "learning_rate": 0.05,
    "floor": 1e-6,
    "momentum": 0.9,
    "weight_decay": 0.01,
    "temperature": 0.1,
}


def training_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return a start value for the golden training, float32.

    The last layer's shifts are negative. Few features of an image are then above zero,
    so that embeddings point in different directions; where all are nearly equal, the
    gradient is a small difference of large numbers.
    """
    value = seeded_tensor(name, tuple(shape))
    if name in ("model.7.0.bn2.bias", "model.7.0.downsample.1.bias"):
        value -= 0.75
    return value


def training_crops(step: int) -> np.ndarray:
    """Return the crops of an update, uint8 (pairs, 2 views, 2 scales, H, W, 3).

    The seed is one for which no input of a ReLU is within rounding of zero. With 1000
    one is, and a channel of the first block then deviates by 2e-4.
    """
    rng = np.random.default_rng(2000 + step)
    pairs, side = TRAINING["pairs"], TRAINING["side"]
    noise = rng.random((pairs, 2, 2, side, side, 3))
    coarse = rng.random((pairs, 2, 2, 6, 6, 3)).repeat(side // 6, 3)
    share = rng.uniform(0.1, 0.9, (pairs, 1, 1, 1, 1, 1))
    images = share * noise + (1 - share) * coarse.repeat(side // 6, 4)
    return np.round(255 * images).astype(np.uint8)


def sample(value: np.ndarray) -> np.ndarray:
    """Return at most 300 values of an array, evenly spaced in PyTorch's order."""
    return value.ravel()[:: -(-value.size // 300)]
