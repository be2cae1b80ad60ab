"""Builds the models named on the command line and prints what came of each: "ok" or the message.

With --check they are only checked, with --info what is known of them is printed as JSON.
"""

import json
import sys
import time

from converters import sources
from vtabjax.specs import SpecError

# The hub's client waits between its attempts; here it only counts them.
time.sleep = lambda seconds: None

for spec in [argument for argument in sys.argv[1:] if not argument.startswith("--")]:
    try:
        if "--check" in sys.argv:
            sources.check(spec)
            print("ok")
        else:
            source = sources.build(spec)
            print(json.dumps(source.info) if "--info" in sys.argv else "ok")
    except SpecError as e:
        print(e)
