"""Photographs for pre-training, as pairs of crops; on the host, without jax.numpy."""
