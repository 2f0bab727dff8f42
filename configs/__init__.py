"""The configs: each module has `get_config()`, and `--config=NAME` finds it by name.

The files are in `configs` at the top of the repository, to which `arniqa_jax/configs`
is a symbolic link. A wheel has the files themselves in `arniqa_jax/configs`.
"""
