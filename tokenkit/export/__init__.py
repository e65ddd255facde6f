"""Plain Hugging Face folders."""
