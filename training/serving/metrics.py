"""What Prometheus is told: requests, seconds, batches, refused pictures, versions and swaps."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from training.serving.work import ModelFacts

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Of one server; a registry of its own, so that two of them in a process do not meet."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "frostline_requests", "Answered requests.", ["route", "status", "code"], registry=registry
        )
        self.seconds = Histogram(
            "frostline_request_seconds",
            "From the headers to the answer.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.waiting_requests = Gauge(
            "frostline_waiting_requests", "Requests that are read or answered now.", registry=registry
        )
        self.waiting_bytes = Gauge("frostline_waiting_bytes", "Of their bodies.", registry=registry)
        self.batch = Histogram(
            "frostline_batch_requests",
            "How many requests were answered together, counted once by each of them.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=registry,
        )
        self.swaps = Counter(
            "frostline_swaps",
            "Times that a version was put up beside or after another, by outcome.",
            ["outcome"],
            registry=registry,
        )
        self.swap_failing = Gauge(
            "frostline_swap_failing", "1 while the alias names a version that does not serve.", registry=registry
        )
        self.registry_faults = Counter(
            "frostline_registry_faults", "Times that MLflow could not say where the alias points.", registry=registry
        )
        self.version = Gauge(
            "frostline_version", "1 for the version that answers.", ["name", "version"], registry=registry
        )

    def serves(self, facts: ModelFacts) -> None:
        self.version.clear()
        self.version.labels(facts.model_name, facts.version).set(1)

    def text(self) -> bytes:
        return generate_latest(self.registry)
