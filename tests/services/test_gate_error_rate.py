"""The error rates of the gate, by simulation."""

from project import Project

SIMULATE = """
from pathlib import Path
import numpy as np
import pandas as pd
from {package} import declarations, params
from {package}.contract.dataset import Dataset
from {package}.evaluation.checks import Evidence, Production, check_production

TIMES, ROWS, MARGIN = 400, 1500, 0.02
settings = params.Params(gate=params.Gate(n_bootstrap=400, non_inferiority_margin=MARGIN))
problem = declarations.load()

def outputs(score):
    yes = 1 / (1 + np.exp(-score))
    return np.column_stack([1 - yes, yes])

def verdict(random, ours, theirs):
    "One pair of models whose scores see the truth through noise, 85 % of which they share."
    target = random.integers(0, 2, ROWS)
    shared = random.normal(size=ROWS)
    def score(signal):
        return signal * target + np.sqrt(0.85) * shared + np.sqrt(0.15) * random.normal(size=ROWS)
    production = Production("production/1", "theirs", outputs(score(theirs)))
    test = Dataset(Path(), problem.contract, pd.DataFrame(), target)
    new = outputs(score(ours))
    evidence = Evidence(settings, problem, "new", test, new, None, production, [], (), (), {{}})
    (check,) = check_production(evidence)
    return {{"pass": "promote", "warn": "keep", "fail": "block"}}[check.status]

def promoted(ours, theirs):
    random = np.random.default_rng(0)
    verdicts = [verdict(random, ours, theirs) for _ in range(TIMES)]
    return verdicts.count("promote") / TIMES, verdicts.count("block") / TIMES

print(*promoted(1.3, 1.3), *promoted(1.41, 1.3), *promoted(1.1, 1.3))
"""


def test_gate_error_rate_is_at_most_the_stated_one(project: Project) -> None:
    """Equal pairs are promoted at most at the stated rate, and better ones with the stated power.

    400 simulated pairs each, 1,500 rows, correlation of the scores 0.85, confidence level 0.95. Equal models
    (ROC AUC 0.821): stated rate of promotion at most 0.025, allowed 0.05 (three standard errors of 400
    draws above it). Better by the margin of 0.02 (AUC 0.841 against 0.821): stated power 0.8. Worse by
    about twice the margin: never promoted. Equal models are blocked in at most 0.05 too.
    """
    output = project.script(SIMULATE.format(package=project.package))
    wrong, blocked, power, _, worse, _ = map(float, output.split())
    assert wrong <= 0.05
    assert blocked <= 0.05
    assert power >= 0.8
    assert worse == 0
