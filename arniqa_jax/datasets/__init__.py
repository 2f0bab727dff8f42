"""Labelled image-quality datasets: their images, scores and splits; host only."""
