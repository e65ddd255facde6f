"""Running a model: generation with a KV cache."""
