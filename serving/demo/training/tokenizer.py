"""The demo model's tokenizer: a byte-level BPE of at most 2,048 tokens with Qwen3-VL's special-token strings.

It owns how text is cut. Which texts it is trained on comes from the caller (corpus.py). Digits, capitals, Chinese
characters and punctuation marks are each a token of their own: a printed word is then read letter by letter, and
JSON or a tool call is written mark by mark, whatever stands around it.
"""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

VOCABULARY_SIZE = 2048

# Qwen3-VL's, in its order; programs look them up by their text. Control tokens are left out of decoded answers,
# markup tokens stay in them, since a tool-call or reasoning parser reads them there.
CONTROL_TOKENS = [
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>"),
    *("<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>"),
]
MARKUP_TOKENS = [
    *("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
    *("<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>"),
]

# A line break; a lower-case word with the space before it; any other letter (capital, Chinese character) alone;
# a digit; a punctuation mark with the space before it; any other white space.
PATTERN = r"[\r\n]| ?[\p{Ll}\p{M}]+|\p{L}|\p{N}| ?[^\s\p{L}\p{M}\p{N}]|\s"

CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")


def train_tokenizer(texts: Iterable[str], vocabulary_size: int = VOCABULARY_SIZE) -> PreTrainedTokenizerFast:
    """The same texts in the same order give the same tokenizer. Any text can be encoded, and decodes to itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size - len(CONTROL_TOKENS) - len(MARKUP_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in CONTROL_TOKENS])
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in MARKUP_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=CONTROL_TOKENS[2],
        pad_token=CONTROL_TOKENS[0],
        additional_special_tokens=CONTROL_TOKENS[1:],
        chat_template=CHAT_TEMPLATE.read_text(encoding="utf-8"),
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )
