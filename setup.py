"""One package in the wheel: the clone's configs/ and converters/ become vtabjax.configs and vtabjax.converters."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["vtabjax*"]),
        "vtabjax.configs",
        "vtabjax.converters",
        *(f"vtabjax.converters.{name}" for name in find_packages("converters")),
    ],
    package_dir={"vtabjax.configs": "configs", "vtabjax.converters": "converters"},
)
