"""Published figures that are quoted next to ours, from the papers, on the same splits.

Within a dataset: Agnolucci et al. (WACV 2024), median of 10 splits, and a retraining
with the official code by a third party. Across datasets: the table of the same paper,
whose other columns are those of the methods' authors. BIQ2021: Ahmed and Asif (2022).
"""

# Columns of the cross-dataset table.
METHODS = ("Su et al.", "CONTRIQUE", "Re-IQA", "ARNIQA")

# (trained on, tested on) -> SRCC of each of METHODS.
CROSS = {
    ("live", "csiq"): (0.777, 0.803, 0.795, 0.904),
    ("live", "tid2013"): (0.561, 0.640, 0.588, 0.697),
    ("live", "kadid10k"): (0.506, 0.699, 0.557, 0.764),
    ("csiq", "live"): (0.930, 0.912, 0.919, 0.921),
    ("csiq", "tid2013"): (0.550, 0.570, 0.575, 0.721),
    ("csiq", "kadid10k"): (0.515, 0.696, 0.521, 0.735),
    ("tid2013", "live"): (0.892, 0.904, 0.900, 0.869),
    ("tid2013", "csiq"): (0.754, 0.811, 0.850, 0.866),
    ("tid2013", "kadid10k"): (0.554, 0.640, 0.636, 0.726),
    ("kadid10k", "live"): (0.896, 0.900, 0.892, 0.898),
    ("kadid10k", "csiq"): (0.828, 0.773, 0.855, 0.882),
    ("kadid10k", "tid2013"): (0.687, 0.612, 0.777, 0.760),
}

# Dataset, or `all` for the mean of six -> (method, SRCC, PLCC; None: not published).
WITHIN = {
    "tid2013": (
        ("ARNIQA", 0.880, 0.901),
        ("ARNIQA, retrained by a third party", 0.868, 0.890),
    ),
    "flive": (
        ("ARNIQA", 0.595, 0.671),
        ("ARNIQA, retrained by a third party", 0.585, 0.652),
    ),
    "biq2021": (
        ("BRISQUE", 0.604, None),
        ("ResNet-50, fine-tuned", 0.647, None),
        ("NASNet-Large, fine-tuned", 0.673, None),
    ),
    "all": (
        ("ARNIQA", 0.869, 0.890),
        ("ARNIQA, retrained by a third party", 0.866, 0.884),
    ),
}
