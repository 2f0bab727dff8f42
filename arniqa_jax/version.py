"""The version of the package, in a file of its own so that nothing else loads."""

__version__ = "0.1.0"
