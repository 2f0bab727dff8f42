"""Weights by name or path: model directories, official files, PyTorch files."""
