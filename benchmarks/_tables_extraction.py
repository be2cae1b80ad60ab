"""The sections of docs/benchmarks.md about feature extraction."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Text = Callable[..., str]


def extraction(
    records: Sequence[dict], operators: dict, torchax: dict, table: Text, origin: Text, gigabytes: Text
) -> str:
    """A section for each processor that was measured, and one about single operators."""
    first, *others = (_models(record, table, origin, gigabytes) for record in records)
    names = [record["machine"]["processor"] for record in records[1:]]
    later = [f"### On {name}\n{text.partition(chr(10))[2]}" for name, text in zip(names, others, strict=True)]
    parts = [first, *later, _operators(operators, table, origin), _torchax(torchax, table, origin)]
    return "\n".join(parts)


def _operators(record: dict, table: Text, origin: Text) -> str:
    rows = [
        [name, *(f"{found[s]['gflops']:.0f}" for s in ("vtabjax", "PyTorch eager")), f"{_times(found):.2f}"]
        for name, found in record["results"].items()
    ]
    limits = sum(_times(found) < 1 for found in record["results"].values())
    return f"""### Single operators

GFLOP/s of operators in which these models spend much of their time, batches of 16 images, float32, ours with what depends on weights
alone done beforehand. In {limits} of {len(rows)} XLA's convolution is the limit, in groups and without a stride even written in the
fastest of the ways that we have; its products of matrices are ahead, and so is what it fuses around them.

{table(["operator", "vtabjax", "PyTorch eager", "times as fast"], rows)}

{origin(record)}
"""


def _torchax(record: dict, table: Text, origin: Text) -> str:
    rows = [
        [
            model,
            *(f"{found[s]['images_per_second']:.1f}" for s in ("vtabjax", "torchax")),
            f"{found['torchax']['times_as_fast_as_this']:.2f}",
        ]
        for model, found in record["results"].items()
    ]
    return f"""### torchax

Images per second, from an earlier run that had torchax as a rival, of three batches of 16 images:

{table(["model", "vtabjax", "torchax", "times as fast"], rows)}

{origin(record)}
"""


def _listed(names: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)


def _times(found: dict) -> float:
    return found["PyTorch eager"]["seconds"] / found["vtabjax"]["seconds"]


def _models(record: dict, table: Text, origin: Text, gigabytes: Text) -> str:
    settings = record["settings"]
    sides = list(next(iter(record["results"].values())))
    rows = []
    for model, found in record["results"].items():
        cells = [f"**{found['vtabjax']['images_per_second']:.1f}**"]
        for side in sides[1:]:
            speed, times = found[side]["images_per_second"], found[side]["times_as_fast_as_this"]
            cells.append(f"{speed:.1f} ({times:.2f})")
        rows.append([model, *cells])
    memory = [
        [m, *(gigabytes(found[s]["peak_bytes"]) for s in sides)] for m, found in record["results"].items()
    ]
    starts = [
        [m, *(f"{found[s]['start_seconds']:.1f}" for s in sides)] for m, found in record["results"].items()
    ]
    ahead = [
        m for m, found in record["results"].items() if found["PyTorch compiled"]["times_as_fast_as_this"] < 1
    ]
    slower = f"Compiled PyTorch is ahead on {_listed(ahead)}; it uses oneDNN's convolutions." if ahead else ""
    gaining = [
        m
        for m, found in record["results"].items()
        if "PyTorch eager, huge pages" in found
        and found["PyTorch eager, huge pages"]["images_per_second"]
        > 1.05 * found["PyTorch eager"]["images_per_second"]
    ]
    gains = (
        f"; {_listed(gaining)} in PyTorch also gain from that setting\n"
        "(`GLIBC_TUNABLES=glibc.malloc.hugetlb=1`), but hardly anybody sets it, so it has a column of its own."
        if gaining
        else "."
    )
    return f"""## Feature extraction

Images per second, {settings["dtype"]}, 224 x 224, batches of {settings["batch_size"]}, medians of {settings["rounds"]} rounds; in
brackets, how many times as fast vtabjax is. PyTorch runs timm's own module in channels_last. main.py restarts itself so that memory
comes in huge pages, and vtabjax does so here, too{gains} {slower}

{table(["model", *sides], rows)}

Seconds until the first batch is done: importing, building, exporting, trying ways of operators, compiling. Compiled PyTorch found
kernels of some of the models in its cache on disk:

{table(["model", *sides], starts)}

Peak memory of the process:

{table(["model", *sides], memory)}

{origin(record)}
"""
