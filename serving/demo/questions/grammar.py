"""How things are named in a sentence: counted groups, lists, places, ordinals, in English and in Chinese.

Answers use only the canonical words of vocabulary.py. Questions may use any of the `*_ALIASES`.
"""

import random
from collections.abc import Sequence

from serving.demo.vocabulary import COLORS, PLACES, SHAPES, Language

ENGLISH_NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
CHINESE_NUMBERS = ("零", "一", "两", "三", "四", "五", "六")

SHAPE_ALIASES: dict[Language, dict[str, tuple[str, ...]]] = {
    "en": {
        "oval": ("oval", "oval", "ellipse"),
        "diamond": ("diamond", "diamond", "rhombus"),
        "star": ("star", "star", "star", "five-pointed star"),
        "heart": ("heart", "heart", "heart", "heart shape"),
        "cross": ("cross", "cross", "plus sign"),
    },
    "zh": {
        "circle": ("圆形", "圆形", "圆", "圆圈"),
        "square": ("正方形", "正方形", "正方形", "方块", "方形", "正方块"),
        "triangle": ("三角形", "三角形", "三角"),
        "star": ("星形", "星形", "星形", "星星", "五角星", "星"),
        "rectangle": ("长方形", "长方形", "矩形"),
        "oval": ("椭圆形", "椭圆形", "椭圆"),
        "heart": ("心形", "心形", "爱心", "桃心"),
        "cross": ("十字形", "十字形", "十字", "加号"),
    },
}
COLOR_ALIASES: dict[Language, dict[str, tuple[str, ...]]] = {
    "en": {"gray": ("gray", "gray", "grey")},
    "zh": {
        "orange": ("橙色", "橙色", "橘色", "橘黄色"),
        "pink": ("粉色", "粉色", "粉红色"),
        "brown": ("棕色", "棕色", "棕色", "褐色", "咖啡色"),
        "purple": ("紫色", "紫色", "紫色"),
    },
}
PLACE_ALIASES: dict[Language, dict[str, tuple[str, ...]]] = {
    "en": {
        "left": ("on the left", "on the left", "on the left side", "on the left-hand side"),
        "right": ("on the right", "on the right", "on the right side", "on the right-hand side"),
        "top": ("at the top", "at the top", "in the upper part", "in the top part"),
        "bottom": ("at the bottom", "at the bottom", "in the lower part", "in the bottom part"),
        "center": ("in the center", "in the middle", "in the centre"),
        "top left": ("in the top left", "in the top left corner", "in the upper left corner", "at the top left"),
        "top right": ("in the top right", "in the top right corner", "in the upper right corner", "at the top right"),
        "bottom left": (
            *("in the bottom left", "in the bottom left corner", "in the lower left corner", "at the bottom left"),
        ),
        "bottom right": (
            *("in the bottom right", "in the bottom right corner", "in the lower right corner", "at the bottom right"),
        ),
    },
    "zh": {
        "left": ("左边", "左边", "左侧", "左面"),
        "right": ("右边", "右边", "右侧", "右面"),
        "top": ("上方", "上方", "上面", "上边", "顶部"),
        "bottom": ("下方", "下方", "下面", "下边", "底部"),
        "center": ("中间", "中间", "中央", "正中间", "中心"),
        "top left": ("左上方", "左上角", "左上"),
        "top right": ("右上方", "右上角", "右上"),
        "bottom left": ("左下方", "左下角", "左下"),
        "bottom right": ("右下方", "右下角", "右下"),
    },
}


def pick(language: Language, english: str, chinese: str) -> str:
    """The sentence in the language of the question."""
    return english if language == "en" else chinese


def with_article(words: str) -> str:
    """English words after "a" or "an"."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def plural(shape: str) -> str:
    """The English plural of a shape."""
    return shape + ("es" if shape.endswith("s") else "s")


def noun(language: Language, shape: str | None, color: str | None, count: int = 1) -> str:
    """Canonical words for things of a shape and colour, either of which may be left open: "red circles", "红色的圆形"."""
    if language == "zh":
        name = SHAPES[shape] if shape else "图形"
        return f"{COLORS[color]}的{name}" if color else name
    name = shape or "object"
    name = name if count == 1 else plural(name)
    return f"{color} {name}" if color else name


def group(language: Language, count: int, shape: str, color: str | None = None) -> str:
    """A counted group: "a red circle", "two squares", "两个蓝色的正方形"."""
    if language == "zh":
        return f"{CHINESE_NUMBERS[count]}个{noun(language, shape, color)}"
    words = noun(language, shape, color, count)
    return with_article(words) if count == 1 else f"{ENGLISH_NUMBERS[count]} {words}"


def listing(language: Language, parts: Sequence[str]) -> str:
    """ "a, b and c" or "a、b和c"."""
    if len(parts) == 1:
        return parts[0]
    comma, last = (", ", " and ") if language == "en" else ("、", "和")
    return comma.join(parts[:-1]) + last + parts[-1]


def at_place(language: Language, place: str) -> str:
    """The canonical words of a place with its preposition: "on the left", "左边"."""
    return PLACE_ALIASES["en"][place][0] if language == "en" else PLACES[place]


def capital(sentence: str) -> str:
    """A sentence with its first letter in upper case."""
    return sentence[0].upper() + sentence[1:]


def asked_shape(rng: random.Random, language: Language, shape: str) -> str:
    """One of the names under which a question may ask for a shape."""
    return rng.choice(SHAPE_ALIASES[language].get(shape, (shape if language == "en" else SHAPES[shape],)))


def asked_color(rng: random.Random, language: Language, color: str) -> str:
    """One of the names under which a question may ask for a colour."""
    return rng.choice(COLOR_ALIASES[language].get(color, (color if language == "en" else COLORS[color],)))


def asked_noun(rng: random.Random, language: Language, shape: str | None, color: str | None, count: int = 1) -> str:
    """What a question may call things of a shape and colour: "red circles", "grey shapes", "红色圆形"."""
    if language == "zh":
        name = asked_shape(rng, language, shape) if shape else rng.choice(("图形", "图形", "形状", "物体", "东西"))
        return asked_color(rng, language, color) + rng.choice(("的", "的", "")) + name if color else name
    name = asked_shape(rng, language, shape) if shape else rng.choice(("object", "shape", "figure", "shape", "thing"))
    name = name if count == 1 else ("rhombuses" if name == "rhombus" else plural(name))
    return f"{asked_color(rng, language, color)} {name}" if color else name


_ENGLISH_ORDINALS = (("first", "1st"), ("second", "2nd"), ("third", "3rd"), ("fourth", "4th"))
_CHINESE_DIGITS = "一二三四"
_NAMES = ("picture", "picture", "picture", "image", "image", "image", "photo", "drawing", "pic", "screenshot")
_IN_A_PICTURE = (
    *("图片中", "图片中", "图中", "图中", "图片里", "图里", "图像中", "画面中", "照片中"),
    *("这张图片中", "这张图里", "图片上", "图上", "这幅图中", "画中", "画里", "这幅画中", "截图中", "截图里"),
)


def the_picture(rng: random.Random, language: Language, index: int | None) -> str:
    """The picture as a noun phrase: "this image", or with an index "the second picture", "第二张图片"."""
    if language == "en":
        name = rng.choice(_NAMES)
        if index is None:
            return f"{rng.choice(('the', 'the', 'this'))} {name}"
        return rng.choice([*(f"the {word} {name}" for word in _ENGLISH_ORDINALS[index]), f"{name} {index + 1}"])
    if index is None:
        name = rng.choice(("图片", "图片", "图", "图像", "画面", "照片", "画", "截图"))
        return rng.choice(("这张", "这幅") if name in ("图", "画") else ("", "", "这张", "这幅")) + name
    name = rng.choice(("图片", "图", "图像", "照片", "画"))
    return rng.choice((f"第{_CHINESE_DIGITS[index]}张{name}", f"第{index + 1}张{name}", f"图{index + 1}"))


def in_the_picture(rng: random.Random, language: Language, index: int | None) -> str:
    """The picture as a place: "in this image", "图中"."""
    if language == "en":
        if index is None and rng.random() < 0.05:
            return "here"
        return f"in {the_picture(rng, language, index)}"
    if index is None:
        return rng.choice(_IN_A_PICTURE)
    return the_picture(rng, language, index) + rng.choice(("中", "里", "上"))
