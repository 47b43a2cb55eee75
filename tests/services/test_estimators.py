"""Every kind of estimator is served exactly, or refused by name: the table in docs/estimators.md."""

import json
import os
import re
from pathlib import Path

import pytest
from helpers import ROOT, Renderer
from project import rendered

DOC = ROOT / "docs/estimators.md"
HEAD = "| estimator | tasks | parity | seconds | message |"
ALL = "2 3 25 regression 2? 3? regression?"  # numbers of labels; ?: with missing values
LABELS, VALUES = "2 3", "regression"
BOUNDS = (1e-6, 1e-5, 1e-4)
ONE_HOT = "OneHotEncoder(handle_unknown='ignore')"
SCALED = "make_pipeline(StandardScaler(), {})"
COLUMNS = "make_pipeline(ColumnTransformer([('colour', {}, ['colour'])], remainder=SimpleImputer()), {})"
ORDINAL = "OrdinalEncoder(handle_unknown='use_encoded_value', unknown_value=-1)"

CASES: dict[str, str] = {
    "HistGradientBoosting{}()": ALL,
    "HistGradientBoosting{}(categorical_features=['colour'])": ALL,
    "HistGradientBoostingRegressor(loss='poisson')": VALUES,
    "HistGradientBoostingRegressor(loss='gamma')": VALUES,
    "HistGradientBoostingRegressor(loss='quantile', quantile=0.9)": VALUES,
    "LGBM{}(n_estimators=30, verbose=-1)": ALL,
    "XGB{}(n_estimators=30)": ALL,
    "CatBoost{}(iterations=30, verbose=0, allow_writing_files=False)": ALL,
    "LGBMRegressor(objective='poisson', n_estimators=30, verbose=-1)": VALUES,
    "XGBRegressor(objective='count:poisson', n_estimators=30)": VALUES,
    "RandomForest{}(30)": ALL,
    "ExtraTrees{}(30)": ALL,
    "DecisionTree{}()": ALL,
    "GradientBoosting{}(n_estimators=20)": "2 3 regression",
    "AdaBoost{}(n_estimators=10)": "2 3 regression",
    "Bagging{}(n_estimators=10)": ALL,
    SCALED.format("LogisticRegression()"): "2 3 25",
    SCALED.format("LinearRegression()"): VALUES,
    SCALED.format("Ridge()"): VALUES,
    SCALED.format("ElasticNet()"): VALUES,
    SCALED.format("HuberRegressor()"): VALUES,
    SCALED.format("PoissonRegressor()"): VALUES,
    SCALED.format("GammaRegressor()"): VALUES,
    SCALED.format("TweedieRegressor(power=1.5)"): VALUES,
    SCALED.format("BayesianRidge()"): VALUES,
    SCALED.format("SGDClassifier(loss='log_loss')"): LABELS,
    SCALED.format("MLPClassifier(max_iter=30)"): LABELS,
    SCALED.format("MLPRegressor(max_iter=30)"): VALUES,
    SCALED.format("SVR()"): VALUES,
    SCALED.format("KNeighbors{}(15)"): "2 3 regression",
    SCALED.format("GaussianProcessRegressor(alpha=0.1)"): VALUES,
    SCALED.format("RandomForest{}(30)"): "2 3 regression 2?",
    "GaussianNB()": LABELS,
    "make_pipeline(MinMaxScaler(clip=True), MultinomialNB())": LABELS,
    "LinearDiscriminantAnalysis()": LABELS,
    "QuadraticDiscriminantAnalysis()": LABELS,
    "make_pipeline(SimpleImputer(add_indicator=True), StandardScaler(), LogisticRegression())": "2? 3?",
    "make_pipeline(PowerTransformer(), LogisticRegression())": LABELS,
    "make_pipeline(KBinsDiscretizer(), LogisticRegression())": LABELS,
    "make_pipeline(StandardScaler(), PolynomialFeatures(), Ridge())": VALUES,
    "make_pipeline(StandardScaler(), PCA(3), Ridge())": VALUES,
    "make_pipeline(SelectKBest(k=2), LogisticRegression())": LABELS,
    "make_pipeline(FunctionTransformer(np.square), Ridge())": VALUES,
    COLUMNS.format(ONE_HOT, "LogisticRegression()"): "2 3 2? 3?",
    COLUMNS.format(ONE_HOT, "LGBMClassifier(n_estimators=10, verbose=-1)"): "2 3 2? 3?",
    COLUMNS.format("TargetEncoder()", "LogisticRegression()"): "2 3 2? 3?",
    COLUMNS.format("TargetEncoder()", "XGBRegressor(n_estimators=10)"): "regression regression?",
    COLUMNS.format(ORDINAL, "HistGradientBoosting{}()"): ALL,
    "CalibratedClassifierCV(HistGradientBoostingClassifier())": LABELS,
    "CalibratedClassifierCV(make_pipeline(StandardScaler(), LinearSVC()))": LABELS,
    "CalibratedClassifierCV(LGBMClassifier(n_estimators=10, verbose=-1))": LABELS,
    "StackingClassifier([('a', RandomForestClassifier(10)), ('b', XGBClassifier())])": LABELS,
    "VotingClassifier([('a', RandomForestClassifier(10)), ('b', GaussianNB())], voting='soft')": LABELS,
    "VotingRegressor([('a', LGBMRegressor(n_estimators=10, verbose=-1)), ('b', Ridge())])": VALUES,
    "TransformedTargetRegressor(Ridge(), func=np.log, inverse_func=np.exp)": VALUES,
    "TransformedTargetRegressor(Ridge(), transformer=StandardScaler())": VALUES,
    "GridSearchCV(HistGradientBoostingClassifier(), {'max_depth': [2, 3]})": LABELS,
}

REFUSED: dict[str, str] = {
    "TunedThresholdClassifierCV(LogisticRegression())": "2",
    "LinearSVC()": "2",
    "RidgeClassifier()": "2",
    "SGDClassifier()": "2",
    "VotingClassifier([('a', GaussianNB()), ('b', LogisticRegression())])": "2",
    "SVC(probability=True)": "2",
    "CalibratedClassifierCV(GaussianNB(), method='isotonic')": "2",
    "KNeighborsClassifier(weights='distance')": "2",
    "GaussianProcessClassifier()": "2",
    "RadiusNeighborsRegressor()": VALUES,
    "LogisticRegression()": "2?",
    "make_pipeline(KNNImputer(), LogisticRegression())": "2?",
    "make_pipeline(SplineTransformer(), Ridge())": VALUES,
    "make_pipeline(FunctionTransformer(np.cbrt), Ridge())": VALUES,
    "TransformedTargetRegressor(Ridge(), transformer=QuantileTransformer())": VALUES,
    "make_pipeline(PowerTransformer(), RandomForestRegressor())": VALUES,
    "make_pipeline(ColumnTransformer([('colour', OneHotEncoder(), ['colour'])]), LogisticRegression())": "2",
    "DummyClassifier()": "2",
    "IsotonicRegression()": VALUES,
}


@pytest.fixture(scope="module")
def rows(render: Renderer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Run all cases in a project with the group `boosting`: the cells of each row, by estimator."""
    folder = tmp_path_factory.mktemp("estimators") / "project"
    project = rendered(render, folder)
    pyproject = folder / "pyproject.toml"
    project.replace("custom = []", 'custom = [{include-group = "boosting"}]', pyproject)
    project.make("setup")
    cases = CASES | REFUSED
    assert len(cases) == len(CASES) + len(REFUSED)
    calls = [
        (estimator.replace("{}", "Regressor" if task.startswith("r") else "Classifier"), task)
        for estimator, tasks in cases.items()
        for task in tasks.split()
    ]
    script = Path(__file__).with_name("estimators.py")
    result = project.run(project.python, script, project.package, folder.parent, fed=json.dumps(calls))
    assert result.returncode == 0, result.stderr
    results = iter([json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")])
    return {name: row(name, tasks, [next(results) for _ in tasks.split()]) for name, tasks in cases.items()}


def row(estimator: str, tasks: str, results: list[dict]) -> list[str]:
    """Summarize the results of an estimator's tasks: the worst parity, all seconds, the message."""
    message = next((result["message"] for result in results if result["message"]), "")
    if message.startswith("bundle:"):
        parity = "refused after training"
        message = re.sub(r"differ by .*?(?=- Likely)", "differ. ", " ".join(message.split()))
    elif message:
        parity, message = "refused", message.splitlines()[-1].removeprefix("- ")
    else:
        worst = max(result["parity"] for result in results)
        parity = f"< {next(bound for bound in BOUNDS if worst < bound):.0e}"
    seconds = f"{sum(result['seconds'] for result in results):.1f}"
    cells = [f"`{estimator.replace('{}', '…')}`", describe(tasks.split()), parity, seconds, message]
    return [cell.replace("|", "\\|") for cell in cells]


def describe(tasks: list[str]) -> str:
    """Write tasks as words."""
    labels = [task for task in tasks if task[0] != "r"]
    values = [task for task in tasks if task[0] == "r"]
    return ", ".join([*([f"{', '.join(labels)} labels"] if labels else []), *values])


@pytest.mark.parametrize("estimator", CASES)
def test_estimator_is_served_exactly(rows: dict[str, list[str]], estimator: str) -> None:
    """ONNX and estimator agree over the test rows and the contract's domain."""
    assert rows[estimator][2].startswith("<"), rows[estimator]


@pytest.mark.parametrize("estimator", REFUSED)
def test_estimator_is_refused_with_a_way_out(rows: dict[str, list[str]], estimator: str) -> None:
    """No estimator ends in a traceback, and none is served differently."""
    assert rows[estimator][2].startswith("refused"), rows[estimator]


def test_table_of_estimators_is_up_to_date(rows: dict[str, list[str]]) -> None:
    """`UPDATE_DOCS=1` writes it anew. Seconds may differ."""
    head, _, tail = DOC.read_text().partition(HEAD)
    if os.environ.get("UPDATE_DOCS"):
        lines = [f"| {' | '.join(cells)} |" for cells in rows.values()]
        DOC.write_text("\n".join([f"{head}{HEAD}", "| --- | --- | --- | --- | --- |", *lines]) + "\n")
        return
    documented = [re.split(r"(?<!\\)\|", line)[1:-1] for line in tail.splitlines()[2:]]
    assert [[cell.strip() for cell in (*cells[:3], cells[4])] for cells in documented] == [
        [cell.strip() for cell in (*cells[:3], cells[4])] for cells in rows.values()
    ]
