"""Where images and scores come from; host only, never imports jax.numpy."""
