"""The demo model's pictures and questions: what is drawn is what is asked about, and the right answer is judged right."""

import io
import random
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from serving.demo.pictures.colors import name_of, shade, stands_out
from serving.demo.pictures.draw import draw, rasterize
from serving.demo.pictures.fitting import FACTOR, MAX_PIXELS, MIN_PIXELS, fit, fitted_size
from serving.demo.pictures.lettering import fonts
from serving.demo.pictures.scene import Scene, Split, item_box, place_of, random_scene
from serving.demo.questions.chat import ANSWERS
from serving.demo.questions.conversations import KINDS, conversation, question
from serving.demo.questions.heldout import Example, heldout, photographs
from serving.demo.questions.judge import is_right, says_photograph
from serving.demo.questions.phrases import lines, phrase
from serving.demo.vocabulary import COLORS, SHAPES, Language

LANGUAGES = get_args(Language)
CALL = '{"name": "report", "arguments": {"count": 1}}'


def scenes(count: int, split: Split = "train") -> list[Scene]:
    rng = random.Random("scenes")
    return [random_scene(rng, split) for _ in range(count)]


def test_scenes_keep_their_promises() -> None:
    for scene in scenes(300, "eval"):
        assert 64 <= min(scene.width, scene.height) <= max(scene.width, scene.height) <= 2048
        assert 1 / 3.1 <= scene.width / scene.height <= 3.1
        assert len(scene.items) <= 6
        boxes = [item_box(item, scene.width, scene.height) for item in scene.items]
        for left, top, right, bottom in boxes:
            assert left >= 0
            assert top >= 0
            assert right <= scene.width
            assert bottom <= scene.height
        for index, one in enumerate(boxes):
            for other in boxes[index + 1 :]:
                assert one[2] < other[0] or other[2] < one[0] or one[3] < other[1] or other[3] < one[1]
        for item in scene.items:
            assert stands_out(item.rgb, scene.base)
        if scene.text is not None:
            scale = fitted_size(scene.width, scene.height)[1] / scene.height
            assert scene.text.height_px >= 9
            assert scene.text.height_px * scale >= 12
            assert 3 <= len(scene.text.value) <= 6


def test_everything_is_drawn() -> None:
    """Whatever is small, pale or of any font leaves pixels of its colour in the picture."""
    rng = random.Random(1)
    seen: set[tuple[str, str]] = set()
    for scene in scenes(250):
        image = rasterize(scene, rng, "train")
        height, width = image.shape[:2]
        for item in scene.items:
            left, top, right, bottom = (round(edge) for edge in item_box(item, width, height))
            near = np.abs(image[top:bottom, left:right].astype(int) - item.rgb).max(axis=2) <= 2
            assert near.mean() > 0.15  # a thin star with an edge fills least of its box
            seen.add((item.shape, item.color))
        if scene.text is not None:
            assert (np.abs(image.astype(int) - scene.text.rgb).max(axis=2) < 40).any()
    assert {shape for shape, _ in seen} == set(SHAPES)
    assert {color for _, color in seen} == set(COLORS)


@pytest.mark.parametrize(
    ("size", "expected"), [((64, 64), (256, 256)), ((640, 480), (352, 256)), ((2048, 700), (544, 160))]
)
def test_fit_is_the_processors_size(size: tuple[int, int], expected: tuple[int, int]) -> None:
    width, height = expected
    assert fitted_size(*size) == expected
    assert fit(np.zeros((size[1], size[0], 3), np.uint8)).shape == (height, width, 3)


def test_fitted_pictures_stay_in_the_budget() -> None:
    rng = random.Random(2)
    for scene in scenes(60):
        height, width, _ = fit(draw(scene, rng, "train")).shape
        assert width % FACTOR == 0
        assert height % FACTOR == 0
        assert MIN_PIXELS <= width * height <= MAX_PIXELS


def test_a_colour_has_one_name() -> None:
    rng = random.Random(3)
    for name in COLORS:
        for _ in range(200):
            assert name_of(shade(rng, name)) in (name, None)
    assert name_of((255, 0, 255)) is None


def test_training_and_evaluation_share_no_font() -> None:
    assert fonts("train")
    assert fonts("eval")
    drawn = {scene.text.font for scene in scenes(200, "eval") if scene.text}
    assert drawn <= set(fonts("eval"))


def test_places_are_thirds_with_a_margin() -> None:
    names = {place_of(item) for scene in scenes(300) for item in scene.items}
    assert {"left", "center", "top right", None} <= names


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("key", ["shape", "color", "where", "count", "exists", "text", "describe", "json"])
def test_there_are_many_phrasings(key: str, language: Language) -> None:
    rng = random.Random(4)
    assert len({phrase(rng, key, language, {}, None, "train")[0] for _ in range(800)}) >= 25
    common, rare = lines("questions", key, language)
    assert rare
    assert not set(common) & set(rare)


def test_training_never_uses_the_evaluations_phrasings() -> None:
    rng = random.Random(5)
    assert not any(turn.unseen_phrasing for _ in range(300) for turn in conversation(rng, "train").turns)


def test_every_template_is_filled_in() -> None:
    rng = random.Random(6)
    for split in get_args(Split):
        for _ in range(400):
            for turn in conversation(rng, split).turns:
                assert "<" not in turn.question
                assert "[" not in turn.question
                if turn.kind not in ("json", "photo", "chat"):
                    assert "{" not in turn.question


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_questions_of_every_kind(kind: str, language: Language) -> None:
    rng = random.Random(f"{kind} {language}")
    for _ in range(20):
        asked = question(rng, kind, language, "eval")
        assert asked.turns[-1].kind == kind
        assert asked.turns[-1].language == language
        assert len(asked.turns) == (2 if kind == "follow_up" else 1)
        assert bool(asked.tools) == (kind == "tool")


def test_the_same_seed_draws_the_same() -> None:
    assert conversation(random.Random(7), "train") == conversation(random.Random(7), "train")
    assert list(heldout(6)) == list(heldout(6))


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return list(heldout(2 * 2 * len(KINDS)))


def test_heldout_files_open_and_messages_are_complete(examples: list[Example]) -> None:
    for example in examples:
        for picture in example.images:
            image = Image.open(io.BytesIO(picture.data))
            assert image.get_format_mimetype() == picture.mime
            assert image.size == (picture.width, picture.height)
        messages = example.messages()
        assert messages[-1]["role"] == "user"
        urls = [part for message in messages for part in message["content"] if isinstance(part, dict)]
        assert sum(part["type"] == "image_url" for part in urls) == len(example.images)


def test_right_answers_are_judged_right(examples: list[Example]) -> None:
    assert all(is_right(example, example.expected) for example in examples)
    assert not any(is_right(example, "") for example in examples)
    assert not any(says_photograph(example.expected) for example in examples)


def test_photographs_have_one_answer() -> None:
    for example in photographs(4):
        assert is_right(example, ANSWERS["photo"][example.language])
        assert not is_right(example, "A circle.")


def judged(kind: str, expected: str, answer: str) -> bool:
    example = Example((), None, None, (), "", expected, kind, "en", False)
    return is_right(example, answer)


@pytest.mark.parametrize(
    ("kind", "expected", "right", "wrong"),
    [
        ("color", "The circle is red.", "Red.", "The circle is blue."),
        ("color", "The circles are red and blue.", "Blue and red.", "The circles are red."),
        ("color", "The circle is red.", "The circle is red", "The star is red."),
        ("color", "圆形是红色的。", "红色", "圆形是粉色的。"),
        ("where", "The star is in the top left.", "top left", "The star is at the top."),
        ("where", "星形在左上方。", "在左上方", "星形在上方。"),
        ("count", "There are 3 stars.", "Three.", "There are 2 stars."),
        ("count", "有2个星形。", "两个", "有3个星形。"),
        ("shape", "A circle and two squares.", "Two squares and a circle.", "A circle and three squares."),
        ("yes_no", "Yes.", "Yes, it is.", "No."),
        ("yes_no", "没有。", "没有", "有。"),
        ("text", 'It says "A7K".', 'The text is "A7K".', 'It says "A7X".'),
        ("describe", "A red oval and two blue stars.", "Two blue stars, a red oval.", "A blue oval and two red stars."),
        ("describe", '图片中有一个红色的圆形和文字"AB3"。', '一个红色的圆形，文字"AB3"', "图片中有一个红色的圆形。"),
        ("describe", "The picture is empty.", "Empty.", "The picture shows a circle."),
        ("several", "In pictures 1 and 3.", "in pictures 1 and 3", "In picture 1."),
        ("several", "Picture 1 shows a star. Picture 2 shows an oval.", "Picture 1: a star. Picture 2: an oval.", "A star."),
        ("several", "在第2张图片中。", "第2张图片", "在第1张图片中。"),
        ("absent", "There is no star in the picture.", "There is no star.", "The star is red."),
        ("json", '{"shape": "star", "count": 2}', '```json\n{"count": 2, "shape": "star"}\n```', '{"shape": "star"}'),
        ("tool", f"<tool_call>\n{CALL}\n</tool_call>", f"<tool_call>{CALL}</tool_call>", CALL),
        ("chat", ANSWERS["who"]["en"], ANSWERS["who"]["en"], ANSWERS["unknown"]["en"]),
    ],
)  # fmt: skip
def test_facts_are_compared(kind: str, expected: str, right: str, wrong: str) -> None:
    assert judged(kind, expected, right)
    assert not judged(kind, expected, wrong)
