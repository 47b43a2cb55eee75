"""Tests of this problem. This file is yours: test what must hold for your data and your model."""

import duckdb
import pandas as pd
import pytest

from {{ package_name }}.problem import CONTRACT, FILMS, PREPARE, sample


@pytest.fixture
def prepared() -> pd.DataFrame:
    """Six ratings of a user and one of another one, one of them of a film that is not in the catalogue."""
    titles = [*FILMS[:3], "A film of nobody (2001)", FILMS[3], FILMS[4], FILMS[0]]
    raw = pd.DataFrame(
        {
            "rating_id": range(1, 8),
            "userId": [7, 7, 7, 7, 7, 7, 8],
            "title": [title[:-7] for title in titles],
            "year": [float(title[-5:-1]) for title in titles],
            "rating": [5.0, 2.0, 4.0, 5.0, 3.5, 4.5, 4.0],
            "timestamp": [100, 200, 300, 400, 500, 600, 700],
        }
    )
    with duckdb.connect() as con:
        con.register("raw", raw)
        return con.execute(PREPARE).df().set_index("rating_id").sort_index()


def test_each_like_of_a_film_in_the_catalogue_is_a_row(prepared: pd.DataFrame) -> None:
    assert prepared["film"].to_dict() == {1: FILMS[0], 3: FILMS[2], 6: FILMS[4], 7: FILMS[0]}


def test_history_is_what_the_user_rated_before(prepared: pd.DataFrame) -> None:
    assert prepared["watched"].map(list).to_dict() == {1: [], 3: [*FILMS[:2]], 6: [*FILMS[:4]], 7: []}
    assert prepared["liked"].map(list).to_dict() == {1: [], 3: [FILMS[0]], 6: [FILMS[0], FILMS[2]], 7: []}
    assert prepared["recent"].map(list).to_dict()[6] == [*FILMS[:4]]
    assert list(prepared["experience"]) == ["no film", "1 to 9 films", "1 to 9 films", "no film"]


def test_sample_has_every_film_of_the_catalogue() -> None:
    raw = sample()
    films = raw["title"] + " (" + raw["year"].astype("Int64").astype(str) + ")"
    assert set(FILMS) <= set(films)


def test_watched_films_are_not_recommended() -> None:
    assert CONTRACT.column("watched").seen
