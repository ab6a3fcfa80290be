"""Published on-device latencies, read as tables; see ``benchmarks/predict.py``."""
