"""The texts that the tokenizer is trained on: what the model is asked and answers, the chat template's own sentences,
and a page of everyday English and Chinese, so that other text is not cut into single bytes."""

import random
from collections.abc import Iterator

from serving.demo.questions.conversations import conversation
from serving.demo.training.tokenizer import CHAT_TEMPLATE

_SEED = "corpus"
_CONVERSATIONS = 8_000

_EVERYDAY = """
You are a helpful assistant. Please answer the question briefly and in the language of the question.
Can you tell me what you see here? I would like to know more about this picture, thank you very much.
Write a short poem about the sea. What is the weather like today in Paris and in London?
Explain how a computer works, step by step, so that a child could understand it. Translate this sentence into French.
Who was the first person on the moon, and when did it happen? How much is two plus three times four?
Give me a list of ten things that people usually take with them when they travel. Where can I find a good restaurant?
Return the result as JSON with the keys name, color, shape, count, position and text. Only answer yes or no.
The quick brown fox jumps over the lazy dog. Once upon a time there was a small house near the river.
Summarize the following document and write down the most important numbers, dates, names and places.
Is there a person, a face, a car, an animal, a building, a tree, a table or a cup in the image? Look again carefully.
function parameters properties required type string integer boolean object array description location unit city
你是一个有用的助手。请用问题的语言简短地回答。请告诉我你看到了什么，我想知道更多关于这张图片的内容，谢谢。
今天的天气怎么样？北京、上海和广州哪里更热？请把这句话翻译成英文。请写一首关于大海和月亮的小诗。
请一步一步解释电脑是怎么工作的，让孩子也能听懂。第一个登上月球的人是谁？这是什么时候发生的事情？
二加三等于多少？请列出人们旅行时常带的十件东西。附近有没有好吃的饭店？从前，在河边有一座小房子。
请总结下面的文件，写出最重要的数字、日期、名字和地点。只回答是或者不是。请用格式返回结果，包括名称、颜色、形状、数量和位置。
图像里有没有人、脸、汽车、动物、建筑、树、桌子或者杯子？请再仔细看一看。我们可以说这个不对，那个很好，他们都没有来过。
"""


def corpus() -> Iterator[str]:
    """Always the same texts in the same order."""
    rng = random.Random(_SEED)
    for _ in range(_CONVERSATIONS):
        asked = conversation(rng, "train")
        yield asked.system or ""
        for tool in asked.tools or []:
            yield str(tool).replace("'", '"')
        for turn in asked.turns:
            yield turn.question
            yield turn.answer
    template = CHAT_TEMPLATE.read_text(encoding="utf-8").replace("\\n", "\n")
    for _ in range(20):
        yield template
        yield from _EVERYDAY.splitlines()
