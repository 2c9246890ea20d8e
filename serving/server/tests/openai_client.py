"""Asks a running windlass-server through OpenAI's own Python client: every endpoint and parameter, streaming and not.

    python openai_client.py http://127.0.0.1:8000/v1 [CHECK...]

Without names it makes those checks that every chat model passes. Needs the PyPI package `openai`. Ends with 0 when every check holds, with a traceback otherwise.
Routes and parameters that OpenAI's API does not know go through the client's own ways to send them (`extra_body`, `post`).
"""

import json
import math
import sys

import openai

CHAT = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name three colours."}]}
PROMPT = "One, two, three,"


def refused(call, param: str, **ask) -> None:
    """The call is a 400 that names the parameter, as the client reports it."""
    try:
        call(**ask)
    except openai.BadRequestError as error:
        assert (error.param, error.type) == (param, "invalid_request_error"), error
        assert error.code and error.message, error
        return
    raise AssertionError(f"{ask} was accepted")


def models(client: openai.OpenAI) -> str:
    model = client.models.list().data[0]
    assert model.object == "model" and model.created > 0, model
    assert client.models.retrieve(model.id).id == model.id
    try:
        client.models.retrieve("no-such-model")
        raise AssertionError("a model that does not exist was found")
    except openai.NotFoundError as error:
        assert error.code == "model_not_found", error
    return model.id


def chat(client: openai.OpenAI, model: str) -> None:
    create = client.chat.completions.create
    ask = {"model": model, **CHAT, "temperature": 0, "max_tokens": 24}
    whole = create(**ask)
    text = whole.choices[0].message.content
    assert text and whole.choices[0].message.role == "assistant", whole
    assert whole.choices[0].finish_reason in ("stop", "length"), whole
    assert whole.choices[0].logprobs is None, whole
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens, whole.usage
    assert whole.usage.prompt_tokens_details.cached_tokens >= 0, whole.usage

    streamed, usage, reasons = "", None, []
    for chunk in create(**ask, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            streamed += choice.delta.content or ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
    assert streamed == text, (streamed, text)
    assert reasons == [whole.choices[0].finish_reason], reasons
    assert usage.completion_tokens == whole.usage.completion_tokens, usage

    with client.chat.completions.with_raw_response.create(**ask, stream=True).parse() as stream:
        next(iter(stream))  # and away: the server must survive it

    stop = text[4:8]
    stopped = create(**ask, stop=[stop])
    assert stopped.choices[0].message.content == text[: text.index(stop)], stopped
    assert stopped.choices[0].finish_reason == "stop", stopped
    shown = create(**ask, stop=stop, extra_body={"include_stop_str_in_output": True})
    assert shown.choices[0].message.content == text[: text.index(stop)] + stop, shown

    parts = [{"role": "developer", "content": "Be brief."},
             {"role": "user", "content": [{"type": "text", "text": "Name three "}, {"type": "text", "text": "colours."}]}]
    assert create(**{**ask, "messages": parts}).choices[0].message.content == text


def chat_logprobs(client: openai.OpenAI, model: str) -> None:
    create = client.chat.completions.create
    ask = {"model": model, **CHAT, "temperature": 0, "max_completion_tokens": 12, "logprobs": True, "top_logprobs": 3}
    choice = create(**ask).choices[0]
    content = choice.logprobs.content
    assert bytes(b for token in content for b in token.bytes).decode() == choice.message.content, choice
    for token in content:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3, token
        assert token.top_logprobs[0].token == token.token and token.top_logprobs[0].logprob == token.logprob, token
        assert sum(math.exp(top.logprob) for top in token.top_logprobs) < 1.000001, token
    streamed = []
    for chunk in create(**ask, stream=True):
        for choice in chunk.choices:
            streamed += choice.logprobs.content if choice.logprobs else []
    assert streamed == content, (streamed, content)
    assert create(**{**ask, "top_logprobs": 0}).choices[0].logprobs.content[0].top_logprobs == []
    refused(create, "top_logprobs", **{**ask, "top_logprobs": 21})


def sampling(client: openai.OpenAI, model: str) -> None:
    create = client.chat.completions.create
    ask = {"model": model, **CHAT, "max_tokens": 16, "seed": 7, "temperature": 1.2, "top_p": 0.95,
           "extra_body": {"ignore_eos": True, "top_k": 50, "min_p": 0.01}}

    def text(**changes) -> str:
        extra = {**ask["extra_body"], **changes.pop("extra_body", {})}
        return create(**{**ask, **changes, "extra_body": extra}).choices[0].message.content

    plain = text()
    assert text() == plain and text(seed=8) != plain
    for name in ("presence_penalty", "frequency_penalty"):
        assert text(**{name: 2}) == text(**{name: 2}), name
        refused(create, name, **{**ask, name: 2.1})
    assert text(frequency_penalty=2, presence_penalty=2) != plain
    assert text(extra_body={"repetition_penalty": 3}) != plain
    assert text(logit_bias={"40": 100}, temperature=0) == text(logit_bias={"40": 100})
    assert text(logit_bias={"40": 100}, extra_body={"stop_token_ids": [40]}) == ""
    assert text(logit_bias={"40": 100}, extra_body={"stop_token_ids": [40], "min_tokens": 2}) != ""
    assert text(temperature=0) == text(top_p=0) == text(extra_body={"top_k": 1}) == text(extra_body={"min_p": 1})
    assert text(logit_bias={"2": 100}, extra_body={"skip_special_tokens": False}).startswith("<|im_end|>")

    four = create(**{**ask, "n": 4})
    assert [choice.index for choice in four.choices] == [0, 1, 2, 3], four
    texts = [choice.message.content for choice in four.choices]
    assert len(set(texts)) == 4 and texts[0] == plain, texts
    assert four.usage.prompt_tokens == create(**ask).usage.prompt_tokens, four.usage
    streamed = [""] * 4
    for chunk in create(**{**ask, "n": 4, "stream": True}):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts, (streamed, texts)
    for n in (0, -1, 129, 10**9):
        refused(create, "n", **{**ask, "n": n})


def completions(client: openai.OpenAI, model: str) -> None:
    create = client.completions.create
    ask = {"model": model, "prompt": [PROMPT, "A, B, C,"], "temperature": 0, "max_tokens": 8}
    whole = create(**ask)
    texts = [choice.text for choice in whole.choices]
    assert len(texts) == 2 and all(texts), whole
    streamed = ["", ""]
    for chunk in create(**ask, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    assert streamed == texts, (streamed, texts)
    echoed = create(**ask, echo=True)
    assert [choice.text for choice in echoed.choices] == [PROMPT + texts[0], "A, B, C," + texts[1]], echoed
    twice = create(**{**ask, "prompt": PROMPT}, n=2, best_of=2)
    assert [choice.text for choice in twice.choices] == [texts[0]] * 2, twice
    refused(create, "best_of", **ask, best_of=3)

    lists = create(**{**ask, "prompt": PROMPT}, logprobs=2).choices[0].logprobs
    assert "".join(lists.tokens) == texts[0], lists
    offsets = [sum(map(len, lists.tokens[:place])) for place in range(len(lists.tokens))]
    assert lists.text_offset == offsets, lists
    for token, logprob, top in zip(lists.tokens, lists.token_logprobs, lists.top_logprobs, strict=True):
        assert len(top) == 2 and top[token] == logprob == max(top.values()), lists
    refused(create, "logprobs", **ask, logprobs=6)
    refused(create, "echo", **ask, logprobs=1, echo=True, suffix="a")


def scores(client: openai.OpenAI, model: str) -> None:
    """Log-likelihoods of a continuation, asked for and read as lm-evaluation-harness's local-completions does."""
    root = client.with_options(base_url=str(client.base_url).removesuffix("/").removesuffix("/v1"))

    def encoded(text: str) -> list[int]:
        return root.post("/tokenize", body={"model": model, "prompt": text}, cast_to=dict[str, list[int]])["tokens"]

    context, likely, unlikely = encoded("One, two, three, four,"), encoded(" five, six"), encoded(" the, cat")
    found = {}
    for max_tokens in (0, 1):
        prompts = [context + likely, context + unlikely]
        answer = client.completions.create(model=model, prompt=prompts, temperature=0, max_tokens=max_tokens,
                                           logprobs=1, seed=1234, echo=True)
        for prompt, choice in zip(prompts, answer.choices, strict=True):
            lists = choice.logprobs
            assert len(lists.tokens) == len(lists.text_offset) == len(prompt) + max_tokens, lists
            assert lists.token_logprobs[0] is None and lists.top_logprobs[0] is None, lists
            assert "".join(lists.tokens) == choice.text, choice
            place = slice(len(context), -max_tokens or None)
            pairs = list(zip(lists.token_logprobs[place], lists.top_logprobs[place], strict=True))
            greedy = all(logprob == max(top.values()) for logprob, top in pairs)
            found.setdefault(max_tokens, []).append((sum(logprob for logprob, _ in pairs), greedy))
    assert found[0] == found[1], found
    (high, is_greedy), (low, is_not) = found[1]
    assert low < high < 0 and is_greedy and not is_not, found


def hole(client: openai.OpenAI, model: str) -> None:
    """A model that has not learnt to fill a hole says so."""
    ask = {"model": model, "prompt": "def add(a, b):\n    return ", "suffix": "\n\nprint(add(1, 2))\n"}
    try:
        client.completions.create(**ask)
        raise AssertionError("a suffix was accepted")
    except openai.BadRequestError as error:
        assert (error.param, error.code) == ("suffix", "unsupported_parameter"), error


def fill(client: openai.OpenAI, model: str) -> None:
    """A model that has learnt it fills the hole, streaming and not."""
    create = client.completions.create
    ask = {"model": model, "prompt": "def add(a, b):\n    return ", "suffix": "\n\nprint(add(1, 2))\n", "stop": "\n",
           "temperature": 0, "max_tokens": 16}
    whole = create(**ask)
    assert whole.choices[0].text.strip() == "a + b" and whole.choices[0].finish_reason == "stop", whole
    assert "".join(chunk.choices[0].text for chunk in create(**ask, stream=True)) == whole.choices[0].text
    echoed = create(**ask, echo=True, n=2)
    assert [choice.text for choice in echoed.choices] == [ask["prompt"] + whole.choices[0].text] * 2, echoed
    lists = create(**ask, logprobs=1).choices[0].logprobs
    assert "".join(lists.tokens).startswith(whole.choices[0].text), lists
    assert create(**{**ask, "suffix": ""}).usage.prompt_tokens < whole.usage.prompt_tokens
    refused(create, "suffix", **{**ask, "prompt": [1, 2]})


def functions(client: openai.OpenAI, model: str) -> None:
    """Functions, the older form of tools, called, streamed and answered; and a schema beside tools."""
    create = client.chat.completions.create
    function = {"name": "get_weather", "description": "Weather of a city",
                "parameters": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}},
                               "required": ["city"], "additionalProperties": False}}
    user = {"role": "user", "content": "What is the weather in Paris?"}
    ask = {"model": model, "messages": [user], "functions": [function], "temperature": 0, "max_tokens": 100}
    called = create(**ask, function_call={"name": "get_weather"}).choices[0]
    call = called.message.function_call
    assert called.finish_reason == "function_call" and call.name == "get_weather", called
    assert list(json.loads(call.arguments)) == ["city"] and called.message.tool_calls is None, called
    names, arguments, reasons = [], "", []
    for chunk in create(**ask, function_call={"name": "get_weather"}, stream=True):
        for choice in chunk.choices:
            part = choice.delta.function_call
            names += [part.name] if part and part.name else []
            arguments += (part.arguments or "") if part else ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
    assert (names, arguments, reasons) == (["get_weather"], call.arguments, ["function_call"]), (names, arguments)
    history = [user, called.message, {"role": "function", "name": "get_weather", "content": "Sunny, 31 degrees"}]
    answer = create(**{**ask, "messages": history}, function_call="none")
    assert answer.choices[0].message.content and answer.choices[0].finish_reason in ("stop", "length"), answer
    refused(create, "functions", **ask, tools=[{"type": "function", "function": function}])

    schema = {"type": "object", "properties": {"greeting": {"type": "string", "maxLength": 20}},
              "required": ["greeting"], "additionalProperties": False}
    ask = {"model": model, "messages": [user], "tools": [{"type": "function", "function": function}], "max_tokens": 100,
           "response_format": {"type": "json_schema", "json_schema": {"name": "greeting", "schema": schema}}}
    message = create(**ask, temperature=0).choices[0].message
    if message.tool_calls:
        assert list(json.loads(message.tool_calls[0].function.arguments)) == ["city"], message
    else:
        assert list(json.loads(message.content)) == ["greeting"], message


def tokens(client: openai.OpenAI, model: str) -> None:
    root = client.with_options(base_url=str(client.base_url).removesuffix("/").removesuffix("/v1"))
    ask = {"model": model, "prompt": PROMPT, "return_token_strs": True}
    found = root.post("/tokenize", body=ask, cast_to=dict[str, object])
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"]) > 0, found
    assert root.post("/detokenize", body={"tokens": found["tokens"]}, cast_to=dict[str, object]) == {"prompt": PROMPT}
    given = client.completions.create(model=model, prompt=found["tokens"], max_tokens=1)
    assert given.usage.prompt_tokens == found["count"], given.usage
    chat = root.post("/tokenize", body={"model": model, **CHAT}, cast_to=dict[str, object])
    answer = client.chat.completions.create(model=model, **CHAT, max_tokens=1)
    assert answer.usage.prompt_tokens == chat["count"], (answer.usage, chat)


def errors(client: openai.OpenAI, model: str) -> None:
    create = client.chat.completions.create
    try:
        create(model="no-such-model", **CHAT)
        raise AssertionError("a model that does not exist was accepted")
    except openai.NotFoundError as error:
        assert error.code == "model_not_found", error
    for param, value in (("max_tokens", -1), ("max_tokens", 10**9), ("temperature", 3), ("top_p", 2), ("stop", [""])):
        refused(create, param, model=model, **CHAT, **{param: value})
    refused(create, "messages", model=model, messages=[])
    try:
        create(model=model, messages=[{"role": "user", "content": "word " * 100_000}])
        raise AssertionError("a prompt beyond every context was accepted")
    except openai.BadRequestError as error:
        assert error.code == "context_length_exceeded", error


EVERY = (chat, chat_logprobs, sampling, completions, scores, hole, tokens, errors)


def main() -> None:
    checks = {check.__name__: check for check in (*EVERY, fill, functions)}
    if len(sys.argv) < 2 or not checks.keys() >= set(sys.argv[2:]):
        sys.exit(__doc__)
    client = openai.OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0, timeout=120)
    model = models(client)
    asked = [checks[name] for name in sys.argv[2:]] or EVERY
    for check in asked:
        check(client, model)
    print(f"openai {openai.__version__}: {len(asked)} checks of `{model}` hold")


if __name__ == "__main__":
    main()
