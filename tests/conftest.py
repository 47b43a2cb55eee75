"""Fixtures of every test."""

from functools import cache
from pathlib import Path

import pytest
from helpers import CopyProject, Renderer, questions, snapshot
from pytest_copie.plugin import Copie

pytest_plugins = ["project", "proof", "releases", "workers"]


@pytest.fixture(scope="session")
def render(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    """Render projects from the working tree as it stands, committed or not."""
    source = snapshot(tmp_path_factory.mktemp("template"))
    return Renderer(source, tmp_path_factory.mktemp("projects"))


@pytest.fixture(scope="session")
def copy_project(copie_session: Copie, render: Renderer) -> CopyProject:
    """Render a project, once for each set of answers: read-only. --keep-copied-projects keeps them all."""

    @cache
    def copy(**extra_answers: str) -> Path:
        if unknown := extra_answers.keys() - questions().keys():
            raise KeyError(f"copier.yml has no question {sorted(unknown)}")
        result = copie_session.copy(extra_answers, template_dir=render.source)
        assert result.exit_code == 0, result.exception
        assert result.project_dir
        return result.project_dir

    return copy
