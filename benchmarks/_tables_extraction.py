"""The sections of docs/benchmarks.md about feature extraction."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Text = Callable[..., str]


def extraction(records: Sequence[dict], operators: dict, table: Text, origin: Text, gigabytes: Text) -> str:
    """A section for each processor that was measured, and one about single operators."""
    first, *others = (_models(record, table, origin, gigabytes) for record in records)
    names = [record["machine"]["processor"] for record in records[1:]]
    later = [f"### On {name}\n{text.partition(chr(10))[2]}" for name, text in zip(names, others, strict=True)]
    return "\n".join([first, *later, _operators(operators, table, origin)])


def _operators(record: dict, table: Text, origin: Text) -> str:
    rows = [
        [name, *(f"{found[s]['gflops']:.0f}" for s in ("vtabjax", "PyTorch eager")), f"{_times(found):.2f}"]
        for name, found in record["results"].items()
    ]
    limits = [name for name, found in record["results"].items() if _times(found) < 1]
    slower = f"XLA is the limit in {'; '.join(limits)}." if limits else "XLA is the limit in none of them."
    return f"""### Single operators

GFLOP/s of operators in which these models spend much of their time, batches of 16 images, float32, weights prepared beforehand:
{slower} A depthwise convolution has no product of matrices, and its speed is that of the memory.

{table(["operator", "vtabjax", "PyTorch eager", "times as fast"], rows)}

{origin(record)}
"""


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
    slower = (
        f"Compiled PyTorch is ahead on {' and '.join(ahead)}; it uses oneDNN's convolutions." if ahead else ""
    )
    gaining = [
        m
        for m, found in record["results"].items()
        if "PyTorch eager, huge pages" in found
        and found["PyTorch eager, huge pages"]["images_per_second"]
        > 1.05 * found["PyTorch eager"]["images_per_second"]
    ]
    gains = (
        f"; {' and '.join(gaining)} in PyTorch also gain from that setting\n"
        "(`GLIBC_TUNABLES=glibc.malloc.hugetlb=1`), but hardly anybody sets it, so it has a column of its own."
        if gaining
        else "."
    )
    return f"""## Feature extraction

Images per second, {settings["dtype"]}, 224 x 224, batches of {settings["batch_size"]}, medians of {settings["rounds"]} rounds; in
brackets, how many times as fast vtabjax is. PyTorch runs timm's own module in channels_last. main.py restarts itself so that memory
comes in huge pages, and vtabjax does so here, too{gains} {slower}

{table(["model", *sides], rows)}

Seconds until the first batch is done (importing, building, exporting, compiling; on CPUs also trying ways of operators):

{table(["model", *sides], starts)}

Peak memory of the process:

{table(["model", *sides], memory)}

{origin(record)}
"""
