"""Networks and data that the benchmarks share."""
