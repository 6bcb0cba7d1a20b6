"""A small causal language model, pretrained to answer over a written description.

Shapes: B scenes, S description vectors, W words in a vector, T text tokens, L = S + T, D width.
"""

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from infra.errors import ConfigError
from training.base.config import LanguageModelConfig, ScheduleConfig
from training.base.text import SceneText, scene_text
from training.base.tokenizer import checked_id


class LanguageModelProblem:
    """Loss on the targets of all questions of a scene, which share one copy of its description."""

    def __init__(self, config: LanguageModelConfig, seed: int, tokenizer: PreTrainedTokenizerFast) -> None:
        self.config, self.seed, self.tokenizer = config, seed, tokenizer
        self._read_corpus()

    @property
    def schedule(self) -> ScheduleConfig:
        return self.config.schedule

    def build(self) -> nn.Module:
        config = self.config
        torch.manual_seed(self.seed)
        # Rows of the table are a multiple of 8 and at least the tokenizer's, whatever it merged.
        vocab_tokens = -(-len(self.tokenizer) // 8) * 8
        model: nn.Module = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocab_tokens,
                hidden_size=config.width,
                intermediate_size=config.mlp_width,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                max_position_embeddings=config.context_tokens,
                bos_token_id=None,
                eos_token_id=checked_id(self.tokenizer.eos_token_id),
                pad_token_id=checked_id(self.tokenizer.pad_token_id),
                tie_word_embeddings=True,
                initializer_range=config.width**-0.5,
            )
        )
        return model

    def loss(self, module: nn.Module, global_step: int) -> Tensor:
        model = cast(LlamaForCausalLM, module)
        random = torch.Generator().manual_seed((self.seed << 32) + global_step)
        num_scenes = self.words_NSW.shape[0]
        scenes_B = torch.randint(num_scenes, (self.schedule.batch_scenes,), generator=random)
        description_BSD = self._description(model, scenes_B, random)
        tokens_BT, branch_BT = self.tokens_NT[scenes_B], self.branch_NT[scenes_B]
        inputs_BLD = torch.cat([description_BSD, model.get_input_embeddings()(tokens_BT)], dim=1)
        num_vectors = self.config.description_vectors
        vectors_S = torch.arange(num_vectors).expand(len(scenes_B), -1)
        hidden_BLD = model.model(
            inputs_embeds=inputs_BLD,
            attention_mask=_branch_mask(branch_BT, num_vectors),
            position_ids=torch.cat([vectors_S, self.positions_NT[scenes_B]], dim=1),
            use_cache=False,
        ).last_hidden_state
        hidden_BTD, labels_BT = hidden_BLD[:, num_vectors:], self.labels_NT[scenes_B]
        scored_BT = labels_BT >= 0
        losses = functional.cross_entropy(model.lm_head(hidden_BTD[scored_BT]), labels_BT[scored_BT], reduction="none")
        weights = self.weights_NT[scenes_B][scored_BT]
        return (losses * weights).sum() / weights.sum()

    def export(self, module: nn.Module, folder: Path) -> None:
        """Model and tokenizer, in one folder."""
        cast(LlamaForCausalLM, module).save_pretrained(folder, safe_serialization=True)
        self.tokenizer.save_pretrained(folder)

    def _description(self, model: LlamaForCausalLM, scenes_B: Tensor, random: torch.Generator) -> Tensor:
        """Sum of each vector's words, in shuffled places, plus noise; spare places hold noise alone."""
        words_BSW = self.words_NSW[scenes_B]
        order_BS = torch.rand(words_BSW.shape[:2], generator=random).argsort(dim=1)
        words_BSW = words_BSW.gather(1, order_BS[..., None].expand_as(words_BSW))
        # Spelled descriptions keep their order: only the place of a word says what it belongs to.
        spelled_B = self.spelled_N[scenes_B]
        words_BSW = torch.where(spelled_B[:, None, None], self.words_NSW[scenes_B], words_BSW)
        present_BSW1 = (words_BSW >= 0)[..., None]
        embedded_BSWD = model.get_input_embeddings()(words_BSW.clamp(min=0)) * present_BSW1
        # Divided by the root of the number of words, so that folding keeps the embeddings' spread.
        folded_BSD = embedded_BSWD.sum(dim=2) / present_BSW1.sum(dim=2).clamp(min=1).sqrt()
        noise_BSD = torch.randn(folded_BSD.shape, generator=random)
        spread = model.get_input_embeddings().weight.detach().std()
        return cast(Tensor, folded_BSD + self.config.noise * spread * noise_BSD)

    def _read_corpus(self) -> None:
        """Tokenize the whole corpus once, into padded tables."""
        config, eos = self.config, checked_id(self.tokenizer.eos_token_id)
        random = torch.Generator().manual_seed(self.seed)
        self.spelled_N = torch.rand(config.num_scenes, generator=random) >= config.folded_share
        texts = [scene_text(self.seed, number) for number in range(config.num_scenes)]
        ids = self._ids_of_all(texts)
        descriptions: list[list[list[int]]] = []
        packed: list[list[tuple[int, int, int, int]]] = []
        for text, spelled in zip(texts, self.spelled_N.tolist(), strict=True):
            phrases = [ids[phrase] for phrase in text.description]
            descriptions.append([[word] for phrase in phrases for word in phrase] if spelled else phrases)
            packed.append(
                [
                    (token, branch, config.description_vectors + place, label)
                    for branch, (prompt, target) in enumerate(text.branches)
                    for place, (token, label) in enumerate(_labelled(ids[prompt], ids[target], eos))
                ]
            )
        self.words_NSW = _pad_words(descriptions, config.description_vectors)
        num_tokens = max(len(rows) for rows in packed)
        filler = (checked_id(self.tokenizer.pad_token_id), -1, 0, -1)
        table = torch.tensor([rows + [filler] * (num_tokens - len(rows)) for rows in packed])
        self.tokens_NT, self.branch_NT, self.positions_NT, self.labels_NT = table.unbind(dim=2)
        # A caption has six times the tokens of an answer; weighting by the root keeps it from
        # drowning the questions.
        same_NTT = (self.branch_NT[:, :, None] == self.branch_NT[:, None, :]) & (self.labels_NT[:, None, :] >= 0)
        self.weights_NT = same_NTT.sum(dim=2).clamp(min=1).float().rsqrt()

    def _ids_of_all(self, texts: list[SceneText]) -> dict[str, list[int]]:
        """Token ids of every distinct phrase, prompt and target: many repeat, and one call is fast."""
        phrases = {phrase for text in texts for phrase in text.description}
        branches = {part for text in texts for branch in text.branches for part in branch}
        distinct = sorted(phrases | branches)
        return dict(zip(distinct, self.tokenizer(distinct)["input_ids"], strict=True))


def _labelled(prompt: list[int], target: list[int], eos: int) -> list[tuple[int, int]]:
    """(token, label) pairs: the next token where it belongs to the target, else -1."""
    tokens = prompt + target
    labels = [-1] * (len(prompt) - 1) + target + [eos]
    return list(zip(tokens, labels, strict=True))


def _pad_words(descriptions: list[list[list[int]]], num_vectors: int) -> Tensor:
    num_words = max(len(words) for vectors in descriptions for words in vectors)
    longest = max(len(vectors) for vectors in descriptions)
    if longest > num_vectors:
        raise ConfigError(
            f"a spelled description has {longest} words; expected at most description_vectors = "
            f"{num_vectors}. Raise description_vectors, or vocab_tokens so that a word is one token."
        )
    padded = torch.full((len(descriptions), num_vectors, num_words), -1)
    for scene, vectors in enumerate(descriptions):
        for place, words in enumerate(vectors):
            padded[scene, place, : len(words)] = torch.tensor(words)
    return padded


def _branch_mask(branch_BT: Tensor, num_vectors: int) -> Tensor:
    """Additive [B, 1, L, L]: causal; a branch sees the description and itself."""
    shared_BS = torch.full((branch_BT.shape[0], num_vectors), -2)
    branch_BL = torch.cat([shared_BS, branch_BT], dim=1)
    length = branch_BL.shape[1]
    same_BLL = branch_BL[:, :, None] == branch_BL[:, None, :]
    description_B1L = (branch_BL == -2)[:, None, :]
    causal_LL = torch.ones(length, length, dtype=torch.bool).tril()
    seen_BLL = (same_BLL | description_B1L) & causal_LL
    return torch.zeros(seen_BLL.shape).masked_fill(~seen_BLL, torch.finfo(torch.float32).min)[:, None]
