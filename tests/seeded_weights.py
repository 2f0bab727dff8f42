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
