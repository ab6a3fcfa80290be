"""modeltailor: tailor a neural network to a device and a budget."""
