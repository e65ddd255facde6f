"""Commands of the documentation: where they are shown, what they mean, how each is tried."""
