"""What every step is given besides its configuration and inputs."""

from dataclasses import dataclass

from infra.claims import Claim
from infra.part_cache import PartCache
from infra.progress import Progress
from infra.settings import Profile, Settings
from infra.store import Store


@dataclass(frozen=True)
class Workspace:
    settings: Settings
    profile: Profile
    store: Store
    cache: PartCache
    progress: Progress
    claim: Claim | None = None
    """On the name of the model, where a whole retrain holds one. Checked before anything of order is written."""
