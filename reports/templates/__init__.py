"""The parts of ``report.html``."""
