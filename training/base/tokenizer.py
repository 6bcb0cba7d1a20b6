"""A byte-pair tokenizer for the base text, as an ordinary transformers folder."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

EOS = "<eos>"
PAD = "<pad>"


def train_tokenizer(lines: Iterable[str], vocab_tokens: int) -> PreTrainedTokenizerFast:
    """Byte level: no text is out of vocabulary, whatever a user asks."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_tokens,
        special_tokens=[PAD, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )


def checked_id(token_id: object) -> int:
    """A special token's id; transformers types it as one id, several or none."""
    assert isinstance(token_id, int), f"special token without an id: {token_id!r}"
    return token_id
