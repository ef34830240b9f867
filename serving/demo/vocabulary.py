"""The words of the demo model's small world, in both languages. Drawing, questions and evaluation all read them here."""

from typing import Literal

Language = Literal["en", "zh"]

# name → Chinese name. Two shapes that could be taken for each other are kept apart by how they are drawn (scene.py).
SHAPES: dict[str, str] = {
    "circle": "圆形",
    "square": "正方形",
    "triangle": "三角形",
    "star": "星形",
    "rectangle": "长方形",
    "oval": "椭圆形",
    "diamond": "菱形",
    "pentagon": "五边形",
    "hexagon": "六边形",
    "heart": "心形",
    "cross": "十字形",
}

COLORS: dict[str, str] = {
    "red": "红色",
    "orange": "橙色",
    "yellow": "黄色",
    "green": "绿色",
    "blue": "蓝色",
    "purple": "紫色",
    "pink": "粉色",
    "brown": "棕色",
    "black": "黑色",
    "white": "白色",
    "gray": "灰色",
}

PLACES: dict[str, str] = {
    "left": "左边",
    "right": "右边",
    "top": "上方",
    "bottom": "下方",
    "center": "中间",
    "top left": "左上方",
    "top right": "右上方",
    "bottom left": "左下方",
    "bottom right": "右下方",
}
