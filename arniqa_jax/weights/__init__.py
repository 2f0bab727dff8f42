"""Weights by name or path: model directories, official and PyTorch files."""
