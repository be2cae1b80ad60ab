"""The converters on the command line: ``python -m converters convert | list | check | verify | export | audit``."""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from vtabjax import installation, specs
from vtabjax.runtime import files
from vtabjax.specs import SpecError, pooling, weight_files
from vtabjax.sweep import artefacts

_CHECK = "check "  # begins a line on standard input that asks about models, in JSON, instead of naming one
# What `list` says of a model besides what it is asked to count.
_LISTED = ("source", "family", "license", "method", "pretraining_data", "input_size", "num_classes")


def main(argv: list[str] | None = None) -> int:
    """Runs one command. Returns the exit status: 0: everything asked for was done, 2: PyTorch is missing, else 1."""
    args = _parser().parse_args(argv)
    try:
        if args.run is not _export:
            installation.require("convert", f"{installation.converters_command()} {args.command}")
    except installation.MissingExtraError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    out = sys.stdout
    # Libraries print where they like; with --json_lines a reader of stdout must find nothing but JSON.
    quiet = contextlib.redirect_stdout(sys.stderr) if getattr(args, "json_lines", False) else None
    with quiet or contextlib.nullcontext():

        def say(record: dict[str, Any], text: str) -> None:
            print(json.dumps(record) if args.json_lines else text, file=out, flush=True)

        try:
            return args.run(args, say)
        except (SpecError, OSError, ValueError, RuntimeError) as e:
            print(f"error: {_one_line(e)}", file=sys.stderr)
            return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=installation.converters_command(), description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable, help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help)
        sub.set_defaults(run=run, command=name, json_lines=False)
        return sub

    def json_lines(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--json_lines", action="store_true", help="one JSON object per line on stdout, text on stderr"
        )

    sub = command(
        "convert", _convert, "Convert models to verified Flax artefacts; existing ones are skipped."
    )
    sub.add_argument(
        "specs",
        nargs="+",
        metavar="SPEC",
        help="such as timm/resnet50.a1_in1k or 'timm/resnet*'; - reads them from standard input, one per line",
    )
    sub.add_argument("--out", required=True, metavar="DIR", help="folder for the artefacts")
    sub.add_argument(
        "--input_size", type=int, metavar="N", help="height and width; default: the weights' own"
    )
    sub.add_argument(
        "--no_verify", action="store_true", help="do not compare the Flax model with the PyTorch module"
    )
    json_lines(sub)

    sub = command("list", _list, "List the models that patterns stand for, and what is known of them.")
    _add_list_arguments(sub)
    json_lines(sub)

    sub = command("check", _check, "Check that specs name models, without building or downloading them.")
    sub.add_argument("specs", nargs="+", metavar="SPEC")
    json_lines(sub)

    sub = command("verify", _verify, "Compare an artefact again with the PyTorch model it came from.")
    sub.add_argument("path", metavar="PATH", help="the artefact's folder")
    json_lines(sub)

    sub = command("export", _export, "Write an artefact's variables as a state_dict that PyTorch loads.")
    sub.add_argument("path", metavar="PATH", help="the artefact's folder")
    sub.add_argument("file", metavar="FILE.safetensors")

    sub = command("audit", _audit, "Check every architecture of a source with random weights.")
    sub.add_argument("--source", choices=("timm", "torchvision", "transformers", "open_clip"), required=True)
    sub.add_argument("--models", default="*", metavar="GLOB", help="architectures; default: all")
    sub.add_argument(
        "--out",
        default="docs/coverage.csv",
        metavar="CSV",
        help="the table; a summary (.md) is written beside it",
    )
    sub.add_argument("--jobs", type=int, default=1, metavar="N", help="models checked at the same time")
    sub.add_argument("--timeout", type=float, default=900, metavar="S", help="seconds one model may take")
    sub.add_argument(
        "--memory_gb", type=float, metavar="G", help="memory one model may take; default: what is free"
    )
    sub.add_argument("--again", default="", metavar="STATUS,...", help="repeat the rows with these statuses")
    return parser


def _add_list_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "patterns", nargs="+", metavar="PATTERN", help="such as 'timm/resnet*' or 'timm/vit*@random'"
    )
    sub.add_argument(
        "--parameters", action="store_true", help="count the parameters (takes a while for many)"
    )
    sub.add_argument(
        "--gflops", action="store_true", help="count the operations for one image (takes longer for many)"
    )
    sub.add_argument(
        "--input_size", type=int, metavar="N", help="at which they are counted; default: the weights' own"
    )


def _convert(args: argparse.Namespace, say: Callable) -> int:
    # From standard input each is converted when it comes: whoever writes decides how far ahead of them this goes.
    models: Iterable[str]
    if args.specs == ["-"]:
        models, failed, total = filter(None, (line.strip() for line in sys.stdin)), 0, "?"
    else:
        models, failed = _expand(args.specs, say)
        total = str(len(models))
    for i, spec in enumerate(models, 1):
        if spec.startswith(
            _CHECK
        ):  # asked first by whoever has models converted: libraries are imported once
            for asked in json.loads(spec.removeprefix(_CHECK)):
                _check_one(asked, say)
            continue
        start = time.monotonic()
        if total != "1":
            print(f"[{i}/{total}] {spec}", file=sys.stderr, flush=True)
        try:
            status, path = _convert_one(spec, args)
            message = ""
        except Exception as e:  # one model must not take the others down
            status, path, message = "failed", None, _one_line(e)
            failed += 1
        gc.collect()  # a batch may hold hundreds of models
        seconds = round(time.monotonic() - start, 2)
        record = {"spec": spec, "status": status, "path": path and str(path), "message": message}
        text = f"{status:<10} {spec}  {path or message}  ({seconds:.1f} s)"
        notes = _notes(path) if path is not None and status == "converted" else []
        say({**record, "seconds": seconds}, "\n".join([text, *(f"           {note}" for note in notes)]))
    return 1 if failed else 0


def _notes(path: Path) -> list[str]:
    return artefacts.notes(json.loads((path / "model.json").read_text(encoding="utf-8")))


def _expand(patterns: list[str], say: Callable) -> tuple[list[str], int]:
    """The models the patterns stand for, without repetitions, and how many patterns stand for none."""
    from . import sources

    found: dict[str, None] = {}
    failed = 0
    for pattern in patterns:
        try:
            found.update(dict.fromkeys(sources.list_models(pattern)))
        except SpecError as e:
            failed += 1
            record = {"spec": pattern, "status": "failed", "path": None, "message": str(e), "seconds": 0.0}
            say(record, f"{'failed':<10} {pattern}  {e}")
    return list(found), failed


def _convert_one(spec: str, args: argparse.Namespace) -> tuple[str, Path]:
    from . import sources

    given = artefacts.given(spec, args.input_size or 0)
    if given is not None:
        return "present", given
    size = args.input_size or sources.describe(spec)["input_size"][1]
    base = str(specs.parse(spec).base)  # one conversion serves every choice of features
    path = Path(args.out) / f"{specs.file_stem(base, Path(args.out) / weight_files.STORE)}-{size}"
    if (path / "model.json").exists():
        pooling.output(spec, json.loads((path / "model.json").read_text(encoding="utf-8")))
        return "present", path
    from .conversion import convert

    return "converted", convert(spec, args.out, input_size=args.input_size, verify=not args.no_verify)


def _list(args: argparse.Namespace, say: Callable) -> int:
    from . import sources

    failed = 0
    for pattern in args.patterns:
        try:
            found = sources.list_models(pattern)
        except SpecError as e:
            if not args.json_lines:
                raise
            failed += 1
            say({"spec": pattern, "status": "failed", "message": str(e)}, "")
            continue
        for spec in found:
            _list_one(spec, args, say)
    return 1 if failed else 0


def _list_one(spec: str, args: argparse.Namespace, say: Callable) -> None:
    from . import flops, sources

    info = sources.describe(spec, listed=True)
    record = {"spec": spec, **{name: info[name] for name in _LISTED}}
    text = f"{spec:<64} {'x'.join(map(str, info['input_size'][1:])):>9}"
    if args.parameters:
        record["parameters"] = sources.parameters(spec, listed=True)
        text += f" {record['parameters'] / 1e6:9.2f} M"
    if args.gflops:
        try:
            record["gflops"] = flops.gflops(spec, args.input_size)
            text += f" {record['gflops']:9.2f} GFLOPs"
        except Exception as e:  # a size that it cannot take: one model must not take the others down
            record["gflops"] = None
            print(f"{spec}: its operations cannot be counted: {_one_line(e)}", file=sys.stderr)
    say(record, f"{text}  {info['license'] or 'licence unknown'}")


def _check(args: argparse.Namespace, say: Callable) -> int:
    return 0 if all([_check_one(spec, say) for spec in args.specs]) else 1


def _check_one(spec: str, say: Callable) -> bool:
    from . import sources

    try:
        sources.list_models(spec)
        message = ""
    except SpecError as e:
        message = str(e)
    status = "failed" if message else "ok"
    say({"spec": spec, "status": status, "ok": not message, "message": message}, message or f"ok  {spec}")
    return not message


def _verify(args: argparse.Namespace, say: Callable) -> int:
    from .verify import verify_artefact

    _require_artefact(args.path)
    result = verify_artefact(args.path)
    say(result, "\n".join(f"{k}: {v}" for k, v in result.items()))
    return 0


def _export(args: argparse.Namespace, say: Callable) -> int:
    if not args.file.endswith(".safetensors"):
        raise ValueError(
            f"{args.file}: the state_dict is written as safetensors; name the file *.safetensors"
        )
    _require_artefact(args.path)
    from safetensors.numpy import save_file

    from vtabjax import model

    state = model.to_state_dict(model.load_parts(args.path))
    target = Path(args.file)
    with files.replacing(target) as temporary:
        save_file(state, temporary, metadata={"format": "pt"})
    print(f"{len(state)} tensors -> {target}")
    return 0


def _audit(args: argparse.Namespace, say: Callable) -> int:
    from . import audit

    return audit.run(args)


def _require_artefact(path: str) -> None:
    if not (Path(path) / "model.json").is_file():
        raise FileNotFoundError(
            f"{path} is not a converted model: it has no model.json; name the artefact's folder"
        )


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, (SpecError, FileNotFoundError)) else f"{type(error).__name__}: {text}"


if __name__ == "__main__":
    sys.exit(main())
