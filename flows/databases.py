"""The databases of Prefect and MLflow: SQLite beside the store, or two of their own on a PostgreSQL server."""

from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from infra.addresses import without_password
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
    """Two databases on the server of this address, made where they are missing."""
    address = urlsplit(url)
    if address.scheme not in ("postgres", "postgresql") or not (address.hostname or "host=" in address.query):
        raise ConfigError(
            f"{without_password(url)!r} was found; expected postgresql://USER:PASSWORD@HOST:PORT of a PostgreSQL "
            "server on which this user may create databases."
        )
    import psycopg

    try:
        with psycopg.connect(url, autocommit=True, connect_timeout=CONNECT_SECONDS) as connection:
            found = {name for (name,) in connection.execute("SELECT datname FROM pg_database")}
            for name in {PREFECT, MLFLOW} - found:
                connection.execute(f"CREATE DATABASE {name}")
    except psycopg.Error as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise PlatformError(
            f"PostgreSQL at {without_password(url)} answered: {without_password(reason)}; expected to list and create "
            f"databases there. Start it, or let its administrator create {PREFECT} and {MLFLOW} for this user."
        ) from error

    def named(driver: str, name: str) -> str:
        return urlunsplit((f"postgresql+{driver}", address.netloc, f"/{name}", address.query, ""))

    return Databases(named("asyncpg", PREFECT), named("psycopg", MLFLOW))
