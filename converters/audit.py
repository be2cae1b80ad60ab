"""Every architecture of a source, with random weights, in Flax against torch; one line of a table for each.

Each model has a process of its own with a memory and a time limit, so that none takes the audit down. Rows are
written as they come; a later run does those that are missing.
"""

from __future__ import annotations

import csv
import io
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vtabjax import files, memory
from vtabjax.specs import SpecError

COLUMNS = (
    "source", "name", "family", "parameters", "input_size", "dtype", "blocks", "features_error", "logits_error",
    "seconds", "status", "message", "operators",
)  # fmt: skip
STATUSES = ("passed", "failed", "memory", "timeout", "crashed")
# What one parameter costs in bytes at the worst moment: two copies, and room for activations and the program.
BYTES_PER_PARAMETER = {"float64": 24, "float32": 12}
REDUCED = ({"depth": 4}, {"depth": 2}, {"depths": (1, 1, 2, 1)}, {"depths": (1, 1, 1)})
_TOKENS = ("vision_transformer", "eva", "beit", "deit", "naflexvit")  # all tokens attend to all others
AMPLIFICATION = 1e3  # of rounding errors, from which on random weights say nothing about a conversion
SIZES = (64, 96, 128, 160, 192, 224, 256)


class Limits(NamedTuple):
    """What one model may use: resident memory in bytes, and seconds."""

    memory: float
    seconds: float


def audit(
    source: str, pattern: str, out: str | Path, limits: Limits, *, jobs: int = 1, again: Iterable[str] = ()
) -> list[dict[str, str]]:
    """Audits the architectures that match and are not in the table yet. Returns the table's rows.

    Args:
      source: "timm" or "torchvision".
      pattern: glob over architecture names.
      out: the table, a CSV file.
      limits: for one model.
      jobs: models at the same time.
      again: statuses of rows to do once more.

    Raises:
      SpecError: nothing matches.
    """
    from converters import sources

    names = (
        sources.list_models(f"{source}/{pattern}@random")
        if _is_glob(pattern)
        else [f"{source}/{pattern}@random"]
    )
    names = [n.removeprefix(f"{source}/").removesuffix("@random") for n in names]
    for name in names[:1]:
        sources.check(f"{source}/{name}@random")
    rows = {(r["source"], r["name"]): r for r in read(out)}
    rows = {k: r for k, r in rows.items() if r["status"] not in again or k[0] != source or k[1] not in names}
    todo = [n for n in names if (source, n) not in rows]
    print(f"{len(names)} {source} models, {len(names) - len(todo)} of them in {out}", file=sys.stderr)
    start, done = time.monotonic(), 0
    for row in _run_all(source, todo, limits, jobs):
        rows[source, row["name"]] = {k: "" if v is None else str(v) for k, v in row.items()}
        _write(out, rows.values())
        done += 1
        left = (time.monotonic() - start) / done * (len(todo) - done)
        print(f"[{done}/{len(todo)}] {describe(row)}  (left: {_duration(left)})", file=sys.stderr, flush=True)
    return [rows[source, n] for n in names]


def read(path: str | Path) -> list[dict[str, str]]:
    """The rows of a table; none if there is no such file."""
    if not os.path.exists(path):
        return []
    with open(path, newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def _write(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    # torchvision's few rows stand first.
    table.writerows(sorted(rows, key=lambda r: (r["source"] != "torchvision", r["source"], r["name"])))
    files.write_text(path, text.getvalue())


def describe(row: Mapping[str, Any]) -> str:
    """One row for the terminal."""
    error = f"{float(row['features_error']):.0e}" if row["features_error"] not in (None, "") else ""
    kind = " ".join(str(row[k]) for k in ("dtype", "blocks") if row[k] not in (None, "", "all"))
    return f"{row['status']:<8} {row['name']:<44} {error:>6} {kind} {row['seconds']} s  {row['message']}".rstrip()


# The process of one model.


def _measure(source: str, name: str, limits: Limits, plan: int, pipe) -> None:
    """Runs in a process of its own and sends the row as far as it is known; the last one has a status."""
    import torch

    from converters import export, sources, verify
    from converters.randomise import fit_statistics, randomise

    # Threads of several models get into each other's way: torch's float64 convolutions by group take up to sixty
    # times as long with two threads on two busy cores as with one.
    torch.set_num_threads(1)
    row: dict[str, Any] = {}
    try:
        spec = f"{source}/{name}@random"
        row["parameters"] = sources.parameters(spec)
        size, options = _size(source, name)
        dtype, blocks, options = _plan(source, name, options, row["parameters"], limits.memory, plan)
        row |= {"input_size": size, "dtype": dtype, "blocks": blocks}
        pipe.send(row)
        torch.manual_seed(0)
        module = randomise(_make(source, name, size, options).eval())
        if dtype == "float64":
            module = module.double()
        graph, variables = export.from_torch(module, (3, size, size))
        del variables  # a copy; big models have no room for it
        variables = {k: v.detach().numpy() for k, v in module.state_dict().items()}
        row["operators"] = " ".join(sorted({op.split(".")[1] for op in graph.operators()}))
        pipe.send(row)
        mixed = dtype == "float64" and _has_casts(graph, "float32")
        row |= _compare(module, graph, variables, dtype, mixed)
        if row["status"] == "failed":
            images = verify.as_torch(verify.random_images(module, graph.input_size))
            amplified = _amplification(module, images)
            if amplified > AMPLIFICATION:
                fit_statistics(module, images)  # in place: the variables are the module's own memory
                row |= _compare(module, graph, variables, dtype, mixed)
                reason = f"with random running statistics it amplifies rounding {amplified:.0e} times"
                row["message"] = "; ".join(t for t in (row["message"], f"{reason}; with fitted ones") if t)
    except MemoryError:
        row["status"] = "memory"
    except Exception as e:
        row |= {"status": "failed", "message": _one_line(e)}
    pipe.send(row)


def _compare(
    module: Any, graph: Any, variables: Mapping[str, Any], dtype: str, mixed: bool
) -> dict[str, Any]:
    """Columns of a row: errors, dtype, status, message. What is `mixed` may differ as much as float32 does."""
    from converters import verify

    errors = verify.compare(module, graph, variables, compiler_options=verify.QUICK_COMPILATION)
    worst = max(errors.values())
    if mixed and not worst <= verify.TOLERANCE[dtype]:
        dtype = "mixed"
    passed = worst <= verify.TOLERANCE["float32" if dtype == "mixed" else dtype]
    return {f"{k}_error": f"{e:.3g}" for k, e in errors.items()} | {
        "dtype": dtype,
        "status": "passed" if passed else "failed",
        "message": "" if passed else f"differs by {worst:.1e} in {dtype}",
    }


def _has_casts(graph: Any, dtype: str) -> bool:
    """Whether the graph goes through that dtype where its own is another (timm's `x.float()`)."""
    from vtabjax.graph import DType

    def inside(item: Any) -> bool:
        if isinstance(item, DType):
            return item.name == dtype
        if isinstance(item, (list, tuple)):
            return any(map(inside, item))
        return isinstance(item, dict) and any(map(inside, item.values()))

    return any(inside(node.args) or inside(node.kwargs) for node in graph.nodes)


def _amplification(module: Any, images: Any) -> float:
    """Relative change of torch's own outputs over that of its inputs, for a change in the last digits."""
    from converters import verify

    change = 1e-12 if str(images.dtype) == "torch.float64" else 1e-6
    before, after = (verify.reference(module, x) for x in (images, images * (1 + change)))
    return max(verify.relative_error(after[k], before[k]) for k in before) / change


def _plan(
    source: str, name: str, options: dict[str, Any], parameters: int, memory: float, plan: int
) -> tuple[str, str, dict[str, Any]]:
    """(dtype, which blocks, options for the builder): the `plan`-th of those that fit into memory.

    Raises:
      MemoryError: there are not so many.
    """
    import torch

    for less in ({}, *REDUCED) if source == "timm" else ({},):
        if less:
            try:
                with torch.device("meta"):
                    module = _make(source, name, None, {**options, **less})
            except Exception:
                continue  # it has no such option
            parameters = sum(p.numel() for p in module.parameters())
        for dtype, cost in BYTES_PER_PARAMETER.items():
            if parameters * cost < memory:
                if plan == 0:
                    return dtype, _text(less) or "all", {**options, **less}
                plan -= 1
    raise MemoryError


def _text(options: Mapping[str, Any]) -> str:
    return " ".join(f"{k}={v}" for k, v in options.items())


def _make(source: str, name: str, size: int | None, options: dict[str, Any]):
    from converters.sources import timm, torchvision

    if source == "timm":
        return timm.timm.create_model(name, **options)
    return torchvision.make(name, size or torchvision.own_size(name))


def _size(source: str, name: str) -> tuple[int, dict[str, Any]]:
    """The image size, and the options it needs: the model's own size where it is fixed, else the smallest."""
    from converters.sources import timm, torchvision

    if source == "torchvision":
        own = torchvision.own_size(name)
        return next((s for s in SIZES if s < own and torchvision.works(name, s)), own), {}
    cfg = timm.config(name)
    own = cfg.input_size[1]
    # Windows shrink with small images and then hide what shifted windows do: those stay near their own size.
    least = 64 if not cfg.fixed_input_size else 96 if family(source, name) in _TOKENS else min(own, 224)
    for size in (s for s in SIZES if least <= s < own):
        options = timm.size_options(name, size)
        if options is not None:
            return size, options
    return own, {}


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


# The process that starts them and watches.


def _run_all(source: str, names: list[str], limits: Limits, jobs: int) -> Iterable[dict[str, Any]]:
    """Rows in the order in which they are done."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["converters.audit_imports"])
    waiting, running = list(reversed(names)), []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_Run(context, source, waiting.pop(), limits, 0))
            time.sleep(0.05)
            for run in list(running):
                row = run.poll()
                if row is None:
                    continue
                running.remove(run)
                # torch's float64 depthwise convolutions can take minutes: float32 gets a chance, once.
                if (row["status"] == "memory" and run.plan < 2) or (
                    row["status"] == "timeout" and not run.plan
                ):
                    running.append(_Run(context, source, run.name, limits, run.plan + 1, run.start))
                else:
                    yield row
    finally:
        for run in running:
            run.kill()


class _Run:
    """One model's process."""

    def __init__(
        self, context, source: str, name: str, limits: Limits, plan: int, start: float | None = None
    ):
        self.source, self.name, self.limits, self.plan = source, name, limits, plan
        self.start = time.monotonic() if start is None else start
        self.began = time.monotonic()
        self.row: dict[str, Any] = {}
        self.pipe, theirs = context.Pipe(duplex=False)
        self.process = context.Process(
            target=_measure, args=(source, name, limits, plan, theirs), daemon=True
        )
        self.process.start()
        theirs.close()

    def poll(self) -> dict[str, Any] | None:
        """The finished row, or None while the process runs."""
        alive = self.process.is_alive()
        self._receive()
        if "status" in self.row:
            return self._end({})
        if not alive:
            code = self.process.exitcode
            if code == -9:  # what the system does when memory runs out
                return self._end({"status": "memory", "message": "ended by the system"})
            return self._end({"status": "crashed", "message": f"the process ended with status {code}"})
        if time.monotonic() - self.began > self.limits.seconds:
            return self._end({"status": "timeout", "message": f"not done after {self.limits.seconds:g} s"})
        used = memory.resident(self.process.pid)
        if used > self.limits.memory:
            return self._end(
                {"status": "memory", "message": f"needs more than {self.limits.memory / 1e9:.0f} GB"}
            )
        return None

    def _receive(self) -> None:
        try:
            while self.pipe.poll():
                self.row = self.pipe.recv()
        except EOFError:
            pass

    def _end(self, changes: dict[str, Any]) -> dict[str, Any]:
        self.kill()
        seconds = round(time.monotonic() - self.start, 1)
        fixed = {"source": self.source, "name": self.name, "family": family(self.source, self.name)}
        row = dict.fromkeys(COLUMNS) | self.row | changes | fixed | {"seconds": seconds}
        if row["status"] == "memory" and not row["message"]:
            row["message"] = f"needs more than {self.limits.memory / 1e9:.0f} GB"
        row["message"] = row["message"] or ""
        return row

    def kill(self) -> None:
        """Ends the process, if it has not ended."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def family(source: str, name: str) -> str:
    """The module that defines an architecture, such as "vision_transformer"."""
    from converters.sources import timm, torchvision

    return (timm if source == "timm" else torchvision).family(name)


# The summary.


def summary(rows: Iterable[Mapping[str, str]]) -> str:
    """The table by family, in Markdown, and every model that did not pass or was changed, with the reason."""
    import importlib.metadata

    rows = list(rows)
    versions = ", ".join(
        f"{p} {importlib.metadata.version(p)}" for p in ("torch", "torchvision", "timm", "jax")
    )
    lines = [
        "# Coverage",
        "",
        "Written by `python -m converters audit`; the rows are in [coverage.csv](coverage.csv). Each architecture is",
        "built with random parameters, biases and running statistics, converted, and compared with torch on the same",
        "3 images. The error is max |Flax - torch| / max |torch| over features and logits, the worst of the family.",
        "",
        f"Versions: {versions}.",
    ]
    for source in sorted({r["source"] for r in rows}, reverse=True):
        here = [r for r in rows if r["source"] == source]
        passed = sum(r["status"] == "passed" for r in here)
        lines += ["", f"## {source}: {passed} of {len(here)} pass", ""]
        lines += ["| family | models | passed | parameters (M) | error, float64 | error, float32 |"]
        lines += ["|---|---:|---:|---:|---:|---:|"]
        for name in sorted({r["family"] for r in here}):
            lines.append(_family_line(name, [r for r in here if r["family"] == name]))
        lines += _listed("Not passed", [r for r in here if r["status"] != "passed"])
        lines += _listed("With fewer blocks of the same kind (too big otherwise)", [
            r for r in here if r["status"] == "passed" and r["blocks"] != "all"
        ])  # fmt: skip
        lines += _listed("In float64 with a part that the model itself computes in float32", [
            r for r in here if r["status"] == "passed" and r["dtype"] == "mixed"
        ])  # fmt: skip
        lines += _listed("In float32 (too big for float64)", [
            r for r in here if r["status"] == "passed" and r["dtype"] == "float32"
        ])  # fmt: skip
    return "\n".join(lines) + "\n"


def _family_line(name: str, rows: list[Mapping[str, str]]) -> str:
    millions = sorted(int(r["parameters"]) / 1e6 for r in rows if r["parameters"])
    span = f"{millions[0]:.1f}-{millions[-1]:.1f}" if millions else ""
    passed = [r for r in rows if r["status"] == "passed"]

    def worst(dtype: str) -> str:
        errors = [
            float(r[k])
            for r in passed
            if r["dtype"] == dtype
            for k in ("features_error", "logits_error")
            if r[k]
        ]
        return f"{max(errors):.0e}" if errors else ""

    return f"| {name} | {len(rows)} | {len(passed)} | {span} | {worst('float64')} | {worst('float32')} |"


def _listed(title: str, rows: list[Mapping[str, str]]) -> list[str]:
    if not rows:
        return []
    return ["", f"### {title}", ""] + [
        f"- `{r['name']}`" + "".join(f", {t}" for t in (_remark(r), r["message"]) if t) for r in rows
    ]


def _remark(row: Mapping[str, str]) -> str:
    return row["blocks"] if row["blocks"] not in ("", "all") else ""


def _is_glob(pattern: str) -> bool:
    return any(c in pattern for c in "*?[")


def _duration(seconds: float) -> str:
    minutes = int(seconds // 60)
    return (
        f"{minutes // 60} h {minutes % 60:02d} min"
        if minutes >= 60
        else f"{minutes} min {int(seconds % 60):02d} s"
    )


def run(args: Any) -> int:
    """The command. Returns 0 if every model that was asked for passes."""
    limit = args.memory_gb * 1e9 if args.memory_gb else 0.9 * memory.available() / args.jobs
    again = [s for s in args.again.split(",") if s]
    unknown = set(again) - set(STATUSES)
    if unknown:
        raise SpecError(f"--again: {', '.join(unknown)} is no status; they are {', '.join(STATUSES)}")
    if args.jobs < 1 or args.timeout <= 0:
        raise SpecError("--jobs and --timeout must be positive")
    rows = audit(args.source, args.models, args.out, Limits(limit, args.timeout), jobs=args.jobs, again=again)
    files.write_text(Path(args.out).with_suffix(".md"), summary(read(args.out)))
    failed = [r for r in rows if r["status"] != "passed"]
    for row in failed:
        print(describe(row))
    print(f"{len(rows) - len(failed)} of {len(rows)} pass; table: {args.out}")
    return 1 if failed else 0
