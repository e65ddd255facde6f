"""What pyproject.toml cannot say: a wheel takes train.py and the recipes into the package.

A checkout has them at its top; :mod:`tokenkit.shipped` finds them in either place.
"""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithProgramAndRecipes(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:  # such an installation is the checkout itself
            return
        package = Path(self.build_lib) / "tokenkit"
        self.copy_file("train.py", str(package / "train.py"))
        self.copy_tree("train_configs", str(package / "recipes"))


setup(cmdclass={"build_py": BuildWithProgramAndRecipes})
