"""Models: Hugging Face decoders split into backbone and vocabulary, and low-rank adapters."""
