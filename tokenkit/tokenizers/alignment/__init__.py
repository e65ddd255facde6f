"""Two encodings of one text or chat: where each token stands, and which tokens belong together."""
