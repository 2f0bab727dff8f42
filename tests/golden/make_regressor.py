"""Record `regressor_kadid10k.pth` as the authors of ARNIQA made their regressors.

    pip install sk2torch torch
    python tests/golden/make_regressor.py

A Ridge of scikit-learn becomes a TorchScript module by sk2torch, in float32. Its
intercept has the shape (), because Ridge returns a plain number. The regressor takes
the features of the `tiny` encoder, so that the file stays small. Recorded with sk2torch
1.2.0, torch 2.13.0 and scikit-learn 1.9.1. `fitted` is what the tests compare with.
"""

import io
import pathlib

import numpy as np
from sklearn.linear_model import Ridge

FEATURES = 128  # two scales of 64
FILE = pathlib.Path(__file__).parent / "regressor_kadid10k.pth"


def fitted() -> Ridge:
    """Return the seeded Ridge in the file."""
    rng = np.random.default_rng(27)
    features = rng.normal(size=(300, FEATURES))
    return Ridge(alpha=1.0).fit(features, rng.uniform(1, 5, 300))


def record() -> None:
    """Write the file, without the debug records, which hold paths of this machine."""
    import sk2torch
    import torch

    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(sk2torch.wrap(fitted()).float()), buffer)
    reader = torch._C.PyTorchFileReader(io.BytesIO(buffer.getvalue()))
    writer = torch._C.PyTorchFileWriter(str(FILE))
    for name in reader.get_all_records():
        if name.startswith(("data", "code", "constants")) and "debug" not in name:
            content = reader.get_record(name)
            writer.write_record(name, content, len(content))
    writer.write_end_of_file()


if __name__ == "__main__":
    record()
