"""Install `lightning_maml.pth` too; everything else of the package is in pyproject.toml."""

from setuptools import Distribution, setup

Distribution.has_data = Distribution.has_data_files  # setuptools asks for this name, and finds no data to install else
setup(data_files=[("../purelib", ["src/lightning_maml.pth"])])
