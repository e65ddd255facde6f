"""``python -m tokenkit COMMAND``, also under torchrun (``torchrun -m tokenkit train``)."""

from tokenkit.cli.main import main

if __name__ == "__main__":  # processes started by a command import this file, too
    main()
