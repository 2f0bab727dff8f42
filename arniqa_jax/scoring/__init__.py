"""Quality scores for images: the Python API, and what the commands share."""
