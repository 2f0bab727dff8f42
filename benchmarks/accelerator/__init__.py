"""The modules of `benchmarks/accelerators.py`: targets, programs and parsers."""
