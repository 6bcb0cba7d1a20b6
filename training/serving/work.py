"""What the door asks of a replica, and what it is told: plain values that travel between processes."""

from dataclasses import dataclass

from training.serving.faults import Fault


@dataclass(frozen=True)
class ModelFacts:
    """A loaded version, as the door has to know it."""

    model_name: str
    version: str
    model_digest: str
    tasks: tuple[str, ...]
    labels: tuple[str, ...]
    """Of a model that was trained to classify."""
    finds_images: bool
    """Whether there are features to look for similar images in."""


@dataclass(frozen=True)
class Work:
    """One picture and what is asked about it. Its bytes were found to be an image within the limits."""

    image: bytes
    asked: tuple[tuple[str, str], ...] = ()
    """(task, prompt) each."""
    labels: tuple[str, ...] = ()
    """Chosen among by `classify`."""
    num_neighbours: int = 0
    """Similar images that are wanted, instead of words."""


@dataclass(frozen=True)
class Neighbour:
    """A stored image, and how similar it is: the cosine between both images' mean patch features."""

    image_id: str
    similarity: float
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Told:
    """The answer to one `Work`: what was asked for, or a fault."""

    texts: tuple[str, ...] = ()
    label_scores: tuple[tuple[str, float], ...] = ()
    """(label, probability), the likeliest first."""
    neighbours: tuple[Neighbour, ...] = ()
    fault: Fault | None = None
    num_in_batch: int = 1
    """How many requests were answered together."""


@dataclass(frozen=True)
class Carried:
    """Which parts of a picture carried an answer: by how much the answer's log-likelihood falls when a part is hidden,
    row by row from the top."""

    answer: str = ""
    falls: tuple[tuple[float, ...], ...] = ()
    fault: Fault | None = None
