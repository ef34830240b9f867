"""What the demo model says when the question is not about shapes. Every answer is fixed, so that it is honest."""

from typing import Literal

from serving.demo.vocabulary import Language

Topic = Literal["hello", "who", "ability", "thanks", "bye", "no_picture", "unknown", "photo"]

ANSWERS: dict[Topic, dict[Language, str]] = {
    "hello": {
        "en": "Hello! Send me a drawing and ask me about its shapes, colors or words.",
        "zh": "你好！请发一张图画，问我其中的图形、颜色或文字。",
    },
    "who": {
        "en": "I am onecard-demo, a small demo model. I know drawn shapes, their colors and places, "
        "and short printed words.",
        "zh": "我是onecard-demo，一个小型演示模型。我认识画出来的图形、它们的颜色和位置，以及简短的印刷文字。",
    },
    "ability": {
        "en": "I can name drawn shapes and their colors, say where they are, count them, and read short printed words.",
        "zh": "我可以说出图形及其颜色和位置，数出它们的数量，并读出简短的印刷文字。",
    },
    "thanks": {"en": "You are welcome.", "zh": "不客气。"},
    "bye": {"en": "Goodbye!", "zh": "再见！"},
    "no_picture": {"en": "I do not see a picture. Please send me one.", "zh": "我没有看到图片。请发一张图片给我。"},
    "unknown": {
        "en": "I do not know that. I am a small demo model: I only know drawn shapes, their colors, places and counts, "
        "and short printed words.",
        "zh": "这个我不知道。我是一个小型演示模型：我只认识画出来的图形、它们的颜色、位置和数量，以及简短的印刷文字。",
    },
    "photo": {
        "en": "This looks like a photograph. I am onecard-demo, a small demo model: I only know drawn shapes, "
        "their colors and places, and short printed words.",
        "zh": "这看起来是一张照片。我是onecard-demo，一个小型演示模型：我只认识画出来的图形、"
        "它们的颜色和位置，以及简短的印刷文字。",
    },
}
