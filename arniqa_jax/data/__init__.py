"""Photographs for pre-training, as pairs of crops; host only, no jax.numpy."""
