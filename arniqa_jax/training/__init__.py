"""Pre-training: the loop, the step, optimizers, metrics and pictures."""
