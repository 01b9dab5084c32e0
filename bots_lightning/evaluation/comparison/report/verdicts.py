"""What the seeds show of a method, in a sentence, and notes on how to read the tables."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bots_lightning.evaluation.comparison.report.texts import Result, ratio_text, seeds_text, signed_text

# Without a true difference, n seeds all fall on the same side with probability 2^(1 - n): 0.06 of five, 0.25 of three.
SEEDS_FOR_A_VERDICT = 5


def verdict(name: str, baseline: str, comparison: Result) -> str:
    """One sentence on the speed and the final score of a method; better or worse only if the seeds show it.

    Args:
        name: of the method.
        baseline: name of the baseline.
        comparison: of `compare_to_baseline`.
    """
    if not comparison["seeds"]:
        return f"{name}: no seed in common with {baseline}, so no verdict."
    enough = len(comparison["seeds"]) >= SEEDS_FOR_A_VERDICT
    speed, final = comparison["time_to_baseline"]["rollouts"]["100"]["pooled"], comparison["final_score_difference"]
    findings = {
        f"rollouts to {baseline}'s best score {ratio_text(speed)}": _compared(
            speed["interval"], 1, ("faster", "slower")
        ),
        f"final score {signed_text(final['mean'], final['interval'])}": _compared(
            final["interval"], 0, ("worse", "better")
        ),
    }
    if speed["resamples_without_target"] > 0.025:  # what an end of the interval leaves out
        findings[next(iter(findings))] = "not shown to differ"
    sentences = "; ".join(f"{value}: {word}" if enough else value for value, word in findings.items())
    doubt = "" if enough else f"; {seeds_text(comparison)}, too few for a verdict"
    return f"{name} against {baseline}: {sentences}{doubt}."


def notes(result: Result) -> Iterator[str]:
    """Lines on how to read the tables, as far as they concern this result."""
    settings, comparisons = result["settings"], result["comparisons"].values()
    first, last = settings["iterations"][0], settings["iterations"][-1]
    yield (
        f"Score: mean of {', '.join(settings['score'])}; {len(settings['iterations'])} evaluations, at iterations "
        f"{first} to {last}{', interpolated' if settings['interpolate'] else ''}. ±: standard deviation over seeds."
    )
    cells = [cell for item in comparisons for axis in item["time_to_baseline"].values() for cell in axis.values()]
    if any(
        cell["pooled"]["at_least"] is not None or cell["seeds"]["reached"] < cell["seeds"]["with_target"]
        for cell in cells
    ):
        yield "≥: never reached within the run; what the ratio would at least be. ∞: not reached in such a resample."
    if any(cell["pooled"]["value"] is None and cell["pooled"]["at_least"] is None for cell in cells):
        yield "–: no ratio, as the baseline's best until there is its score before training."
    share = max((cell["pooled"]["resamples_without_target"] for cell in cells if cell["pooled"]["interval"]), default=0)
    if share:
        yield f"Intervals leave out resamples in which the baseline had not improved, up to {100 * share:.0f} %."
    if len(comparisons) > 1:
        yield f"Each interval is for one comparison by itself; of {len(comparisons)}, one may err more easily."
    if any(1 < len(method["seeds"]) < SEEDS_FOR_A_VERDICT for method in result["methods"].values()):
        yield f"Intervals from fewer than {SEEDS_FOR_A_VERDICT} seeds are too narrow: they know only these seeds."


def _compared(interval: list[float | None] | None, even: float, words: tuple[str, str]) -> str:
    """The first word if all of the interval lies below the even value, the second if above."""
    low, high = (np.inf if end is None else end for end in interval or (-np.inf, np.inf))
    below, above = words
    return below if high < even else above if low > even else "not shown to differ"
