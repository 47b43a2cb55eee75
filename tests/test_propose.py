"""What is not proposed: a blocked model, and one that no commit could make again."""

from project import Project


def test_a_blocked_model_is_not_proposed(work: Project) -> None:
    """Its report is there to be read, and no more."""
    work.replace(
        '"verdict": "promote",\n "model', '"verdict": "block",\n "model', work.folder / "reports/gate.json"
    )
    assert "the gate blocks model" in work.refusal("packaging.propose")


def test_an_edit_that_is_not_committed_is_named(work: Project) -> None:
    """The pull request would hold a model and not the code that made it."""
    work.replace("max_iter: 80", "max_iter: 70", work.folder / "params.yaml")
    (work.folder / "reports/metrics.json").write_text("{}\n")
    said = work.refusal("packaging.propose")
    assert "params.yaml" in said
    assert "metrics.json" not in said


def test_without_news_there_is_nothing_to_do(work: Project) -> None:
    """Also without GitHub's command line."""
    assert "nothing new" in work.stages("packaging.propose")
