"""What a board says: means, ranks, strengths, and how sure all of it is."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vtabjax import ranking, tasks
from vtabjax.ranking import resampling
from vtabjax.report import naming
from vtabjax.report.boards import BALANCED, Board
from vtabjax.tables import MAJORITY, AccuracyRow, Column, accuracy_columns, levels, whole_groups

# The penalty of the fit that is shown, labelled as such, where the maximum-likelihood estimate is not finite.
RIDGE = 0.1


@dataclasses.dataclass(frozen=True)
class Options:
    """How uncertainty is computed.

    Attributes:
      resamples: draws of tasks, of examples and of models.
      seed: of the draws.
      tie_margin: accuracy (a fraction) within which two models tie.
      example_rounds: 0: a round of EPP is a task; n: it is one of n resamples of a task's examples.
      reference: spec of the model whose strength is 0; "": the mean is.
    """

    resamples: int = 1000
    seed: int = 0
    tie_margin: float = 0.0
    example_rounds: int = 0
    reference: str = ""


@dataclasses.dataclass(frozen=True)
class Strengths:
    """EPP of a board.

    Attributes:
      fit: what is shown: the maximum-likelihood fit, or the penalised one where that is not finite.
      within: the fit inside each component where the whole is not finite; else None.
      scores: relative to the reference, [M].
      low: lower end of the 95 % interval from the clustered standard errors, [M].
      high: its upper end.
      boot_low: the same from the bootstrap over tasks.
      boot_high: its upper end.
      rank_low: best rank in 95 % of the resamples, [M].
      rank_high: worst rank.
      best: share of the resamples in which the model is the best, [M].
      n_penalised: resamples without a finite estimate.
      one_step: whether resamples are steps instead of fits, see `vtabjax.ranking.resampling.bootstrap`.
      unbeaten: rows that lost no match.
      goodness: of `fit`.
      wins: P(row beats column) with intervals.
      reference: the row at zero, or None.
      rounds: "task", or "resample of a task's examples".
    """

    fit: ranking.Epp
    within: ranking.Epp | None
    scores: np.ndarray
    low: np.ndarray
    high: np.ndarray
    boot_low: np.ndarray
    boot_high: np.ndarray
    rank_low: np.ndarray
    rank_high: np.ndarray
    best: np.ndarray
    n_penalised: int
    one_step: bool
    unbeaten: list[int]
    goodness: ranking.GoodnessOfFit
    wins: ranking.WinProbabilities
    reference: int | None
    rounds: str

    @property
    def strongest(self) -> list[int]:
        """All rows, the strongest first."""
        return sorted(range(len(self.fit.scores)), key=lambda i: (-self.fit.scores[i], i))


@dataclasses.dataclass(frozen=True)
class Differences:
    """Mean accuracy against the leader's, by a paired bootstrap of the test examples.

    Attributes:
      leader: its row.
      rows: rows that have per-example correctness on every task, the leader's among them.
      difference: leader minus row, [len(rows)].
      low: 95 % interval.
      high: 95 % interval.
      mean_low: lower end of the 95 % interval of each row's own mean, [len(rows)].
      mean_high: its upper end.
    """

    leader: int
    rows: list[int]
    difference: np.ndarray
    low: np.ndarray
    high: np.ndarray
    mean_low: np.ndarray
    mean_high: np.ndarray


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What a board says.

    Attributes:
      board: the board.
      low: lower end of the 95 % interval of each value, [M, T]; NaN where n is unknown.
      high: its upper end.
      complete: rows that have every task, [M].
      mean: [M]; NaN for rows that lack a task: a mean over what happens to be there compares with nothing.
      groups: VTAB's groups -> their columns, where all of the group's tasks are there.
      group_means: group -> [M].
      mean_of_groups: [M], or None without all three groups.
      ranks: within each task, [M, T].
      mean_rank: [M]; NaN for incomplete rows.
      top: how many places count as among the best: 5, or fewer with few models.
      top_counts: tasks on which each row is among the `top` best, [M].
      order: rows, the best first: complete ones by their mean, the others behind by their strength.
      strengths: EPP, or None.
      no_strengths: why there is none.
      differences: against the leader, or None.
      no_differences: why there are none.
      levels: the rows below the models: chance, and the most frequent class.
      names: of the models, for people, without what all share.
      shared: what the names leave out, in words.
      task_names: of the tasks, for people.
    """

    board: Board
    low: np.ndarray
    high: np.ndarray
    complete: np.ndarray
    mean: np.ndarray
    groups: dict[str, list[int]]
    group_means: dict[str, np.ndarray]
    mean_of_groups: np.ndarray | None
    ranks: np.ndarray
    mean_rank: np.ndarray
    top: int
    top_counts: np.ndarray
    order: list[int]
    strengths: Strengths | None
    no_strengths: str
    differences: Differences | None
    no_differences: str
    levels: list[AccuracyRow]
    names: list[str]
    shared: str
    task_names: list[str]

    @property
    def leader(self) -> int | None:
        """The row with the best mean, or None where no row has all tasks."""
        return self.order[0] if self.complete.any() else None

    def accuracy_row(self, i: int) -> AccuracyRow:
        """A model's row, by its number."""
        return AccuracyRow(
            self.board.models[i].display_name,
            self.board.values[i],
            {group: float(means[i]) for group, means in self.group_means.items()},
            float(self.mean[i]),
            None if self.mean_of_groups is None else float(self.mean_of_groups[i]),
        )

    def accuracy_columns(self) -> list[Column]:
        """What is said of each `AccuracyRow`."""
        has_mean_of_groups = self.mean_of_groups is not None
        return accuracy_columns(
            self.board.tasks, self.groups, mean_of_groups=has_mean_of_groups, kind="percent"
        )

    @property
    def floor(self) -> np.ndarray:
        """What is reached on each task without looking at a picture, the higher of chance and majority, [T]."""
        levels = np.array([row.values for row in self.levels], float).reshape(-1, len(self.board.tasks))
        return np.nan_to_num(levels, nan=-np.inf).max(axis=0, initial=-np.inf)

    @property
    def by_top(self) -> list[int]:
        """All rows, the one that is among the best on most tasks first."""
        place = {row: k for k, row in enumerate(self.order)}
        return sorted(place, key=lambda i: (-self.top_counts[i], place[i]))


def analyse(board: Board, options: Options) -> Analysis:
    """Everything about a board of accuracies."""
    values = board.values
    complete = ~np.isnan(values).any(1)
    mean = np.where(complete, np.nan_to_num(values).mean(1), np.nan)
    groups = whole_groups(board.tasks)
    group_means = {name: values[:, columns].mean(1) for name, columns in groups.items()}
    low, high = _intervals(board)
    ranks = ranking.ranks(values)
    strengths, no_strengths = _strengths(board, options)
    # Models that lack tasks come last, by their strength on those they have.
    behind = strengths.fit.scores if strengths else np.nan_to_num(ranks, nan=1e9).mean(1) * -1
    order = sorted(
        range(len(values)), key=lambda i: (not complete[i], -mean[i] if complete[i] else -behind[i], i)
    )
    differences, no_differences = _differences(board, complete, order, options)
    top = 5 if len(values) >= 15 else 3 if len(values) >= 8 else 1
    names, shared = naming.of_models(board.models)
    return Analysis(
        board=board,
        low=low,
        high=high,
        complete=complete,
        mean=mean,
        groups=groups,
        group_means=group_means,
        mean_of_groups=np.mean(list(group_means.values()), axis=0)
        if len(groups) == len(tasks.VTAB_GROUPS)
        else None,
        ranks=ranks,
        mean_rank=np.where(complete, np.nan_to_num(ranks).mean(1), np.nan),
        top=top,
        top_counts=ranking.top_counts(values, top),
        order=order,
        strengths=strengths,
        no_strengths=no_strengths,
        differences=differences,
        no_differences=no_differences,
        levels=_levels(board, groups),
        names=names,
        shared=shared,
        task_names=naming.of_tasks(board.tasks),
    )


def _intervals(board: Board) -> tuple[np.ndarray, np.ndarray]:
    """95 % intervals of the values, two of [M, T]: Wilson's, or of resamples of groups where there are some."""
    n = board.n_examples if board.n_effective is None else board.n_effective
    low, high = resampling.wilson(board.values, np.where(n > 0, n, np.nan))
    for cell, groups in board.groups.items():
        # A further or a balanced accuracy has no record of each example and its class.
        known = cell in board.correct
        low[cell], high[cell] = (
            resampling.group_interval(board.correct[cell], groups) if known else (np.nan, np.nan)
        )
    return low, high


class _Rounds(NamedTuple):
    """What EPP is fitted to: scores [M, R], the task of each round [R], and what a round is."""

    scores: np.ndarray
    clusters: np.ndarray
    kind: str


def _rounds(board: Board, options: Options) -> _Rounds | None:
    """The matches of a board; None where resamples of examples are wanted and there are none per example."""
    m, t = board.values.shape
    if not options.example_rounds:
        return _Rounds(board.values, np.arange(t), "task")
    if not _same_examples(board, range(m)):
        return None
    correct = [np.array([board.correct[i, j] for i in range(m)]) for j in range(t)]
    scores, clusters = resampling.example_rounds(
        correct,
        n_resamples=options.example_rounds,
        seed=options.seed,
        groups=[board.groups.get((0, j)) for j in range(t)],
    )
    return _Rounds(scores, clusters, "resample of a task's examples")


def _fits(rounds: _Rounds, options: Options) -> tuple[ranking.Epp, ranking.Epp | None]:
    """The fit that is shown, and the one within components where that is a penalised one."""

    def fit(ridge: float | None) -> ranking.Epp:
        return ranking.epp(
            rounds.scores, tie_margin=options.tie_margin, clusters=rounds.clusters, ridge=ridge
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what it says is in the report
        unpenalised = fit(None)
    return (unpenalised, None) if unpenalised.finite else (fit(RIDGE), unpenalised)


def _levels(board: Board, groups: Mapping[str, Sequence[int]]) -> list[AccuracyRow]:
    rows = []
    by_name = levels(board.tasks)
    if board.metric == BALANCED:
        by_name.pop(MAJORITY, None)  # it is right on one class, and so at the level of chance
    for name, by_task in by_name.items():
        values = np.array([np.nan if v is None else v for v in by_task])
        means = {group: float(values[columns].mean()) for group, columns in groups.items()}
        mean_of_groups = float(np.mean(list(means.values()) or [np.nan]))
        rows.append(AccuracyRow(name, values, means, float(values.mean()), mean_of_groups))
    return rows


def _strengths(board: Board, options: Options) -> tuple[Strengths | None, str]:
    """EPP of a board; None and why where there is none."""
    m, t = board.values.shape
    if m < 2:
        return None, "a ranking needs two models or more"
    rounds = _rounds(board, options)
    if rounds is None:
        return None, "rounds of resampled examples need per-example results of every model on every task"
    fit, within = _fits(rounds, options)
    if not fit.wins.any():
        return None, "no two models ran the same task"
    resampled = resampling.bootstrap(
        rounds.scores,
        n_resamples=options.resamples,
        seed=options.seed,
        ridge=RIDGE if within is not None else None,
        tie_margin=options.tie_margin,
        clusters=rounds.clusters,
    )
    samples, scores, errors = resampled.scores, fit.scores, fit.standard_errors
    reference = next((i for i, x in enumerate(board.models) if options.reference in (x.spec, x.label)), None)
    if reference is not None:
        scores, errors = ranking.relative_to(fit, reference)
        samples = samples - samples[:, [reference]]
    half = ranking.t_multiplier(fit.n_clusters) * errors
    unknown = np.full(m, np.nan), np.full(m, np.nan)  # one task has no resamples but itself
    boot_low, boot_high = resampling.interval(samples) if t > 1 else unknown
    sample_ranks = ranking.ranks(resampled.scores.T, method="min").T
    rank_low, rank_high = resampling.interval(sample_ranks) if t > 1 else unknown
    lost = fit.wins.sum(0)
    return Strengths(
        fit=fit,
        within=within,
        scores=scores,
        low=scores - half,
        high=scores + half,
        boot_low=boot_low,
        boot_high=boot_high,
        rank_low=rank_low,
        rank_high=rank_high,
        best=resampling.first_share(resampled.scores),
        n_penalised=resampled.n_penalised,
        one_step=resampled.one_step,
        unbeaten=[i for i in range(m) if lost[i] == 0 and fit.wins[i].any()],
        goodness=ranking.goodness_of_fit(fit),
        wins=ranking.win_probabilities(fit),
        reference=reference,
        rounds=rounds.kind,
    ), ""


def _same_examples(board: Board, rows: Sequence[int]) -> bool:
    """Whether the rows have correctness on every task, about the same examples."""
    fingerprints = [{board.examples.get((i, j)) for i in rows} for j in range(len(board.tasks))]
    return all(len(different) == 1 and None not in different for different in fingerprints)


def _differences(
    board: Board, complete: np.ndarray, order: Sequence[int], options: Options
) -> tuple[Differences | None, str]:
    if not complete.any():
        return None, "no model has all tasks"
    leader = order[0]
    if not _same_examples(board, [leader]):
        if board.metric == BALANCED:
            return (
                None,
                "results do not hold the class of each example, which balanced accuracies are resampled by",
            )
        return None, "there are no per-example results" + (" in published tables" if board.published else "")
    rows = [i for i in order if complete[i] and _same_examples(board, [leader, i])]
    if len(rows) < 2:
        return None, "only one model has all tasks with per-example results"
    correct = [np.array([board.correct[i, j] for i in rows]) for j in range(len(board.tasks))]
    means = resampling.paired_means(
        correct,
        n_resamples=options.resamples,
        seed=options.seed,
        groups=[board.groups.get((leader, j)) for j in range(len(board.tasks))],
    )
    low, high = resampling.interval(means[:, :1] - means)
    mean_low, mean_high = resampling.interval(means)
    accuracy = np.mean([c.mean(1) for c in correct], axis=0)
    return Differences(
        leader=leader,
        rows=rows,
        difference=accuracy[0] - accuracy,
        low=low,
        high=high,
        mean_low=mean_low,
        mean_high=mean_high,
    ), ""
