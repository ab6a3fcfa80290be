"""Device profiles as data: one YAML file a device and runtime."""
