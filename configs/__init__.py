"""The configs: each module has `get_config()`, and `--config=NAME` finds it by name.

They lie at the top of the repository; `arniqa_jax/configs` is a symbolic link to this
folder, and a wheel has the files there.
"""
