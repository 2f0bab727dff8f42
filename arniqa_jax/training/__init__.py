"""Pre-training: the loop, the step, optimizers and what a run records."""
