"""Asks a running windlass-server through OpenAI's own Python client, streaming and not.

    python openai_client.py http://127.0.0.1:8000/v1

Needs the PyPI package `openai`. Ends with 0 when every check holds, with a traceback otherwise.
"""

import sys

import openai


def chat(client: openai.OpenAI, model: str) -> None:
    ask = {
        "model": model,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name three colours."}],
        "temperature": 0,
        "max_tokens": 24,
    }
    whole = client.chat.completions.create(**ask)
    text = whole.choices[0].message.content
    assert text, whole
    assert whole.choices[0].finish_reason in ("stop", "length"), whole
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens, whole.usage
    assert whole.usage.prompt_tokens_details.cached_tokens >= 0, whole.usage

    streamed, usage, reasons = "", None, []
    for chunk in client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            streamed += choice.delta.content or ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
    assert streamed == text, (streamed, text)
    assert reasons == [whole.choices[0].finish_reason], reasons
    assert usage.completion_tokens == whole.usage.completion_tokens, usage

    stop = text[4:8]
    stopped = client.chat.completions.create(**ask, stop=[stop])
    assert stopped.choices[0].message.content == text[: text.index(stop)], stopped
    assert stopped.choices[0].finish_reason == "stop", stopped


def completions(client: openai.OpenAI, model: str) -> None:
    ask = {"model": model, "prompt": ["One, two, three,", "A, B, C,"], "temperature": 0, "max_tokens": 8}
    whole = client.completions.create(**ask)
    texts = [choice.text for choice in whole.choices]
    assert len(texts) == 2 and all(texts), whole

    streamed = ["", ""]
    for chunk in client.completions.create(**ask, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    assert streamed == texts, (streamed, texts)


def errors(client: openai.OpenAI, model: str) -> None:
    message = [{"role": "user", "content": "hi"}]
    try:
        client.chat.completions.create(model="no-such-model", messages=message)
        raise AssertionError("a model that does not exist was accepted")
    except openai.NotFoundError as error:
        assert error.code == "model_not_found", error
    try:
        client.chat.completions.create(model=model, messages=message, max_tokens=-1)
        raise AssertionError("a negative max_tokens was accepted")
    except openai.BadRequestError as error:
        assert error.param == "max_tokens", error


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    client = openai.OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0, timeout=120)
    model = client.models.list().data[0].id
    assert client.models.retrieve(model).id == model
    chat(client, model)
    completions(client, model)
    errors(client, model)
    print(f"openai {openai.__version__}: chat, completions and errors of `{model}` are as its client expects")


if __name__ == "__main__":
    main()
