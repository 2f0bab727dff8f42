"""The parts of `benchmarks/accelerators.py`: targets, programs, and their readers."""
