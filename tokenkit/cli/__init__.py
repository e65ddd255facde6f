"""Command lines, one file each: ``tokenkit COMMAND``, or ``python -m tokenkit COMMAND``.

A command reads and checks its arguments first. What takes seconds to import (torch, transformers)
is imported in the functions behind that, so that ``--help`` and a refused option answer at once.
"""
