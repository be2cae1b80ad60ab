"""docs/benchmarks.md and the table of scopes in docs/finetune.md from benchmarks/results: python benchmarks/tables.py"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import _alternate
import _tables_extraction
import _tables_scale

PAGE = _alternate.ROOT / "docs" / "benchmarks.md"
FINETUNE = _alternate.ROOT / "docs" / "finetune.md"  # holds one of the tables, between two comments
SCOPES_BEGIN, SCOPES_END = "<!-- scopes: written by benchmarks/tables.py -->\n", "<!-- end -->\n"
HEAD = """# Benchmarks

Every figure on this page comes from a file in [benchmarks/results](../benchmarks/results) and from the command named below it;
`python benchmarks/tables.py` writes the page from those files. vtabjax and its rivals take turns in the same run on the same machine:
two cores, of an AMD EPYC wherever the file names the processor (those for nearest neighbours and linear evaluation say only x86_64);
a section of its own is about a GPU.
Where a load average above 1 is given, other work ran at the same time; ratios then mean more than seconds.

    pip install -r requirements-bench.txt
"""


def read(name: str) -> dict:
    return json.loads((_alternate.RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def origin(*records: dict) -> str:
    """How the figures came about: command, machine, versions."""
    lines = []
    for record in records:
        machine = record["machine"]
        load = record.get("load_average", [0])[0]
        if isinstance(machine, dict):
            load = machine.get("load_before", machine.get("load_average", load))
            name = machine.get("processor") or machine.get("cpu")
            machine = f"{name}, {machine.get('cores', machine.get('processors'))} cores"
        versions = ", ".join(f"{k} {v}" for k, v in record["versions"].items())
        commands = ", ".join(f"`{command}`" for command in record["command"].split("; "))
        lines.append(f"{commands} ({machine}; load average before: {load:.1f}; {versions})")
    return "\n\n".join(lines)


def gigabytes(n: float) -> str:
    return f"{n / 1e9:.1f} GB"


def extraction() -> str:
    files = sorted(_alternate.RESULTS.glob("extraction*.json"), key=lambda path: (len(path.stem), path.stem))
    records = [read(path.stem) for path in files]
    return _tables_extraction.extraction(
        records, read("operators"), read("torchax"), table, origin, gigabytes
    )


def training() -> str:
    record = read("finetune")
    rows = []
    for model, size in dict.fromkeys((r["model"], r["image_size"]) for r in record["results"]):
        found = {r["library"]: r for r in record["results"] if (r["model"], r["image_size"]) == (model, size)}
        ours, theirs = (found[library]["images_per_second"] for library in ("vtabjax", "torch"))
        rows.append(
            [
                model,
                f"{size} x {size}",
                found["torch"]["batch_size"],
                f"**{ours:.0f}**",
                f"{theirs:.0f} ({ours / theirs:.2f})",
            ]
        )
    return f"""## A fine-tuning step

Training images per second on CPUs, float32: forward, backward, SGD with momentum. In brackets, how many times as fast vtabjax
is. Depthwise convolutions, batch norm in training mode, max pooling and sums over a batch have gradients written for XLA's
CPU backend (`vtabjax/ops/_gradients.py`); those of other convolutions are XLA's. Medians of three rounds; an earlier run of
shorter rounds on the same day had resnet18 at 0.98 and efficientnet_b0 at 0.97 at 64 pixels: read a tenth or two as noise.

{table(["model", "images", "batch", "vtabjax", "PyTorch eager, channels_last"], rows)}

{origin(record)}
"""


def pipeline() -> str:
    record = read("images")
    rows = [[name, f"{found['median']:.0f}"] for name, found in record["images_per_second"].items()]
    return f"""## Image pipeline

{record["work"]}; images per second.

{table(["", "images/s"], rows)}

{origin(record)}
"""


def sweep() -> str:
    record = read("sweep")
    stages = record["stages"]
    rows = [
        [name, f"{record['seconds'][name]:.0f} s"]
        + [
            ", ".join(
                f"{stage} {statistics.median(r[stage] for r in stages[name]):.0f}"
                for stage in stages[name][0]
            )
        ]
        for name in record["seconds"]
    ]
    agreement = "; ".join(
        f"{name}: {found['equal_within_0.002']} of {found['of']}"
        for name, found in record["agreement"].items()
    )
    models = len(record["settings"]["models"].split(","))
    return f"""## A sweep, end to end

{models} models on {record["settings"]["tasks"].replace(",", " and ")} at 64 x 64, from an empty folder to the last score: leave-one-out
kNN, linear evaluation over 12 values of C, LEEP. Ours runs main.py three times, with every conversion, verification and compilation; the
other is [a plain script](../benchmarks/plain_script.py) on timm and scikit-learn that keeps nothing, verifies nothing and cannot resume.
vtabjax is **{record["times_faster"]:.1f} times as fast**.

{table(["", "median", "seconds by stage"], rows)}

Scores that agree within 0.002 (two examples in a thousand; nats for LEEP): {agreement}. Where linear evaluations differ,
scikit-learn stopped before the minimum, or a different C won on 200 examples.

{origin(record)}
{sweep_before()}"""


def sweep_before() -> str:
    """The same sweep with an earlier commit, where that was measured."""
    if not (_alternate.RESULTS / "sweep_before.json").exists():
        return ""
    record = read("sweep_before")
    seconds = {
        side: {stage: statistics.median(found) for stage, found in stages.items()}
        for side, stages in record["seconds"].items()
    }
    totals = {side: sum(stages.values()) for side, stages in seconds.items()}
    by_stage = ", ".join(
        f"{stage} {found:.0f} s ({found / seconds['after'][stage]:.2f})"
        for stage, found in seconds["before"].items()
    )
    same = ", ".join(f"{name} {row['equal']} of {row['of']}" for name, row in record["agreement"].items())
    largest = max(row["largest_difference"] for row in record["agreement"].values())
    return f"""
Commit {record["commits"]["before"]} took {totals["before"]:.0f} s for the same commands where {record["commits"]["after"]} took
{totals["after"]:.0f} s, in turn on the same machine: **{totals["before"] / totals["after"]:.2f} times as long**. By stage: {by_stage}; in
parentheses how many times as long. Results with the very same metrics: {same}; the others differ by {largest:.0e} at most.

{origin(record)}
"""


def start() -> str:
    record = read("start")
    rows = [
        [name, f"{found['seconds']:.2f} s", gigabytes(found["peak_bytes"])]
        for name, found in record["results"].items()
    ]
    return f"""## Starting

Wall time and peak memory of a whole command (memory: of its largest process); "cold" is the README's first command in an empty
folder.

{table(["", "median", "peak memory"], rows)}

{origin(record)}
"""


def growth() -> str:
    record = read("growth")
    rows = []
    for name, found in record["curves"].items():
        sizes, seconds = zip(*((float(n), s) for n, s in found["seconds"].items()), strict=True)
        each, fixed = statistics.linear_regression(sizes, seconds)
        line = f"{fixed:.1f} s + {each:.2f} s each" if "sweep" in name else ""
        curve = ", ".join(f"{n}: {s:.2f}" for n, s in found["seconds"].items())
        rows.append([name, curve, f"{found['slope']:.2f}", line])
    return f"""## How cost grows

Seconds by size, and the slope of their logarithms (1: proportional, 2: quadratic). A sweep has a cost of starting and a constant cost
per model, so its line says more than its slope. Devices are simulated on the same cores: free sharding would take the same time on any
number of them. [What hundreds of models cost](scale.md) builds on this.

{table(["", "seconds", "slope", "line"], rows)}

{origin(record)}
"""


def report() -> str:
    record, large = read("report"), read("report_3000")
    return f"""## The report

{record["task"]}: written in {record["seconds_to_write"]["page and tables"]:.0f} s
({record["seconds_to_write"]["with figures"]:.0f} s with figures), {record["megabytes"]:.0f} MB; in the browser the first paint comes after
{record["ms_first_paint"]} ms, filtering takes {statistics.median(record["ms_filter"]):.0f} ms, sorting
{statistics.median(record["ms_sort"]):.0f} ms (medians).

{large["task"]}: {large["megabytes"]:.0f} MB, the first paint after {large["ms_first_paint"]} ms, all of what is laid out at first after
{large["ms_load"] / 1000:.1f} s; filtering takes {statistics.median(large["ms_filter"]):.0f} ms, sorting {statistics.median(large["ms_sort"]):.0f} ms (medians), {max(large["ms_filter"] + large["ms_sort"])} ms at most.

{origin(record, large)}
"""


def gpu_rows(record: dict, part: str) -> Iterable[Sequence[object]]:
    for model, sides in record[part].items():
        for side, found in sides.items():
            yield [
                model,
                side,
                f"{found['images_per_second']:,.0f}",
                f"{found['vtabjax_is_times_as_fast']:.2f}",
                f"{100 * found['share_of_peak']:.0f} %",
                gigabytes(found["peak_device_bytes"]),
                f"{found['start_seconds']:.0f} s",
            ]


def gpu() -> str:
    record, earlier = read("gpu"), read("gpu_h200")
    settings, chip = record["settings"], record["chip"]["PyTorch"]
    columns = [
        "model",
        "",
        "images/s",
        "vtabjax is times as fast",
        "of the peak",
        "peak memory",
        "first round after",
    ]
    bfloat16, autocast = "PyTorch compiled, bfloat16 weights", "PyTorch compiled, autocast"
    compared = [
        [
            part,
            model,
            *(
                f"{found[part][model][side]['vtabjax_is_times_as_fast']:.2f}" if model in found[part] else ""
                for found in (earlier, record)
            ),
        ]
        for part, side in (("extraction", bfloat16), ("training", autocast))
        for model in earlier[part]
    ]
    swept = [
        [protocol, *(f"{s:.0f} s" for s in (row["wall"], stages["features"], sum(own)))]
        for protocol, row in record["sweep"].items()
        for stages in (row["seconds_by_stage"],)
        for own in ([s for what, s in stages.items() if what not in ("convert", "load", "data", "features")],)
    ]
    neighbours, scores = record["knn"], record["scores"]["vtabjax"]["seconds_by_score"]
    return f"""## On a GPU

{record["device"]}. What it can do: {chip["teraflops"]:.0f} TFLOP/s in a product of bfloat16 matrices of {settings["matrix"]} x
{settings["matrix"]}, {chip["copy_gigabytes_per_second"]:,.0f} GB/s in a copy. Weights are random.

Features of uint8 images that are on the GPU, bfloat16, batches of {settings["extraction_batch"]}:

{table(columns, gpu_rows(record, "extraction"))}

Steps of fine-tuning, bfloat16 with float32 weights, batches of {settings["training_batch"]}:

{table(columns, gpu_rows(record, "training"))}

"First round after" is longer for vtabjax because its sides wait for each other to compile, all others get ready at once.

Times as fast as compiled PyTorch (bfloat16 weights; training: autocast) in an earlier run on an {earlier["device"].split(",")[0]},
and in this one, with GELU by erf, attention and its gradient by cuDNN, layer norm of wide rows in one pass and the patches of an
image as a product:

{table(["", "model", "earlier", "now"], compared)}

Leave-one-out nearest neighbours, {settings["knn_examples"]:,} x {settings["features"]:,} in the host's memory: {neighbours["vtabjax"]["wall"]:.2f} s; PyTorch in
float32, whose neighbours are not exact, {neighbours["PyTorch float32"]["wall"]:.2f} s.

Ten transferability scores of {settings["score_examples"]:,} x {settings["features"]:,} features in {settings["score_classes"]} classes, on that machine's processor:
{sum(scores.values()) - scores["one SVD"]:.1f} s; one SVD of the features takes {scores["one SVD"]:.1f} s.

Six models on the embedded tasks from an empty folder, the three commands one after the other, seconds (of which: passes with their
compilation, and the protocol itself; images are prepared and models converted by the first):

{table(["", "in all", "passes", "protocol"], swept)}

Searches as small as those of a task run on the host's processor: on the GPU they took 56 s to compile.

{origin(record, earlier)}
"""


def own_pictures() -> str:
    record = read("table")
    found = record["tables"]["parquet"]
    seconds = ", ".join(f"{stage} {s:.0f}" for stage, s in found["seconds"].items() if s >= 1)
    return f"""## Many pictures of your own

Leave-one-out nearest neighbours of {found["examples"]:,} of {record["settings"]["pictures"]:,} pictures ({record["settings"]["edge"]} x
{record["settings"]["edge"]}, in one Parquet file of {gigabytes(found["table_bytes"])}; the others are the test set), model embedded/sprites_resnet:
{found["wall_seconds"]:.0f} s ({seconds}), at most {gigabytes(found["peak_bytes"])} of memory; progress was written
{found["progress"]["times_written"]:,} times, the longest pause was {found["progress"]["longest_pause_seconds"]:.0f} s.

{origin(record)}
"""


def scopes() -> str:
    record = read("scopes")
    settings = record["settings"]
    rows = []
    for model, found in record["results"].items():
        for scope, of in found.items():
            accuracies = [of["accuracy"][task] for task in settings["tasks"]]
            rows.append(
                [model, scope, *(f"{100 * a:.1f}" for a in accuracies)]
                + [f"{100 * statistics.mean(accuracies):.1f}"]
                + [f"{of['trainable_parameters'][settings['tasks'][0]]:,}", f"{of['seconds']:.0f} s"]
            )
    return f"""Test accuracy in percent on the embedded tasks at {settings["image_size"]} pixels, each scope with the same grid: {settings["optimizer"]},
learning rates {settings["learning_rates"].replace(",", " and ")}, {settings["steps"]} steps in batches of {settings["batch_size"]}, {settings["schedule"]},
{settings["warmup"]} steps of warm-up; one seed. "Trained": weights that are trained for {settings["tasks"][0]}, its head included; seconds: of the
median cell, grid, retraining and test. The transformer's weights are random, so that the scopes which keep them have little to work with.

{table(["model", "scope", *settings["tasks"], "mean", "trained", "seconds"], rows)}

{record.get("note", "")}

{origin(record)}
"""


def with_scopes(text: str) -> str:
    """The text of docs/finetune.md with the table of scopes."""
    begin, end = text.index(SCOPES_BEGIN) + len(SCOPES_BEGIN), text.index(SCOPES_END)
    return text[:begin] + scopes() + text[end:]


def proxies() -> str:
    return _tables_scale.proxies(read("knn"), read("linear"), read("knn_memory"), table, origin, gigabytes)


def scores() -> str:
    return _tables_scale.scores(read("scores"), table, origin)


def sweep_scale() -> str:
    return _tables_scale.sweep_scale(read("sweep_scale"), table, origin, gigabytes)


def page() -> str:
    parts = [
        extraction,
        training,
        gpu,
        proxies,
        scores,
        pipeline,
        own_pictures,
        sweep,
        sweep_scale,
        start,
        growth,
        report,
    ]
    return "\n".join([HEAD, *(part() for part in parts)])


def main() -> None:
    texts = {PAGE: page(), FINETUNE: with_scopes(FINETUNE.read_text(encoding="utf-8"))}
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
        print(f"-> {Path(path)}", file=sys.stderr)


if __name__ == "__main__":
    main()
