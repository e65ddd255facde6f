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
        self.mkpath(str(package / "recipes"))
        for recipe in Path("train_configs").glob("*.toml"):
            if "debug" not in recipe.stem:  # those read files of the checkout
                self.copy_file(str(recipe), str(package / "recipes" / recipe.name))


setup(cmdclass={"build_py": BuildWithProgramAndRecipes})
