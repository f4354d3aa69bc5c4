"""Stands in for the `openai` package: a model that repeats the last message.

Only what the documents use: `ChatCompletion.create(model=, messages=, max_tokens=)`.
"""

from types import SimpleNamespace


class ChatCompletion:
    @staticmethod
    def create(model: str, messages: list[dict[str, str]], max_tokens: int) -> SimpleNamespace:
        message = SimpleNamespace(content=f"{model} was told: {messages[-1]['content']}")
        return SimpleNamespace(choices=[SimpleNamespace(message=message)])
