"""How several losses become one gradient."""
