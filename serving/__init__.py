"""Start Triton on this machine, without Docker: ``python -m serving``."""
