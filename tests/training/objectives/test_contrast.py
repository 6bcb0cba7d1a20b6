"""The contrast loss against its formulae written out, and over ranks."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from contrast_ranks import NUM_IMAGES, batch, losses_and_gradients
from torch.nn import functional

from training.objectives.contrast import ContrastKind, ContrastLoss, Pairs

PROGRAM = Path(__file__).resolve().parents[2] / "support" / "contrast_ranks.py"
REPOSITORY = PROGRAM.parents[2]
KINDS: tuple[ContrastKind, ...] = ("siglip", "infonce")


def positives() -> list[list[bool]]:
    """By text and image: the image has a text, not padding, that reads the same."""
    _, _, (image_of_X, text_id_X, weight_X) = batch()
    return [
        [
            any(
                text_id_X[y] == text_id_X[x] and image_of_X[y] == image and weight_X[y] > 0
                for y in range(len(weight_X))
            )
            for image in range(NUM_IMAGES)
        ]
        for x in range(len(weight_X))
    ]


def written_out(kind: ContrastKind) -> float:
    """The docstring's sums, one pair after the other, at log-temperature 1 and bias −1."""
    image_IE, text_XE, (image_of_X, _, weight_X) = batch()
    scores = (math.e * functional.normalize(text_XE, dim=1) @ functional.normalize(image_IE, dim=1).T).double().tolist()
    positive, texts, images = positives(), range(len(weight_X)), range(NUM_IMAGES - 1)  # the last image is padding
    real = [x for x in texts if weight_X[x] > 0]
    losses = []
    for x in texts:
        if kind == "siglip":
            signed = [(1 if positive[x][j] else -1) * (scores[x][j] - 1) for j in images]
            losses.append(sum(math.log1p(math.exp(-value)) for value in signed))
            continue
        own = [j for j in images if positive[x][j]]
        total = sum(math.exp(scores[x][j]) for j in images)
        to_image = sum(-math.log(math.exp(scores[x][j]) / total) for j in own) / max(1, len(own))
        image = int(image_of_X[x])
        total = sum(math.exp(scores[y][image]) for y in real)
        shares = {y: float(weight_X[y]) for y in real if positive[y][image]}
        terms = (-share * math.log(math.exp(scores[y][image]) / total) for y, share in shares.items())
        losses.append(0.5 * (to_image + sum(terms) / max(sum(shares.values()), 1e-9)))
    return sum(float(weight) * loss for weight, loss in zip(weight_X, losses, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_its_formula_written_out(kind: ContrastKind) -> None:
    found = losses_and_gradients(kind, range(NUM_IMAGES))["loss"]
    assert found.item() == pytest.approx(written_out(kind), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_gets_no_gradient(kind: ContrastKind) -> None:
    found = losses_and_gradients(kind, range(NUM_IMAGES))
    assert found["text"][[6, 15]].abs().max() == 0
    assert found["image"][6].abs().max() == 0
    assert found["image"][:6].abs().amax(dim=1).min() > 0


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images on one rank, two on the other."""
    folder = tmp_path_factory.mktemp("two_ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend=c10d"]
    command += ["--rdzv-endpoint=127.0.0.1:0", str(PROGRAM), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_with_unequal_shares_have_the_losses_and_gradients_of_one(
    kind: ContrastKind, two_ranks: Path
) -> None:
    one = losses_and_gradients(kind, range(NUM_IMAGES))
    parts = [torch.load(two_ranks / f"{kind}-{rank}.pt", weights_only=True) for rank in range(2)]
    for name, expected in one.items():
        joined = name in ("image", "text")
        found = torch.cat([p[name] for p in parts]) if joined else sum(p[name] for p in parts)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


def test_the_first_temperature_and_bias_are_those_of_the_papers() -> None:
    siglip, infonce = ContrastLoss("siglip"), ContrastLoss("infonce")
    assert siglip.bias is not None and infonce.bias is None
    assert (siglip.log_temperature.item(), siglip.bias.item()) == pytest.approx((math.log(10), -10))
    assert infonce.log_temperature.item() == pytest.approx(math.log(1 / 0.07))


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_pulls_texts_to_their_images(kind: ContrastKind) -> None:
    torch.manual_seed(0)
    images = torch.nn.Parameter(torch.randn(8, 4))
    texts, loss = torch.nn.Parameter(torch.randn(8, 4)), ContrastLoss(kind)
    pairs = Pairs(torch.arange(8), torch.arange(8), torch.ones(8))
    optimizer = torch.optim.Adam([images, texts, *loss.parameters()], lr=0.05)
    unit = functional.normalize
    for _ in range(200):
        optimizer.zero_grad()
        loss(unit(images, dim=1), unit(texts, dim=1), pairs).backward()
        optimizer.step()
    assert (unit(texts, dim=1) @ unit(images, dim=1).T).argmax(dim=1).tolist() == list(range(8))
