"""`POST /v1/chat/completions` for pictures: a chat's message is a prompt, the answer has pictures.

Some clients ask every model for pictures through a chat, unless its name is one of OpenAI's. The
answer has them where such clients look: as data URIs in `message.images`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from imagemill.scheduler_jobs.api.refusals import bad_value, missing, unknown

_ONE_MESSAGE = "one message of the user, of text alone"


def generation_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a generation that a chat asks for.

    Raises `ApiError` for parts of a chat that have no meaning for a picture: a system's message,
    earlier turns, pictures beside the text, a stream.
    """
    fields = {name: value for name, value in body.items() if value is not None}
    messages = fields.pop("messages", None)
    modalities = fields.pop("modalities", ["image"])
    if not isinstance(modalities, list) or "image" not in modalities:
        raise bad_value("modalities", modalities, "a list with image")
    response_format = fields.pop("response_format", {"type": "text"})
    if response_format != {"type": "text"}:
        raise bad_value("response_format", response_format, '{"type": "text"}')
    if fields.get("stream"):
        raise bad_value("stream", fields["stream"], "false; /v1/images/generations has streams")
    if "prompt" in fields:
        raise unknown("prompt")
    return fields | {"prompt": _prompt(messages)}


def completion(images: Mapping[str, Any], *, request_id: str, model: str) -> dict[str, Any]:
    """An answer to a chat, made of the answer to a generation: a choice for each picture."""
    kind = f"image/{images['output_format']}"
    return {
        "id": f"chatcmpl-{request_id}",
        "object": "chat.completion",
        "created": images["created"],
        "model": model,
        "choices": [_choice(index, each, kind) for index, each in enumerate(images["data"])],
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    }


def _choice(index: int, image: Mapping[str, Any], kind: str) -> dict[str, Any]:
    told = {name: value for name, value in image.items() if name != "b64_json"}
    url = f"data:{kind};base64,{image['b64_json']}"
    picture = {"type": "image_url", "image_url": {"url": url}, **told}
    return {
        "index": index,
        "finish_reason": "stop",
        "logprobs": None,
        "message": {"role": "assistant", "content": "", "refusal": None, "images": [picture]},
    }


def _prompt(messages: Any) -> str:
    if not isinstance(messages, list) or not messages:
        raise missing("messages", _ONE_MESSAGE)
    if len(messages) > 1:
        raise bad_value("messages", f"{len(messages)} messages", _ONE_MESSAGE)
    message = messages[0]
    if not isinstance(message, dict) or message.get("role") != "user":
        raise bad_value("messages", message, _ONE_MESSAGE)
    content = message.get("content")
    return content if isinstance(content, str) else _joined(content)


def _joined(parts: Any) -> str:
    """The text of a message that consists of parts, a line for each."""
    if not isinstance(parts, Sequence) or not parts:
        raise bad_value("messages", parts, _ONE_MESSAGE)
    texts = [part.get("text") if isinstance(part, dict) else None for part in parts]
    for part, text in zip(parts, texts, strict=True):
        if not isinstance(text, str):
            raise bad_value("messages", part, f"{_ONE_MESSAGE}; /v1/images/edits takes pictures")
    return "\n".join(text for text in texts if text)
