"""The databases of Prefect and MLflow: SQLite beside the store, or two of their own on a PostgreSQL server."""

from dataclasses import dataclass

from infra.errors import ConfigError, PlatformError
from infra.settings import Settings
from infra.tracking.server import open_client

PREFECT, MLFLOW = "frostline_prefect", "frostline_mlflow"
CONNECT_SECONDS = 10


@dataclass(frozen=True)
class Databases:
    """SQLAlchemy's addresses."""

    prefect: str | None
    """None: SQLite in Prefect's home, where runs without a server keep it too."""
    mlflow: str


def sqlite_databases(settings: Settings) -> Databases:
    """Those of a run without servers: what it registered is there when the servers come up."""
    mlflow = f"sqlite:///{settings.var_dir.absolute()}/mlflow/mlflow.db"
    open_client(mlflow)
    return Databases(prefect=None, mlflow=mlflow)


def postgres_databases(url: str) -> Databases:
    """Two databases on the server of this address, made where they are missing. No part of it is ever shown but host
    and port: a password with a slash or an @ in it may stand anywhere."""
    import psycopg
    from sqlalchemy import URL, make_url
    from sqlalchemy.exc import ArgumentError

    wrong = ConfigError(
        "the address of PostgreSQL cannot be used; expected postgresql://USER:PASSWORD@HOST:PORT, the password with "
        "%-codes for all but letters and digits, of a server on which this user may create databases."
    )
    try:
        address = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise wrong from error
    host = address.host or address.query.get("host")
    if address.drivername not in ("postgres", "postgresql") or not isinstance(host, str) or "password" in address.query:
        raise wrong
    sslmode = address.query.get("sslmode")
    try:
        with psycopg.connect(
            host=host,
            port=address.port,
            user=address.username,
            password=str(address.password) if address.password is not None else None,
            dbname=address.database or "postgres",
            sslmode=sslmode if isinstance(sslmode, str) else None,
            autocommit=True,
            connect_timeout=CONNECT_SECONDS,
        ) as connection:
            found = {name for (name,) in connection.execute("SELECT datname FROM pg_database")}
            for name in {PREFECT, MLFLOW} - found:
                connection.execute(f"CREATE DATABASE {name}")
    except psycopg.Error as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise PlatformError(
            f"PostgreSQL at {host}:{address.port or 5432} answered: {reason}; expected to list and create databases "
            f"there. Start it, or let its administrator create {PREFECT} and {MLFLOW} for this user."
        ) from error

    def named(driver: str, name: str) -> str:
        query = dict(address.query)
        if driver == "asyncpg" and "sslmode" in query:
            query["ssl"] = query.pop("sslmode")
        made: URL = address.set(drivername=f"postgresql+{driver}", database=name, query=query)
        return made.render_as_string(hide_password=False)

    return Databases(named("asyncpg", PREFECT), named("psycopg", MLFLOW))
