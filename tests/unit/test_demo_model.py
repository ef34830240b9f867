"""The demo model's own parts: tokenizer, chat template, patches, and a training pass that equals transformers'."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, AutoTokenizer, PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

from serving.demo.pictures.lettering import fonts
from serving.demo.pictures.scene import Scene, Text
from serving.demo.questions.conversations import Conversation, Turn, conversation
from serving.demo.training.architecture import MAX_PARAMETERS, config_for, export, fresh_model
from serving.demo.training.batches import Encoder, Example, branches_of, collate, messages_of, micro_batches, picture
from serving.demo.training.feed import Feed, Pool
from serving.demo.training.forward import load, normalize, predict
from serving.demo.training.optimizer import orthogonal
from serving.demo.training.patches import GridTables, to_patches
from serving.demo.training.ranks import Ranks
from serving.demo.training.reservoir import Kept
from serving.demo.training.targets import CHARACTERS, patch_targets
from serving.demo.training.tokenizer import VOCABULARY_SIZE, train_tokenizer
from serving.demo.training.trainer import Trainer, Window

TOOL = {
    "type": "function",
    "function": {
        "name": "report",
        "description": "Says 你好.",
        "parameters": {"type": "object", "properties": {"color": {"type": "string"}}},
    },
}


def some_texts() -> list[str]:
    rng = random.Random(3)
    turns = [turn for _ in range(60) for turn in conversation(rng, "train").turns]
    return [text for turn in turns for text in (turn.question, turn.answer)]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(some_texts())


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLForConditionalGeneration:
    return fresh_model(config_for(tokenizer), seed=0).eval()


@pytest.fixture(scope="module")
def folder(
    model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("model")
    export(model, tokenizer, out)
    return out


def some_examples(encoder: Encoder) -> Iterator[tuple[Conversation, list[list[Turn]], Example]]:
    """One with a tool, one with several pictures, one with none, and one of the most common kind."""
    rng = random.Random(5)
    wanted = [
        lambda asked: bool(asked.tools),
        lambda asked: len(asked.images) > 1,
        lambda asked: not asked.images,
        lambda asked: len(asked.turns) > 2,
    ]
    while wanted:
        asked = conversation(rng, "train")
        if wanted[0](asked):
            wanted.pop(0)
            branches = branches_of(asked.turns[:3], rng, 0.7)
            yield asked, branches, encoder.example(asked, branches, [picture(s, rng, "train") for s in asked.images])


def rendered(tokenizer: PreTrainedTokenizerFast, asked: Conversation, turns: list[Turn]) -> str:
    text: str = tokenizer.apply_chat_template(
        messages_of(replace(asked, turns=turns)), tools=asked.tools, tokenize=False
    )
    return text


def test_the_same_texts_give_the_same_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    again = train_tokenizer(some_texts())
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert len(tokenizer) <= VOCABULARY_SIZE


@pytest.mark.parametrize(
    "text", ["Ünïcödé ☃ 日本語 \t\n x  y", '{"name": "x", "n": [1, 2]}', "图片中有什么？\n\n<tool_call>"]
)
def test_any_text_survives_the_tokenizer(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_printed_words_are_cut_letter_by_letter(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer('It says "HB42".')["input_ids"]
    assert [tokenizer.decode([each]) for each in ids][-6:] == ["H", "B", "4", "2", '"', "."]


def test_tool_calls_stay_in_decoded_answers_and_control_tokens_do_not(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer("<tool_call>\n{}\n</tool_call><|im_end|>")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<tool_call>\n{}\n</tool_call>"


def test_chat_template_renders_pictures_tools_and_calls_as_qwen_does(tokenizer: PreTrainedTokenizerFast) -> None:
    link = {"type": "image_url", "image_url": {"url": "a.png"}}
    parts = [{"type": "image"}, link, {"type": "text", "text": "Which?"}]
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "report", "arguments": {"n": 1}}}]},
        {"role": "tool", "content": "red"},
        {"role": "tool", "content": "blue"},
    ]
    text = tokenizer.apply_chat_template(messages, tools=[TOOL], tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nBe brief.\n\n# Tools\n\nYou may call one or more functions to assist with the user query."
        "\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
        '{"type": "function", "function": {"name": "report", "description": "Says 你好.", "parameters": '
        '{"type": "object", "properties": {"color": {"type": "string"}}}}}\n</tools>\n\n'
        "For each function call, return a json object with function name and arguments within <tool_call></tool_call> "
        'XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|><|vision_start|><|image_pad|><|vision_end|>Which?"
        '<|im_end|>\n<|im_start|>assistant\n<tool_call>\n{"name": "report", "arguments": {"n": 1}}\n</tool_call>'
        "<|im_end|>\n<|im_start|>user\n<tool_response>\nred\n</tool_response>\n<tool_response>\nblue\n</tool_response>"
        "<|im_end|>\n<|im_start|>assistant\n"
    )


def test_patches_are_those_of_the_image_processor(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (256, 352, 3), np.uint8)
    processed = AutoProcessor.from_pretrained(folder).image_processor(images=[pixels], return_tensors="pt")
    patches, grid = to_patches(pixels)
    assert processed["image_grid_thw"].tolist() == [[1, *grid]]
    ours = normalize(torch.from_numpy(patches.copy())).view(-1, 3, 1, 256).expand(-1, -1, 2, -1).flatten(1)
    torch.testing.assert_close(ours, processed["pixel_values"], atol=1e-5, rtol=0)


def test_branches_are_the_prompts_that_the_server_builds(tokenizer: PreTrainedTokenizerFast) -> None:
    encoder = Encoder(tokenizer)
    for asked, branches, example in some_examples(encoder):
        for number, turns in enumerate(branches, start=1):
            seen = example.tokens[(example.branches == 0) | (example.branches == number)]
            text = rendered(tokenizer, asked, turns).removesuffix("\n")
            for _, grid, _ in example.pictures:
                text = text.replace("<|image_pad|>", "<pad>" * (grid[0] * grid[1] // 4), 1)
            assert seen.tolist() == encoder.cut(text.replace("<pad>", "<|image_pad|>"))
        answers = [example.tokens[example.turns == number] for number in range(len(example.kinds))]
        turns = [turn for branch in branches for turn in branch]
        assert [tokenizer.decode(answer) for answer in answers] == [f"{turn.answer}<|im_end|>" for turn in turns]


def test_the_batched_pass_equals_that_of_transformers(
    model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast
) -> None:
    examples = [example for _, _, example in some_examples(Encoder(tokenizer))]
    tables = GridTables(64, torch.device("cpu"))
    with torch.no_grad():
        batch = load(*collate(examples), model.config.image_token_id, tables)
        ours = predict(model, batch).logits
        theirs = torch.cat([logits for example in examples for logits in reference_logits(model, example)])
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def reference_logits(model: Qwen3VLForConditionalGeneration, example: Example) -> Iterator[torch.Tensor]:
    """Of the answer tokens of each branch, by transformers' own forward pass, which places the tokens itself."""
    pictures = [normalize(torch.from_numpy(np.array(patches))) for patches, _, _ in example.pictures]
    pixels = torch.cat(pictures).view(-1, 3, 1, 256).expand(-1, -1, 2, -1).flatten(1) if pictures else None
    grids = torch.tensor([(1, *grid) for _, grid, _ in example.pictures]) if pictures else None
    for branch in range(1, example.branches.max() + 1):
        seen = (example.branches == 0) | (example.branches == branch)
        tokens = torch.from_numpy(example.tokens[seen])[None]
        out = model(
            input_ids=tokens,
            pixel_values=pixels,
            image_grid_thw=grids,
            mm_token_type_ids=(tokens == model.config.image_token_id).int(),
        )
        yield out.logits[0, np.flatnonzero(example.turns[seen] >= 0) - 1]


def test_a_word_is_found_where_it_is_drawn() -> None:
    """The ink of a word on an empty picture covers the patches that its characters are said to be in."""
    word = Text("HB42", 0.5, 0.3, 40.0, 10.0, "black", (0, 0, 0), fonts("train")[0])
    scene = Scene(400, 300, (), word, photo=False, base=(250, 250, 250))
    patches, grid, targets = picture(scene, random.Random(1), "train")
    marked = targets.characters != 0
    assert 1 <= marked.sum() <= len(word.value)
    contrast = np.ptp(patches.astype(int).reshape(len(patches), -1), axis=1)
    assert contrast[marked].min() > np.median(contrast[~marked])
    bits = int(np.bitwise_or.reduce(patch_targets(scene, grid, "train").characters))
    assert {CHARACTERS[bit] for bit in range(36) if bits >> bit & 1} == set(word.value)


def test_a_few_steps_lower_the_loss_and_a_checkpoint_restores_them(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    config = config_for(tokenizer)
    config.vision_config.depth, config.text_config.num_hidden_layers = 5, 1
    trainer = Trainer(fresh_model(config, seed=0), torch.device("cpu"), Ranks(), seed=0)
    encoder = Encoder(tokenizer)
    rng = random.Random(7)
    examples = []
    for _ in range(2):
        asked = conversation(rng, "train")
        examples.append(encoder.example(asked, [asked.turns], [picture(s, rng, "train") for s in asked.images]))
    batches = [load(*each, config.image_token_id, trainer.tables) for each in micro_batches(examples, 2)]
    pool = Kept(batches, sum(len(each.answers) for each in batches), 2, sum(len(each.grids) for each in batches))
    losses = []
    for _ in range(8):
        window = Window()
        trainer.step(pool, rate=3e-3, patch_weight=1.0, window=window)
        losses.append(window.mean("loss"))
    assert losses[-1] < 0.7 * losses[0]
    trainer.save(tmp_path / "checkpoint.pt")
    other = Trainer(fresh_model(config, seed=1), torch.device("cpu"), Ranks(), seed=0)
    other.restore(tmp_path / "checkpoint.pt")
    assert other.progress.steps == 8
    assert other.evaluate([pool]) == trainer.evaluate([pool])


def test_orthogonal_brings_singular_values_near_one() -> None:
    matrices = torch.randn(3, 64, 160, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(matrices))
    assert values.min() > 0.6
    assert values.max() < 1.3


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_feed_hands_over_what_its_workers_make() -> None:
    def produce(worker: int) -> Iterator[Pool]:
        for number in range(3):
            yield [({"tokens": np.full((2, 5), 10 * worker + number)}, ["text en"])]

    feed = Feed(produce, workers=2, slot_bytes=4096)
    values = sorted(int(feed.take()[0][0]["tokens"][1, 4]) for _ in range(6))
    feed.close()
    assert values == [0, 1, 2, 10, 11, 12]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_failing_worker_is_heard_of() -> None:
    def produce(_: int) -> Iterator[Pool]:
        raise OSError("no such font")
        yield []

    feed = Feed(produce, workers=1, slot_bytes=4096)
    with pytest.raises(RuntimeError, match="no such font"):
        feed.take()
    feed.close()


def test_the_shipped_model_is_small_and_complete() -> None:
    shipped = Path(__file__).parents[2] / "serving/demo/model"
    model = Qwen3VLForConditionalGeneration.from_pretrained(shipped)
    assert sum(parameter.numel() for parameter in model.parameters()) <= MAX_PARAMETERS
    assert (shipped / "model.safetensors").stat().st_size <= 20_000_000
    assert model.dtype == torch.bfloat16
    processor = AutoProcessor.from_pretrained(shipped)
    assert type(processor).__name__ == "Qwen3VLProcessor"
    assert len(processor.tokenizer) == model.config.text_config.vocab_size
    assert AutoTokenizer.from_pretrained(shipped).chat_template == processor.chat_template
