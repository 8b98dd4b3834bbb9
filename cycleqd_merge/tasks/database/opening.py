"""Opening the database that a task definition names. Its client is imported when it is first used."""

from __future__ import annotations

from typing import Literal

from cycleqd_merge.errors import TaskError
from cycleqd_merge.tasks.database.sample_database import SampleDatabase
from cycleqd_merge.tasks.database.table import Table

DatabaseKind = Literal["mariadb", "sqlite"]


def require_database(kind: DatabaseKind) -> str:
    """A one-line description of the database that samples will use; nothing is started.

    Raises:
        TaskError: it is not installed, or does not work.
    """
    if kind == "sqlite":
        from cycleqd_merge.tasks.database.sqlite_database import require_sqlite

        return require_sqlite()
    _require_pymysql()
    from cycleqd_merge.tasks.database.mariadb import require_server

    return require_server()


def open_database(kind: DatabaseKind, table: Table, seconds: float, alone: bool = False) -> SampleDatabase:
    """A new database with one sample's table. seconds: time limit of a statement. Blocks.

    alone: on a private server of its own.

    Raises:
        TaskError: it is not installed.
        ServerCrashed: a sample made the server crash.
        InfrastructureError: the server failed, or does not start.
    """
    if kind == "sqlite":
        from cycleqd_merge.tasks.database.sqlite_database import SqliteDatabase

        return SqliteDatabase(table, seconds)
    _require_pymysql()
    from cycleqd_merge.tasks.database.mariadb import mariadb_server, own_server
    from cycleqd_merge.tasks.database.mariadb_database import MariadbDatabase

    if not alone:
        return MariadbDatabase(mariadb_server(), table, seconds)
    own = own_server()
    try:
        return MariadbDatabase(own.server, table, seconds, own.stop)
    except BaseException:
        own.stop()
        raise


def _require_pymysql() -> None:
    try:
        import pymysql  # noqa: F401
    except ImportError as error:
        raise TaskError(
            "database: mariadb requires PyMySQL: `pip install 'cycleqd-merge[mariadb]'` (or use `database: sqlite`, an "
            "approximation)"
        ) from error
