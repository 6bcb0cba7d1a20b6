"""F(x) = LM([soft prompt; lead; mapper(features); prompt; target]): the mapper is trained, and what the regime adds.

Shapes: B images, P patches, V vision width, K prefix length, D LM width, S shared positions, R rows, L row length,
N target tokens, M reads of a head, C vocabulary, O objectives.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.config import TrainConfig
from training.language_model import LanguageModel
from training.losses import Losses, sums_by_objective
from training.mappers import MapperShape, build_mapper
from training.objectives import objectives_of
from training.objectives.answer_space import AnswerSpace
from training.objectives.contrast_head import ContrastHead
from training.objectives.heads import ClassifyHead, RegressHead
from training.packed_batch import PAD, PackedBatch, block_mask
from training.packing import Layout
from training.perturbing import adversarial_patches, disturbed, noisy
from training.regimes import apply_regime, set_train_mode
from training.regimes.config import PromptRegime


class Reads(NamedTuple):
    """Hidden states where something is compared."""

    targets_ND: Tensor
    images_BD: Tensor
    """At the end of each image's prefix: a function of the image alone."""
    heads: dict[int, Tensor]
    """[M, D] by objective."""


class PrefixModel(nn.Module):
    """A mapper before a language model, with heads where objectives ask for them."""

    lead: Tensor
    shares_prefix = True
    """Whether the language model takes the block mask; what packs the rows has to know the same."""

    def __init__(
        self, config: TrainConfig, language: LanguageModel, mapper: nn.Module, heads: nn.ModuleDict,
        soft_prompt: nn.Module | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.config = config
        self.objectives = objectives_of(config.objectives)
        self.mapper, self.heads, self.soft_prompt = mapper, heads, soft_prompt
        self.lm = language.model
        self.register_buffer("lead", torch.tensor(language.lead_ids, dtype=torch.long), persistent=False)

    def train(self, mode: bool = True) -> "PrefixModel":
        """The language model stays in eval mode: its dropout would be noise in a frozen function."""
        super().train(mode)
        set_train_mode(self.lm, mode)
        return self

    def shared_inputs(self, patches_BPV: Tensor) -> Tensor:
        """[B, S, D] in the language model's dtype: what stands before every text, from float16 or float32 patches."""
        prefix_BKD: Tensor = self.mapper(patches_BPV.float())
        lead_SD = self.lm.get_input_embeddings()(self.lead)
        before = [lead_SD] if self.soft_prompt is None else [self.soft_prompt(), lead_SD]
        parts = [part.to(self.lm.dtype).expand(len(prefix_BKD), -1, -1) for part in before]
        return torch.cat([*parts, prefix_BKD.to(self.lm.dtype)], dim=1)

    def forward(self, batch: PackedBatch) -> Losses:
        """Under the configured precision; regularisers in train mode only."""
        with torch.autocast(batch.tokens_RL.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            regularisers = self.config.regularisers
            patches_BPV = batch.patches_BPV.float()
            if self.training:
                patches_BPV = disturbed(patches_BPV, regularisers)
            reads = self.read(batch, patches_BPV)
            losses = self.losses(batch, reads)
            if not self.training:
                return losses
            total = losses.total
            if regularisers.consistency:
                other_BPV = (
                    noisy(patches_BPV, regularisers.consistency.noise) if batch.view_BPV is None else batch.view_BPV
                )
                other = self.read(batch, other_BPV)
                total = total + regularisers.consistency.weight * self._distance(batch, reads, other)
            if regularisers.adversarial:
                worst_BPV = adversarial_patches(
                    lambda patches_BPV: self.losses(batch, self.read(batch, patches_BPV)).total,
                    patches_BPV,
                    regularisers.adversarial,
                )
                total = total + regularisers.adversarial.weight * self.losses(batch, self.read(batch, worst_BPV)).total
            return losses._replace(total=total)

    def read(self, batch: PackedBatch, patches_BPV: Tensor) -> Reads:
        """One forward of mapper and language model."""
        shared_BSD = self.shared_inputs(patches_BPV)
        inputs_RLD = self.lm.get_input_embeddings()(batch.tokens_RL)
        num_shared = shared_BSD.shape[1]
        places_BS = batch.image_place_B[:, None] + torch.arange(num_shared, device=shared_BSD.device)
        inputs_RLD = inputs_RLD.index_put((batch.image_row_B[:, None], places_BS), shared_BSD.to(inputs_RLD.dtype))
        hidden_RLD = self.hidden_states(inputs_RLD, batch)
        return Reads(
            hidden_RLD[batch.target_row_N, batch.target_place_N],
            hidden_RLD[batch.image_row_B, batch.image_place_B + num_shared - 1],
            {number: hidden_RLD[reads.row_M, reads.place_M] for number, reads in batch.reads.items()},
        )

    def hidden_states(self, inputs_RLD: Tensor, batch: PackedBatch) -> Tensor:
        """[R, L, D]."""
        if self.shares_prefix:
            told = {"attention_mask": block_mask(batch, inputs_RLD.dtype), "position_ids": batch.positions_RL}
        else:
            told = {"attention_mask": (batch.image_RL != PAD).long()}
        output: Any = self.lm.base_model(inputs_embeds=inputs_RLD, use_cache=False, **told)
        hidden_RLD: Tensor = output.last_hidden_state
        return hidden_RLD

    def target_logits(self, targets_ND: Tensor) -> Tensor:
        """[N, C]: logits where a target is predicted, and nowhere else."""
        logits_NC: Tensor = self.lm.get_output_embeddings()(targets_ND)
        return logits_NC

    def losses(self, batch: PackedBatch, reads: Reads) -> Losses:
        """Of the objectives alone."""
        smoothing = self.config.regularisers.label_smoothing if self.training else 0.0
        num_objectives = len(self.objectives)
        losses_N = functional.cross_entropy(
            self.target_logits(reads.targets_ND).float(), batch.target_N, reduction="none", label_smoothing=smoothing
        )
        sum_O = sums_by_objective(losses_N * batch.weight_N, batch.objective_N, num_objectives)
        weight_O = sums_by_objective(batch.weight_N, batch.objective_N, num_objectives)
        for number, hidden_MD in reads.heads.items():
            found = batch.reads[number]
            head: Any = self.heads[self.objectives[number].name]
            if isinstance(head, ContrastHead):
                weighted = head.weighted_loss(reads.images_BD, hidden_MD, found)
            else:
                weighted = head.losses(hidden_MD, found.values_MU, smoothing) @ found.weight_M
            at = torch.tensor([number], device=weight_O.device)
            sum_O = sum_O.index_add(0, at, weighted[None])
            weight_O = weight_O.index_add(0, at, found.weight_M.sum()[None])
        return Losses((sum_O * batch.scale_O).sum(), sum_O.detach(), weight_O)

    def _distance(self, batch: PackedBatch, one: Reads, other: Reads) -> Tensor:
        """Mean over what is read of the squared distance per component, weighted as the objectives are."""
        pairs = [(one.targets_ND, other.targets_ND, batch.weight_N * batch.scale_O[batch.objective_N])]
        for number, found in batch.reads.items():
            pairs.append((one.heads[number], other.heads[number], found.weight_M * batch.scale_O[number]))
        distances = [((a - b).float().square().mean(dim=1) * weight).sum() for a, b, weight in pairs]
        return torch.stack(distances).sum()

    def trained(self) -> dict[str, nn.Parameter]:
        """By name: what is trained, and all that an export holds."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """fp32 copies of the trained parameters, by name."""
    return {
        name: parameter.detach().float().cpu().clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def load_trainable_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Set every trained parameter. Raises ValueError when the names are not exactly the trained ones."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if set(trained) != set(state):
        raise ValueError(f"trained parameters differ by name: {sorted(set(trained) ^ set(state))}")
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(state[name])


def build_prefix_model(
    config: TrainConfig, language: LanguageModel, shape: tuple[int, int], space: AnswerSpace
) -> PrefixModel:
    """A fresh model; new weights are a function of the seed. `shape` is (patches, vision width) of the features.

    Changes the language model: what the regime trains is marked and added in place."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        assert config.mapper is not None, "only the regime lit has none"
        mapper = build_mapper(config.mapper, MapperShape(*shape, language.width, language.embedding_scale))
        heads = _heads(config, language.width, space)
    shares_prefix = language.shares_prefix  # asked of the model as it was loaded, as layout_of does
    soft_prompt = apply_regime(config.regime, language.model, config.seed)
    model = PrefixModel(config, language, mapper, heads, soft_prompt)
    model.shares_prefix = shares_prefix
    return model


def _heads(config: TrainConfig, width: int, space: AnswerSpace) -> nn.ModuleDict:
    objectives, heads = config.objectives, nn.ModuleDict()
    if objectives.classify and objectives.classify.by == "head":
        heads["classify"] = ClassifyHead(width, len(space.labels))
    if objectives.regress:
        heads["regress"] = RegressHead(width, len(space.number_means), objectives.regress.loss)
    if objectives.contrast:
        heads["contrast"] = ContrastHead(width, objectives.contrast)
    return heads


def layout_of(config: TrainConfig, language: LanguageModel) -> Layout:
    """What stands before every text."""
    assert config.mapper is not None, "only the regime lit has none"
    soft = config.regime.num_tokens if isinstance(config.regime, PromptRegime) else 0
    return Layout(soft + len(language.lead_ids), config.mapper.prefix_tokens, language.shares_prefix)
