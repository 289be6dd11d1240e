"""Speed and memory measurements (benchmarks/README.md); vrpo imports nothing of it."""
