"""Where the files of runs lie, and how their addresses follow a folder that was moved.

MLflow writes the whole path of every run's files into its database, so a project that is moved or copied would show runs
without files. They lie beside the database: where they are there and the database names another place, it is set right.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path


def database_of(uri: str) -> Path | None:
    """Return the file of a SQLite store; None of any other store."""
    if not uri.startswith("sqlite:"):
        return None
    from sqlalchemy.engine import make_url

    name = make_url(uri).database
    return Path(name).resolve() if name and name != ":memory:" else None


def artifacts_of(uri: str) -> Path | None:
    """Return the folder of a SQLite store's files; None where the store itself knows better (a server)."""
    database = database_of(uri)
    return database.with_name("mlartifacts") if database else None


def follow_moved_folder(uri: str, artifacts: Path) -> None:
    """Set right the addresses of files that lie in ``artifacts`` while the store names another folder."""
    database = database_of(uri)
    if database is None:
        return
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        known = connection.execute(
            "SELECT experiment_id, name, artifact_location FROM experiments"
        ).fetchall()
        for experiment, name, old in known:
            new = (artifacts / name).as_uri()
            if old == new or not (artifacts / name).is_dir():
                continue
            connection.execute(
                "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (new, experiment)
            )
            connection.execute(
                "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) "
                "WHERE experiment_id = ? AND substr(artifact_uri, 1, ?) = ?",
                (new, len(old) + 1, experiment, len(old) + 1, f"{old}/"),
            )
            for column in (
                "source",
                "storage_location",
            ):  # of registered models, which lie among the files of their runs
                connection.execute(
                    f"UPDATE model_versions SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                    (new, len(old) + 1, len(old) + 1, f"{old}/"),
                )
