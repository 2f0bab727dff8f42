"""Where bytes are kept: run directories, checkpoints, the user's cache."""
