"""What one choice of settings comes to on the card: each part of its memory, and the tokens that are left to the KV cache.
Which choice is taken is `planner.py`'s question, how large each part is `memory.py`'s.
"""

from dataclasses import dataclass, replace

from serving.models.architecture import Shape, Text
from serving.models.weights import Weights
from serving.planning import memory
from serving.planning.adapters import Adapter, planned_slots
from serving.planning.asked import Asked
from serving.planning.heads import DraftHead, speculation_of
from serving.planning.layout import MACHETE, NO_LAYOUT, Layout, layout
from serving.planning.memory import MIB, Constants, Load
from serving.planning.plan import MemoryMib, PlannedSpeculation
from serving.planning.policy import Settings, cudagraph_sizes, encoder_budgets, flashinfer
from serving.planning.profile import Profile
from serving.planning.speculation import Speculation

# What the prediction may be wrong by, and what the desktop may take meanwhile.
_HEADROOM_MIB = 200
# On a CPU: Python, torch and vLLM in two processes; no graphs; what the allocator keeps.
_CPU = Constants(
    context=1536 * MIB,
    workspace=0,
    graph_of_layer=0,
    fragments=256 * MIB,
    fragments_share=0.5,
    cublas=0,
)


@dataclass(frozen=True)
class Sized:
    """`cudagraph_sizes` are the batches that get a CUDA graph. A token of the KV cache takes `token_bytes`, and all requests
    together `state_bytes`."""

    settings: Settings
    memory_mib: MemoryMib
    cudagraph_sizes: list[int]
    kv_tokens: int = 0
    token_bytes: int = 0
    state_bytes: int = 0
    image_tokens: int = 0
    encoder_tokens: int = 0
    encoder_budgets: tuple[int, ...] = ()
    speculation: PlannedSpeculation | None = None


@dataclass(frozen=True)
class Sizing:
    """What is the same for every choice; `shape` and `weights` are those of one of `cards` that share a server."""

    profile: Profile
    asked: Asked
    shape: Shape
    weights: Weights
    usable_mib: int
    capability: str | None
    pictures: bool
    constants: Constants
    expandable_segments: bool
    adapters: tuple[Adapter, ...]
    head: DraftHead | None
    cards: int

    def of(self, settings: Settings) -> Sized:
        """What these settings need, and what they leave to the KV cache."""
        asked, shape, graphs = self.asked, self.shape, graphs_of(self.profile, self.asked, settings)
        context = asked.number("max_model_len") or self.profile.context
        load = Load(
            max_num_seqs=settings.max_num_seqs,
            max_num_batched_tokens=settings.max_num_batched_tokens,
            image_tokens=settings.max_image_pixels // shape.vision.pixels_per_token if self.pictures else 0,
            cudagraph_sizes=len(graphs),
            lora=planned_slots(self.adapters, asked),
            speculation=speculation_of(asked.speculation, self.head, self.cards, context),
            flashinfer=flashinfer(self.capability, asked.kv_bytes_per_value, asked.attention_backend),
            sixteen_bit=self.weights.is_sixteen_bit,
        )
        load = replace(load, encoder_budgets=self._encoder_budgets(settings, load.encoder_tokens))
        constants = self._constants
        needed = MemoryMib.of(
            memory.parts(shape, self.weights.total, load, constants, self.cards, self._layout), headroom=_HEADROOM_MIB
        )
        kv_mib = self._kv_mib(self.usable_mib - needed.total)
        state = settings.max_num_seqs * memory.state_bytes_per_sequence(shape.text)
        speculation = self._speculation(load, constants)
        token = self._kv_bytes(shape.text) + (speculation.kv_bytes_per_token if speculation else 0)
        return Sized(
            settings,
            needed.model_copy(update={"kv_cache": kv_mib}),
            graphs,
            memory.kv_tokens(kv_mib * MIB - state, token, asked.block_size),
            token,
            state,
            load.image_tokens,
            load.encoder_tokens,
            load.encoder_budgets,
            speculation,
        )

    def _encoder_budgets(self, settings: Settings, encoder_tokens: int) -> tuple[int, ...]:
        given = self.asked.compilation.get("encoder_cudagraph_token_budgets")
        if settings.prompt_graphs and isinstance(given, list) and given:
            return tuple(given)
        return encoder_budgets(settings, encoder_tokens)

    def _kv_mib(self, left_mib: int) -> int:
        if given := self.asked.number("kv_cache_memory_bytes"):
            return given // MIB
        return max(0, min(left_mib, self.profile.kv_cache_mib or left_mib))

    def _kv_bytes(self, text: Text) -> int:
        """Of one token in those layers, at the precision that was asked for."""
        return memory.kv_bytes_per_token(text) * self.asked.kv_bytes_per_value // 2

    @property
    def _layout(self) -> Layout:
        """None on a CPU, nor of a quantization that is not known."""
        if self.profile.gpu is None or not (self.weights.quantization or self.weights.is_sixteen_bit):
            return NO_LAYOUT
        machete = self.capability == MACHETE
        return layout(self.shape, self.weights.quantization, pictures=self.pictures, machete=machete)

    @property
    def _constants(self) -> Constants:
        if self.profile.device == "cpu":
            return _CPU
        return self.constants if self.expandable_segments else memory.with_fixed_segments(self.constants)

    def _speculation(self, load: Load, constants: Constants) -> PlannedSpeculation | None:
        wish, head = self.asked.speculation, load.speculation.head
        if wish is None:
            return None
        return PlannedSpeculation(
            method=wish.method,
            tokens=wish.tokens,
            head=self.head.name if self.head and head else None,
            mib=-(-memory.cost_of_speculation(self.shape, load, constants) // MIB),
            weights_mib=-(-head.weights // MIB) if head else 0,
            kv_bytes_per_token=self._kv_bytes(head.text) if head else 0,
        )


def graphs_of(profile: Profile, asked: Asked, settings: Settings) -> list[int]:
    """The batches that get a CUDA graph; none on a CPU."""
    if profile.device == "cpu" or asked.enforce_eager:
        return []
    sizes = asked.compilation.get("cudagraph_capture_sizes")
    drafts = Speculation(asked.speculation.tokens if asked.speculation else 0)
    return sizes if isinstance(sizes, list) else cudagraph_sizes(settings, drafts.rows)
