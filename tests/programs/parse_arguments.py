"""Starts scripts until their arguments are parsed: `parse_arguments.py '[["benchmarks/knn.py", "--n=1"], ...]'`

Of what only requirements-bench.txt installs it needs nothing.
"""

import argparse
import importlib.abc
import importlib.machinery
import json
import runpy
import sys
import unittest.mock

_ABSENT = ("faiss", "torchax", "playwright")


class Parsed(BaseException):
    pass


class Missing(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in _ABSENT:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return unittest.mock.MagicMock(__path__=[], __spec__=spec)

    def exec_module(self, module):
        pass


really = argparse.ArgumentParser.parse_args


def parse(self, args=None, namespace=None):
    really(self, args, namespace)
    raise Parsed


sys.meta_path.append(Missing())
argparse.ArgumentParser.parse_args = parse
path = list(sys.path)
for argv in json.loads(sys.argv[1]):
    sys.argv = argv
    sys.path[:] = [argv[0].rpartition("/")[0], *path]
    try:
        runpy.run_path(argv[0], run_name="__main__")
    except Parsed:
        continue
    sys.exit(f"{argv}: parses nothing")
