"""What a board says: means, ranks, strengths, and how sure all of it is."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence

import numpy as np

from vtabjax import ranking, resampling, tables, tasks
from vtabjax.report.boards import Board

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
    """

    leader: int
    rows: list[int]
    difference: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclasses.dataclass(frozen=True)
class Level:
    """What is reached on a board's tasks without looking at a picture.

    Attributes:
      name: "(chance)" or "(majority)".
      values: by task, [T]; NaN where it is not known.
      group_means: as those of an `Analysis`, of this row.
      mean: NaN where a task's value is not known.
      mean_of_groups: the same over the groups' means.
    """

    name: str
    values: np.ndarray
    group_means: dict[str, float]
    mean: float
    mean_of_groups: float


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What a board says.

    Attributes:
      board: the board.
      low: lower end of the 95 % (Wilson) interval of each value, [M, T]; NaN where n is unknown.
      high: its upper end.
      complete: rows that have every task, [M].
      mean: [M]; NaN for rows that lack a task: a mean over what happens to be there compares with nothing.
      groups: VTAB's groups -> their columns, where all of the group's tasks are there.
      group_means: group -> [M].
      mean_of_groups: [M], or None without all three groups.
      ranks: within each task, [M, T].
      mean_rank: [M]; NaN for incomplete rows.
      top5: tasks on which each row is among the five best, [M].
      order: rows, the best first: complete ones by their mean, the others behind by their strength.
      strengths: EPP, or None.
      no_strengths: why there is none.
      differences: against the leader, or None.
      no_differences: why there are none.
      levels: the rows below the models: chance, and the most frequent class.
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
    top5: np.ndarray
    order: list[int]
    strengths: Strengths | None
    no_strengths: str
    differences: Differences | None
    no_differences: str
    levels: list[Level]

    @property
    def leader(self) -> int | None:
        """The row with the best mean, or None where no row has all tasks."""
        return self.order[0] if self.complete.any() else None

    @property
    def by_top5(self) -> list[int]:
        """All rows, the one that is among the five best on most tasks first."""
        return sorted(range(len(self.board.models)), key=lambda i: (-self.top5[i], self.order.index(i)))


def analyse(board: Board, options: Options) -> Analysis:
    """Everything about a board of accuracies."""
    v = board.values
    complete = ~np.isnan(v).any(1)
    mean = np.where(complete, np.nan_to_num(v).mean(1), np.nan)
    groups = {}
    for group in ("Natural", "Specialized", "Structured"):
        members = [t for t in tasks.VTAB if tasks.get(t).group == group]
        if set(members) <= set(board.tasks):
            groups[group] = [board.tasks.index(t) for t in members]
    group_means = {name: v[:, columns].mean(1) for name, columns in groups.items()}
    known = np.where(board.n > 0, board.n, np.nan)
    low, high = resampling.wilson(v, known)
    ranks = ranking.ranks(v)
    strengths, why = _strengths(board, options)
    behind = strengths.fit.scores if strengths else np.nan_to_num(ranks, nan=1e9).mean(1) * -1
    order = sorted(range(len(v)), key=lambda i: (not complete[i], -mean[i] if complete[i] else -behind[i], i))
    differences, why_not = _differences(board, complete, order, options)
    return Analysis(
        board,
        low,
        high,
        complete,
        mean,
        groups,
        group_means,
        np.mean(list(group_means.values()), axis=0) if len(groups) == 3 else None,
        ranks,
        np.where(complete, np.nan_to_num(ranks).mean(1), np.nan),
        ranking.top_counts(v, 5),
        order,
        strengths,
        why,
        differences,
        why_not,
        _levels(board, groups),
    )


def _levels(board: Board, groups: dict[str, list[int]]) -> list[Level]:
    found = []
    for name, level in tables.levels(board.tasks).items():
        values = np.array([np.nan if v is None else v for v in level.values()])
        means = {group: float(values[columns].mean()) for group, columns in groups.items()}
        found.append(
            Level(name, values, means, float(values.mean()), float(np.mean(list(means.values()) or [np.nan])))
        )
    return found


def _strengths(board: Board, options: Options) -> tuple[Strengths | None, str]:
    m, t = board.values.shape
    if m < 2:
        return None, "a ranking needs two models or more"
    scores, clusters, rounds = board.values, np.arange(t), "task"
    if options.example_rounds:
        if not _same_examples(board, range(m)):
            return None, "rounds of resampled examples need per-example results of every model on every task"
        correct = [np.array([board.correct[i, j] for i in range(m)]) for j in range(t)]
        scores, clusters = resampling.example_rounds(
            correct, n_resamples=options.example_rounds, seed=options.seed
        )
        rounds = "resample of a task's examples"
    given = {"tie_margin": options.tie_margin, "clusters": clusters}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what it says is in the report
        fit = ranking.epp(scores, **given)
    within = None
    if not fit.finite:
        within, fit = fit, ranking.epp(scores, ridge=RIDGE, **given)
    if not fit.wins.any():
        return None, "no two models ran the same task"
    reference = next((i for i, x in enumerate(board.models) if options.reference in (x.spec, x.label)), None)
    shown, errors = fit.scores, fit.standard_errors
    if reference is not None:
        shown, errors = ranking.relative_to(fit, reference)
    half = ranking.quantile(fit.n_clusters) * errors
    boot = resampling.bootstrap(
        scores,
        n_resamples=options.resamples,
        seed=options.seed,
        ridge=RIDGE if within is not None else None,
        **given,
    )
    shifted = boot.scores if reference is None else boot.scores - boot.scores[:, [reference]]
    boot_low, boot_high = resampling.interval(shifted) if t > 1 else (np.full(m, np.nan),) * 2
    rank_low, rank_high = resampling.interval(ranking.ranks(boot.scores.T, method="min").T)
    lost = fit.wins.sum(0)
    return Strengths(
        fit,
        within,
        shown,
        shown - half,
        shown + half,
        boot_low,
        boot_high,
        rank_low if t > 1 else np.full(m, np.nan),
        rank_high if t > 1 else np.full(m, np.nan),
        resampling.first_share(boot.scores),
        boot.n_penalised,
        [i for i in range(m) if lost[i] == 0 and fit.wins[i].any()],
        ranking.goodness_of_fit(fit),
        ranking.win_probabilities(fit),
        reference,
        rounds,
    ), ""


def _same_examples(board: Board, rows: Sequence[int]) -> bool:
    """Whether the rows have correctness on every task, about the same examples."""
    for j in range(len(board.tasks)):
        if (
            len({board.examples.get((i, j)) for i in rows}) != 1
            or (next(iter(rows)), j) not in board.examples
        ):
            return False
    return True


def _differences(
    board: Board, complete: np.ndarray, order: Sequence[int], options: Options
) -> tuple[Differences | None, str]:
    if not complete.any():
        return None, "no model has all tasks"
    leader = order[0]
    if not _same_examples(board, [leader]):
        return None, "there are no per-example results" + (" in published tables" if board.published else "")
    rows = [i for i in order if complete[i] and _same_examples(board, [leader, i])]
    if len(rows) < 2:
        return None, "only one model has all tasks with per-example results"
    correct = [np.array([board.correct[i, j] for i in rows]) for j in range(len(board.tasks))]
    means = resampling.paired_means(correct, n_resamples=options.resamples, seed=options.seed)
    low, high = resampling.interval(means[:, :1] - means)
    seen = np.mean([c.mean(1) for c in correct], axis=0)
    return Differences(leader, rows, seen[0] - seen, low, high), ""


def pareto(cost: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Which points no other one beats in both (lower cost, higher gain), bool [N]; False where either is NaN."""
    front = np.zeros(len(cost), bool)
    best = -np.inf
    for i in np.lexsort((-gain, cost)):  # NaN come last
        if np.isfinite(cost[i]) and np.isfinite(gain[i]) and gain[i] > best:
            front[i], best = True, gain[i]
    return front
