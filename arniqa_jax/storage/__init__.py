"""Files on disk: run directories, checkpoints, atomic writes, the user's cache."""
