"""The packages, the notebooks among them: a wheel holds them as `dinomix/notebooks`."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["dinomix*", "toycity*"]), "dinomix.notebooks"],
    package_dir={"dinomix.notebooks": "notebooks"},
)
