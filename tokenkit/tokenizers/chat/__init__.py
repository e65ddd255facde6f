"""Chats: templates rendered, contents found in them, and what of them the loss counts."""
