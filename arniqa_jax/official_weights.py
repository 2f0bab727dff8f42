"""The weights that the authors of ARNIQA publish."""

# NAME of regressor_NAME.pth -> key of `data.benchmarks.DATASETS`.
DATASETS = {
    "live": "live",
    "csiq": "csiq",
    "tid2013": "tid2013",
    "kadid10k": "kadid10k",
    "flive": "flive",
    "spaq": "spaq",
    "clive": "clive",
    "koniq10k": "koniq-10k",
}
