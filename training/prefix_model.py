"""F(x) = LM([lead; mapper(features); prompt; target]): the mapper is trained, the language model is frozen.

Shapes: B images, P patches, V vision width, K prefix length, S = lead + K, T branch tokens, L = S + T,
D LM width, N target tokens, C vocabulary, O objectives.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from training.config import TrainConfig
from training.language_model import LanguageModel
from training.mappers import MapperShape, build_mapper
from training.objectives import objectives_of, sums_by_objective, token_losses
from training.packing import PackedBatch, positions, shared_mask

TRAINABLE_PREFIX = "mapper."


class PrefixLosses(NamedTuple):
    """Sums over a micro batch; whoever knows the global batch divides."""

    weighted_sum: Tensor
    """Differentiable scalar: each target token's loss times its weight."""
    weighted_sum_O: Tensor
    weight_O: Tensor


class PrefixModel(nn.Module):
    """A trained mapper before a frozen language model."""

    lead_S: Tensor

    def __init__(self, mapper: nn.Module, language_model: LanguageModel, num_objectives: int, autocast: bool) -> None:
        super().__init__()
        self.mapper = mapper
        self.lm = language_model.model
        self.num_objectives, self.autocast = num_objectives, autocast
        self.register_buffer("lead_S", torch.tensor(language_model.lead_ids, dtype=torch.long), persistent=False)

    def train(self, mode: bool = True) -> "PrefixModel":
        """The language model stays in eval mode: its dropout would be noise in a frozen function."""
        super().train(mode)
        self.lm.eval()
        return self

    def prefix(self, patches_BPV: Tensor) -> Tensor:
        """[B, K, D] in the language model's dtype, from float16 or float32 patches."""
        prefix_BKD: Tensor = self.mapper(patches_BPV.float())
        return prefix_BKD.to(self.lm.dtype)

    def forward(self, batch: PackedBatch) -> PrefixLosses:
        with torch.autocast(batch.tokens_BT.device.type, torch.bfloat16, enabled=self.autocast):
            logits_NC = self.target_logits(batch)
        losses_N = token_losses(logits_NC, batch.target_N) * batch.weight_N
        detached_N = losses_N.detach()
        return PrefixLosses(
            losses_N.sum(),
            sums_by_objective(detached_N, batch.objective_N, self.num_objectives),
            sums_by_objective(batch.weight_N, batch.objective_N, self.num_objectives),
        )

    def target_logits(self, batch: PackedBatch) -> Tensor:
        """[N, C]: logits where a target is predicted, and nowhere else."""
        embed = self.lm.get_input_embeddings()
        prefix_BKD = self.prefix(batch.patches_BPV)
        parts = [prefix_BKD, embed(batch.tokens_BT)]
        if len(self.lead_S):
            parts.insert(0, embed(self.lead_S).expand(len(prefix_BKD), -1, -1))
        num_shared = len(self.lead_S) + prefix_BKD.shape[1]
        hidden_BLD = self.hidden_states(
            torch.cat(parts, dim=1),
            shared_mask(batch.branch_BT, num_shared, self.lm.dtype),
            positions(batch.positions_BT, num_shared),
        )
        hidden_ND = hidden_BLD[batch.target_row_N, batch.target_place_N + num_shared - 1]
        logits_NC: Tensor = self.lm.get_output_embeddings()(hidden_ND)
        return logits_NC

    def hidden_states(self, inputs_BLD: Tensor, mask_B1LL: Tensor, positions_BL: Tensor) -> Tensor:
        output: Any = self.lm.base_model(
            inputs_embeds=inputs_BLD, attention_mask=mask_B1LL, position_ids=positions_BL, use_cache=False
        )
        hidden_BLD: Tensor = output.last_hidden_state
        return hidden_BLD

    def trainable_state(self) -> dict[str, Tensor]:
        """fp32 copies of the trained parameters, by name."""
        return {
            name: parameter.detach().float().cpu().clone()
            for name, parameter in self.named_parameters()
            if parameter.requires_grad
        }

    def load_trainable_state(self, state: dict[str, Tensor]) -> None:
        """Set every trained parameter. Raises ValueError when the names are not exactly the trained ones."""
        trained = {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}
        if set(trained) != set(state):
            raise ValueError(f"trained parameters differ by name: {sorted(set(trained) ^ set(state))}")
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(state[name])


def build_prefix_model(
    config: TrainConfig, language_model: LanguageModel, num_patches: int, vision_width: int
) -> PrefixModel:
    """A fresh model; the mapper's weights are a function of the seed."""
    shape = MapperShape(num_patches, vision_width, language_model.width, language_model.embedding_scale)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        mapper = build_mapper(config.mapper, shape)
    return PrefixModel(mapper, language_model, len(objectives_of(config)), config.precision == "bf16")
