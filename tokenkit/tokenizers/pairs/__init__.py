"""What is known of two tokenizers together: biases of token pairs, nearest tokens."""
