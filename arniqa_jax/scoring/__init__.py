"""Quality scores for images: the Python API and the tables of the command."""
