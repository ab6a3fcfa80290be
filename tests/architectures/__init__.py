"""Whole networks nobody tuned the formats for: each is built in a random mixed recipe and held to its simulation."""
