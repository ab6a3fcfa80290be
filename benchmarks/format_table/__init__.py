"""The table of formats: rows, goals, how candidates are made, how they are timed."""
