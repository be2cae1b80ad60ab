"""The examples in the docstrings of what people call run, and say what they say."""

import doctest
import importlib
import inspect

import pytest

MODULES = (
    "vtabjax.protocols.knn",
    "vtabjax.protocols.linear",
    "vtabjax.protocols.transferability",
    "vtabjax.ranking",
    "vtabjax.ranking.resampling",
    "vtabjax.ranking.proxy_agreement",
)


def public_functions():
    for name in MODULES:
        module = importlib.import_module(name)
        listed = getattr(module, "__all__", None)
        for function_name, function in inspect.getmembers(module, inspect.isfunction):
            here = inspect.unwrap(function).__module__ == name and not function_name.startswith("_")
            if function_name in listed if listed else here:
                yield pytest.param(module, function_name, id=f"{name}.{function_name}")


@pytest.mark.parametrize("module, name", list(public_functions()))
def test_example(module, name):
    function = getattr(module, name)
    (test,) = doctest.DocTestFinder(recurse=False).find(function, name, globs=vars(module) | {name: function})
    assert test.examples, "give it an example"
    report = []
    assert doctest.DocTestRunner().run(test, out=report.append).failed == 0, "".join(report)
