"""A frozen GPT-2 of two layers and a tokenizer of a few words."""

from pathlib import Path

WORDS = ["red", "blue", "green", "seven", "three", "one"]


def save_tokenizer(folder: Path, extra_tokens: int = 0) -> int:
    """A word-level tokenizer; returns its number of tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<eos>", "<unk>", "caption", ":", "question", "answer", "which", "colour", "digit", "a", *WORDS]
    words += [f"extra{number}" for number in range(extra_tokens)]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", bos_token="<eos>", unk_token="<unk>")
    fast.save_pretrained(folder)
    return len(words)


def save_language_model(folder: Path) -> None:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    num_tokens = save_tokenizer(folder)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=num_tokens + 6,
        n_positions=128,
        n_embd=16,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.3,  # a random model with the usual 0.02 hardly listens to its prefix
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
