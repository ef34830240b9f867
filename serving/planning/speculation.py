"""What speculative decoding adds to the memory, as pure functions: some tokens are drafted, and the model checks all of them in
its next step. Their sum with everything else is `memory.py`'s; where a head comes from, `heads.py`'s.

The formulas are those of vLLM 0.32's newer model runner: `TargetDependentARSpeculator` and `RejectionSampler` in
vllm/v1/worker/gpu/spec_decode/, `Eagle3LlamaForCausalLM` in vllm/model_executor/models/llama_eagle3.py. Not yet measured on a
GPU.
"""

from dataclasses import dataclass, replace

from serving.models.architecture import Text

_BYTES_16_BIT = 2


@dataclass(frozen=True)
class Head:
    """An EAGLE3 head: layers that draft from the model's own hidden states (arXiv:2503.01840). `hidden_states` is how many of
    the model's layers it reads for each token, `weights` the bytes that vLLM holds beside the model's: the head has no
    embedding of its own but where its file has one, and no output head but where its file has one."""

    text: Text
    draft_vocab_size: int
    hidden_states: int
    weights: int

    def share(self, cards: int) -> "Head":
        """One of several cards' part; the weights are counted whole on each, since `fc` is."""
        return replace(self, text=self.text.share(cards)) if cards > 1 else self


@dataclass(frozen=True)
class Speculation:
    """`tokens` are drafted for each request: by `head`, or without one from the text itself. `keeps_logits`: those of the
    drafts are kept until they are checked (vLLM's `draft_sample_method` of "probabilistic")."""

    tokens: int = 0
    head: Head | None = None
    keeps_logits: bool = False

    @property
    def rows(self) -> int:
        """Tokens of a step for each request that is being answered, with logits for each of them: the drafts and the one before
        (vLLM's `uniform_decode_query_len`)."""
        return 1 + self.tokens

    @property
    def captured_layers(self) -> int:
        """Layers in the CUDA graphs of one size beside the model's: the head drafts its first token with the model's batch, and
        every further one in a pass of its own (`TargetDependentARSpeculator.capture`)."""
        return self.head.text.layers * self.tokens if self.head else 0


NO_DRAFTS = Speculation()


def hidden_states(speculation: Speculation, text: Text, tokens: int) -> int:
    """What the head reads of a step of so many tokens, held from the model's layers until it drafts, 16 bits a number."""
    head = speculation.head
    return tokens * head.hidden_states * text.hidden_size * _BYTES_16_BIT if head else 0


def drafting(speculation: Speculation, text: Text, tokens: int) -> int:
    """The head's peak after a step of so many tokens, 16 bits a number: what it reads and the model's last hidden state, held
    by the runner; what `fc` makes of them; and then either their copy side by side, which `fc` takes, or the token's
    embedding and what the head's layer holds (`TargetDependentARSpeculator.propose`, `combine_hidden_states`)."""
    head = speculation.head
    if head is None:
        return 0
    together = head.hidden_states * text.hidden_size
    working = max(together, head.text.hidden_size + head.text.values_per_token)
    return tokens * (together + text.hidden_size + head.text.hidden_size + working) * _BYTES_16_BIT


def buffers(speculation: Speculation, text: Text, tokens: int, max_num_seqs: int) -> int:
    """Kept for the longest step: the hidden states that the head begins with (`TargetDependentARSpeculator.hidden_states`), and
    where the drafts' logits are kept, those (`DraftModelSpeculator.draft_logits`), 16 bits a number."""
    head = speculation.head
    if head is None:
        return 0
    logits = max_num_seqs * speculation.tokens * text.vocab_size if speculation.keeps_logits else 0
    return (tokens * head.text.hidden_size + logits) * _BYTES_16_BIT


def graph_pool(speculation: Speculation, text: Text, max_num_seqs: int) -> int:
    """What the head's CUDA graphs work in, which all of them share: logits of a full batch in its own vocabulary and, where
    that is a part of the model's, spread over the whole of it (`Eagle3LlamaForCausalLM.compute_logits`), 16 bits a number."""
    head = speculation.head
    if head is None:
        return 0
    own = head.draft_vocab_size if head.draft_vocab_size < text.vocab_size else 0
    return max_num_seqs * (own + text.vocab_size) * _BYTES_16_BIT
