"""Where things are (settings, from the environment) and with how much (a profile, from YAML)."""

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from infra.errors import ConfigError
from infra.yaml_config import parse, read_yaml, set_values


class Settings(BaseSettings):
    """Places and servers. Every field can be set as FROSTLINE_<NAME>; secrets stay in the usual AWS variables."""

    model_config = SettingsConfigDict(env_prefix="FROSTLINE_", frozen=True, extra="forbid")
    var_dir: Path = Path("var")
    store_uri: str | None = None
    """Default: `{var_dir}/store`."""
    cache_dir: Path | None = None
    mlflow_tracking_uri: str | None = Field(default=None, validation_alias="MLFLOW_TRACKING_URI")
    """Default: SQLite under `var_dir`."""

    @property
    def store(self) -> str:
        return self.store_uri or str(self.var_dir.absolute() / "store")

    @property
    def cache(self) -> Path:
        return (self.cache_dir or self.var_dir / "cache").absolute()

    @property
    def logs(self) -> Path:
        return self.var_dir.absolute() / "logs"

    @property
    def mlflow(self) -> str:
        return self.mlflow_tracking_uri or f"sqlite:///{self.var_dir.absolute()}/mlflow/mlflow.db"


def cache_on_this_node(otherwise: Path) -> Path:
    """The cache of the machine an actor runs on: where its FROSTLINE_CACHE_DIR says, else where the driver's is."""
    return (Settings().cache_dir or otherwise).absolute()


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RayResources(_Strict):
    """How to reach Ray."""

    address: str | None = None
    """`auto`, `host:port` or `ray://host:port` joins a cluster. None joins the one that RAY_ADDRESS names, and without
    that variable starts Ray on this machine, as `local` does in any case."""
    num_cpus: int | None = Field(default=None, gt=0)
    """Of a Ray started on this machine, as is the next."""
    object_store_memory_bytes: int = Field(default=256 * 2**20, gt=0)


class IngestResources(_Strict):
    """Processes that decode images."""

    num_processes: int = Field(gt=0)


class CpuActorResources(_Strict):
    """Ray actors of one step that computes on CPUs only."""

    num_actors: int = Field(gt=0)
    threads_per_actor: int = Field(default=1, gt=0)
    max_restarts: int = Field(default=3, ge=0)
    """How often a unit is given to a new actor after its actor died or was stuck."""
    stuck_seconds: float | None = Field(default=None, gt=0)
    """An actor that has no result for so long is killed and its unit given to a new one; None waits for ever. Counted
    from when the actor's process runs, loading of models included."""

    @property
    def gpus(self) -> float:
        return 0


class ActorResources(CpuActorResources):
    """Ray actors of one step, on GPUs where they are given some."""

    gpus_per_actor: float = Field(default=0, ge=0)
    rows_per_batch: int = Field(default=64, gt=0)
    """Images or prompts per forward. Kept out of fingerprints: at most the last bits of features follow it."""

    @property
    def gpus(self) -> float:
        return self.gpus_per_actor


class EncodeResources(ActorResources):
    """Ray actors of `featurize`."""

    stuck_seconds: float | None = Field(default=600, gt=0)


class TrainResources(_Strict):
    """Ranks of a training."""

    num_ranks: int = Field(gt=0)
    threads_per_rank: int = Field(gt=0)
    """Said aloud because Ray would set OMP_NUM_THREADS=1, and because bits depend on it."""
    gpus_per_rank: Literal[0, 1] = 0
    micro_batch_tokens: int = Field(gt=0)
    """Positions of a rank's forward, prefixes and padding included: the memory of activations follows it."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    offload_optimizer: bool = False
    """Moments in the memory of the CPU and updates on it: slower, for trained parameters that do not fit the GPU."""
    offload_parameters: bool = False
    """Parameters too, fetched layer by layer. Needs zero_stage 3."""
    gradient_checkpointing: bool = False
    """Layers are computed again in the backward pass: a third more time, activations of one layer at a time."""
    compile: bool = False
    """torch.compile of the language model: minutes at the start, worth it on GPUs and in long trainings."""
    max_failures: int = Field(default=2, ge=0)
    """How often the group is started again after a rank died."""
    rank_timeout_seconds: int = Field(default=300, gt=0)
    """A rank that is not heard of for so long is taken for hung, and the group is started again."""

    @model_validator(mode="after")
    def _offload_has_partitions(self) -> "TrainResources":
        if self.offload_optimizer and self.zero_stage == 0:
            raise ValueError("offload_optimizer needs zero_stage 1, 2 or 3; found 0. Raise it or leave offload out")
        if self.offload_parameters and self.zero_stage != 3:
            raise ValueError(f"offload_parameters needs zero_stage 3; found {self.zero_stage}. Set it to 3")
        return self


class Profile(_Strict):
    """Where a recipe runs and with how much. Bits may follow it (threads, ranks); fingerprints do not."""

    name: str
    ray: RayResources
    ingest: IngestResources
    base: CpuActorResources
    featurize: EncodeResources
    train: TrainResources
    evaluate: ActorResources


def load_profile(name_or_path: str, assignments: Iterable[str] = ()) -> Profile:
    """A profile by name (`laptop`, `gpu`, `cluster`) or by path, with `path.to.key=value` assignments applied."""
    return parse(Profile, set_values(_read_profile(name_or_path), assignments), where=f"profile {name_or_path}")


def _read_profile(name_or_path: str) -> dict[str, object]:
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        return read_yaml(path)
    shipped = files("infra") / "profiles" / f"{name_or_path}.yaml"
    if not shipped.is_file():
        known = sorted(p.name.removesuffix(".yaml") for p in (files("infra") / "profiles").iterdir())
        raise ConfigError(
            f"profile {name_or_path!r} was not found; expected one of {', '.join(known)} or the path of a YAML file."
        )
    return read_yaml(Path(str(shipped)))
