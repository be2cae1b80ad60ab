"""Stands for `python -m converters`: "converts" by copying. `fake_converters.py TEMPLATES COMMAND ...`

TEMPLATES holds converted models to copy; what was asked is written into its file "log". A model's name says what
happens: bad* fails, missing* finds no weights, crash* dies, hang* sleeps, eat* takes memory, slow* takes a second,
nan* has NaN weights, head* has a classifier, pool* has blocks and tokens; unknown* does not exist. `describe` says what
is known of each.
"""

import json
import os
import queue
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from vtabjax import integrity, specs

TEMPLATES = Path(sys.argv[1])
FAILURES = {"bad": "operator aten.nonsense is not known", "missing": "weights: no such file"}


def main(command: str, arguments: list[str]) -> None:
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=read, args=(lines,), daemon=True).start()
    options = dict(a[2:].split("=", 1) for a in arguments if a.startswith("--") and "=" in a)
    models = [a for a in arguments if not a.startswith("--")]
    if models != ["-"]:
        note(command, *models)
    if command == "list":
        for model in models:
            for i in range(3 if "*" in model else 1):
                describe(model.replace("*", str(i)), arguments)
    elif command == "check":
        check(models)
    else:
        print("a library's chatter")
        for model in asked(lines) if models == ["-"] else models:
            convert(model, options["out"], options.get("input_size", "16"))


def read(lines: queue.SimpleQueue[str]) -> None:
    """Ends the process with the one that started it."""
    for line in sys.stdin:
        lines.put(line.strip())
    os._exit(1)


def asked(lines: queue.SimpleQueue[str]) -> Iterator[str]:
    while True:
        model = lines.get()
        if model.startswith("check "):
            models = json.loads(model.removeprefix("check "))
            note("check", *models)
            check(models)
            continue
        note("convert", model)
        yield model


def check(models: list[str]) -> None:
    for model in models:
        unknown = "/unknown" in model
        say(model, ok=not unknown, message=f"model {model!r} does not exist; near: tiny/a" * unknown)


def note(*words: str) -> None:
    with open(TEMPLATES / "log", "a") as log:
        log.write(json.dumps(words) + "\n")


def say(spec: str, **rest: Any) -> None:
    print(json.dumps({"spec": spec, **rest}), flush=True)


def describe(model: str, flags: list[str]) -> None:
    """The name says it: nc* may not be used commercially, odd* has no known licence; a1, a2, ...: so many million."""
    name = model.split("/")[1]
    if name.startswith("unknown"):
        say(model, status="failed", message=f"model {model!r} does not exist; near: tiny/a")
        return
    number = int(name[-1]) if name[-1].isdigit() else 0
    licence = "cc-by-nc-4.0" if name.startswith("nc") else None if name.startswith("odd") else "mit"
    facts: dict[str, Any] = {"license": licence, "method": "supervised", "family": "tiny", "source": "tiny"}
    facts |= {"input_size": [3, 16, 16], "pretraining_data": None}
    facts |= {"parameters": number * 10**6} if "--parameters" in flags else {}
    facts |= {"gflops": number / 10} if "--gflops" in flags else {}
    say(model, **facts)


def convert(model: str, out: str, size: str) -> None:
    name = model.split("/")[1]
    if name.startswith("crash"):
        os.kill(os.getpid(), signal.SIGKILL)
    if name.startswith("hang"):
        time.sleep(3600)
    if name.startswith("slow"):
        time.sleep(1)
    if name.startswith("eat"):
        eaten = bytearray(1 << 30)
        time.sleep(3600)
        del eaten
    for kind, message in FAILURES.items():
        if name.startswith(kind):
            say(model, status="failed", path=None, message=message, seconds=0.1)
            return
    target = os.path.join(out, f"{specs.file_stem(model)}-{size}")
    if not os.path.exists(os.path.join(target, "model.json")):
        write(model, name, target)
    say(model, status="converted", path=target, message="", seconds=0.5)


def write(model: str, name: str, target: str) -> None:
    kind = next((k for k in ("nan", "head", "pool") if name.startswith(k)), "plain")
    made = Path(f"{target}.{os.getpid()}")
    shutil.copytree(TEMPLATES / f"{kind}-16", made)
    # Each model has a graph of its own, so that their features are told apart.
    graph = (made / "graph.json").read_text()
    graph = graph.replace('"name": "fc", ', f'"name": "fc", "module": "{model}", ')
    info = {**json.loads((made / "model.json").read_text()), "spec": model}
    info["artefact_hash"] = integrity.artefact_hash(graph.encode(), info)
    (made / "graph.json").write_text(graph)
    (made / "model.json").write_text(json.dumps(info))
    os.rename(made, target)


main(sys.argv[2], sys.argv[3:])
