"""Records what PyTorch makes of a ResNet-50 with seeded weights, layer by layer.

    pip install torch==2.13.0 numpy
    PYTHONPATH=tests python tests/golden/make_resnet50.py

Writes resnet50.npz: for the stem (after the pooling) and each block the mean over the
image of the first 32 channels, the features (not normalised), and in `provenance` what
made them.
"""

import pathlib

import numpy as np
import plain_resnet
import seeded_weights
import torch

HERE = pathlib.Path(__file__).parent
SIDE = 96


def main():
    """Fills, runs and writes."""
    model = plain_resnet.ResNet50().eval()
    state = {
        name: torch.from_numpy(seeded_weights.seeded_tensor(name, tuple(value.shape)))
        for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    model.load_state_dict(state, strict=False)
    recorded = {}

    def record(name):
        def hook(_, __, output):
            recorded[name] = output.mean((2, 3))[0, :32].numpy()

        return hook

    model.maxpool.register_forward_hook(record("stem"))
    for name, module in model.named_modules():
        if isinstance(module, plain_resnet.Bottleneck):
            module.register_forward_hook(record(name))
    image = seeded_weights.seeded_image(SIDE)
    with torch.inference_mode():
        recorded["features"] = model(plain_resnet.normalized(image))[0].numpy()
    provenance = f"PyTorch {torch.__version__}, NumPy {np.__version__}, {SIDE} pixels"
    np.savez_compressed(HERE / "resnet50.npz", provenance=provenance, **recorded)


if __name__ == "__main__":
    main()
