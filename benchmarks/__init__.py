"""One script per promise about speed; every figure is a ratio within one run. `python -m benchmarks [NAME …]`."""
