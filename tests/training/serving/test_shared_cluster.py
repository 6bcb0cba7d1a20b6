"""What a door asks of Ray Serve on a cluster that is not its alone, of deployments that load no model."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import ray
from ray import serve

from infra.ray import connected
from infra.settings import RayResources
from training.serving.asking import Asking
from training.serving.fleet import num_replicas, start_serve, stop_serve
from training.serving.limits import Limits
from training.serving.metrics import Metrics
from training.serving.work import Work

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """This process has joined it."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 8, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    try:
        with connected(RayResources(address=cluster.address), tmp_path_factory.mktemp("ray")) as started_here:
            assert not started_here
            yield
    finally:
        cluster.shutdown()


def waiting_replica() -> Any:
    """A deployment that answers nothing, and counts the requests that were taken back."""

    class Waiting:
        def __init__(self) -> None:
            self.begun = self.taken_back = 0

        async def tell(self, _: Work) -> None:
            self.begun += 1
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                self.taken_back += 1
                raise

        async def counts(self) -> tuple[int, int]:
            return self.begun, self.taken_back

    return serve.deployment(Waiting).options(ray_actor_options={"num_cpus": 0}).bind()


class Served:
    """What serves, and pictures that are all good."""

    def __init__(self, handle: Any) -> None:
        self.handle, self.facts, self.metrics = handle, None, Metrics()

    @contextmanager
    def asked(self) -> Iterator["Served"]:
        yield self

    async def check(self, _: bytes) -> None:
        pass


def test_a_request_that_nobody_waits_for_any_more_is_taken_back_from_its_replica(cluster: None) -> None:
    start_serve()
    handle = serve.run(waiting_replica(), name="waiting", route_prefix=None)
    served = Served(handle)

    async def until(counts: tuple[int, int]) -> None:
        async with asyncio.timeout(60):
            while await handle.counts.remote() != counts:
                await asyncio.sleep(0.1)

    async def goes_away() -> None:
        asking = Asking(served, served, Limits())
        telling = asyncio.create_task(asking.tell(lambda _: Work(b"a picture"), b"a picture"))
        await until((1, 0))
        telling.cancel()
        await until((1, 1))

    try:
        asyncio.run(goes_away())
    finally:
        serve.delete("waiting")


def test_a_door_takes_down_what_it_put_up_and_whoever_shuts_serve_down_takes_the_rest(cluster: None) -> None:
    """Also where one door's name begins like another's."""
    start_serve()
    names = ["host-a-tiny-1-1", "host-ab-tiny-1-1"]
    serve.run_many([serve.RunTarget(waiting_replica(), name=name, route_prefix=None) for name in names])
    assert [num_replicas(name) for name in names] == [1, 1]
    stop_serve("host-a", started_here=False)
    assert [num_replicas(name) for name in names] == [None, 1]
    controller = ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    with suppress(ray.exceptions.RayActorError):  # it ends by itself
        ray.get(controller.graceful_shutdown.remote(), timeout=60)  # as another process asks for it
    assert num_replicas("host-ab-tiny-1-1") is None
    stop_serve("host-ab", started_here=False)
    start_serve()
    assert not serve.status().applications
