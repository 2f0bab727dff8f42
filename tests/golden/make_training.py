"""Record three updates of the official training, and its learning rates, by PyTorch.

    pip install torch==2.13.0 numpy
    PYTHONPATH=tests python tests/golden/make_training.py

Write training.npz. Everything but `*_float32` is computed in float64:

- `loss`, `grad_norm`: of each update, (3,).
- `params.NAME`, `stats.NAME`: parameters and running statistics after the last update,
  in the names of the official files; `seeded_weights.sample` of each.
- `*_float32`: the largest deviation of PyTorch's own float32 from the above, for the
  choice of the test's tolerances.
- `learning_rates`: of each update of three epochs of 5 steps, as the official loop
  sets them; it calls the scheduler after the update, so that update k + 1 has the
  learning rate that the position k of the schedule stands for.
- `provenance`: what made them.
"""

import pathlib

import numpy as np
import seeded_weights
import torch
from plain_resnet import normalized
from torch import nn
from torch.nn import functional as F

HERE = pathlib.Path(__file__).parent
WIDTH, EMBEDDING = 8, 16
EPOCHS, STEPS_PER_EPOCH = 3, 5


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, with torchvision's names."""

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride > 1 or channels != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False),
                nn.BatchNorm2d(width),
            )

    def forward(self, x):
        """(N, C, H, W) to (N, width, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class SimCLR(nn.Module):
    """A ResNet of one basic block per stage, and the projector."""

    def __init__(self):
        super().__init__()
        widths = [WIDTH * 2**stage for stage in range(4)]
        blocks = [
            nn.Sequential(BasicBlock(channels, width, 1 if stage == 0 else 2))
            for stage, (channels, width) in enumerate(
                zip([WIDTH, *widths], widths, strict=False)
            )
        ]
        # The children of torchvision's ResNet, by number.
        self.model = nn.Sequential(
            nn.Conv2d(3, WIDTH, 7, 2, 3, bias=False),
            nn.BatchNorm2d(WIDTH),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
            *blocks,
            nn.AdaptiveAvgPool2d(1),
        )
        features = widths[-1]
        self.projector = nn.Sequential(
            nn.Linear(features, features), nn.ReLU(), nn.Linear(features, EMBEDDING)
        )

    def forward(self, x):
        """(M, 3, H, W), normalised, to embeddings (M, EMBEDDING) of length 1."""
        features = F.normalize(self.model(x).flatten(1), dim=1)
        return F.normalize(self.projector(features), dim=1)


def nt_xent(z_a, z_b, temperature: float):
    """The mean over all 2M rows of the cross-entropy of a row with its partner."""
    z = torch.cat([z_a, z_b])
    logits = z @ z.T / temperature
    logits.fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(z_a)))


def train(dtype: torch.dtype) -> dict[str, np.ndarray]:
    """Make the updates of `seeded_weights.TRAINING` and return what is recorded."""
    options = seeded_weights.TRAINING
    model = SimCLR()
    model.load_state_dict(
        {
            name: torch.from_numpy(seeded_weights.training_tensor(name, value.shape))
            for name, value in model.state_dict().items()
            if not name.endswith("num_batches_tracked")
        },
        strict=False,
    )
    model = model.to(dtype).train()
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=options["learning_rate"],
        momentum=options["momentum"],
        weight_decay=options["weight_decay"],
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(
        optimizer, T_0=1, T_mult=2, eta_min=options["floor"]
    )
    recorded = {"loss": [], "grad_norm": []}
    for step in range(options["steps"]):
        scheduler.step(step / options["steps_per_epoch"])  # without the official lag
        crops = torch.from_numpy(seeded_weights.training_crops(step))
        # All crops at full scale, then all at half scale.
        view_a, view_b = (
            normalized((crops[:, view].transpose(0, 1).flatten(0, 1) / 255).numpy())
            for view in (0, 1)
        )
        z_a, z_b = model(view_a.to(dtype)), model(view_b.to(dtype))
        if step == 0 and dtype is torch.float64:
            z = torch.cat([z_a, z_b])
            print("median cosine at the start", (z @ z.T).median().item())
        loss = nt_xent(z_a, z_b, options["temperature"])
        optimizer.zero_grad()
        loss.backward()
        gradients = [p.grad.flatten() for p in model.parameters()]
        recorded["loss"].append(loss.item())
        recorded["grad_norm"].append(torch.cat(gradients).norm().item())
        optimizer.step()
    recorded |= {
        f"params.{name}": p.detach().numpy() for name, p in model.named_parameters()
    }
    recorded |= {
        f"stats.{name}": b.numpy()
        for name, b in model.named_buffers()
        if not name.endswith("num_batches_tracked")
    }
    return {name: np.asarray(value) for name, value in recorded.items()}


def learning_rates() -> list[float]:
    """The learning rate of each update, as the official loop sets it."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(
        optimizer, T_0=1, T_mult=2, eta_min=1e-6
    )
    used = []
    for epoch in range(EPOCHS):
        for step in range(STEPS_PER_EPOCH):
            used.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step(epoch + step / STEPS_PER_EPOCH)
    return used


def main():
    """Train in both precisions and write the file."""
    exact, rounded = train(torch.float64), train(torch.float32)
    deviations = {
        f"{kind}_float32": max(
            np.abs(rounded[name] - value).max() / np.abs(value).max()
            for name, value in exact.items()
            if name.startswith(kind)
        )
        for kind in ("loss", "grad_norm", "params", "stats")
    }
    print(exact["loss"], exact["grad_norm"], deviations)
    np.savez_compressed(
        HERE / "training.npz",
        provenance=f"PyTorch {torch.__version__}, NumPy {np.__version__}",
        learning_rates=learning_rates(),
        **deviations,
        **{
            name: seeded_weights.sample(value).astype(np.float32)
            for name, value in exact.items()
        },
    )


if __name__ == "__main__":
    main()
