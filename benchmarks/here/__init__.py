"""Candidates of a search, built and timed on this machine; see ``benchmarks/predict.py``."""
