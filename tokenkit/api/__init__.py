"""What ``import tokenkit as tk`` offers: thin functions on what the other rooms do."""
