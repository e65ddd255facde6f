"""Training: build, step, checkpoint, metrics."""
