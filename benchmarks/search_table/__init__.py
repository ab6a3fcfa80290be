"""The table of searches: studies of one sampler, toy landscapes, real networks, whole runs."""
