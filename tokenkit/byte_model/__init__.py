"""What travels with an exported byte-level model; it imports nothing of tokenkit."""
