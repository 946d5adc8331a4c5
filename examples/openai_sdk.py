"""OpenAI's own SDK: an answer that was searched for, the search as it goes on, and a function that the model calls.

    pip install openai
    python examples/openai_sdk.py

Wants `reason serve` running at http://127.0.0.1:8010, or REASON_BASE_URL (and REASON_API_KEY) set.
"""

import json
import os

from openai import OpenAI

QUESTION = [{"role": "user", "content": "What is the sum of the first 20 odd numbers?"}]
STOCK = {"bolts": 17, "nuts": 5}
LOOK_UP = {
    "name": "stock",
    "description": "How many pieces of an item are in stock.",
    "parameters": {
        "type": "object",
        "properties": {"item": {"type": "string", "enum": list(STOCK)}},
        "required": ["item"],
        "additionalProperties": False,
    },
    "strict": True,
}

client = OpenAI(
    base_url=os.environ.get("REASON_BASE_URL", "http://127.0.0.1:8010/v1"),
    api_key=os.environ.get("REASON_API_KEY", "none"),
)

# How to search is the model's name: eight samples and a vote.
reply = client.chat.completions.create(model="reason/best-of-n:8", messages=QUESTION)
print("answer:", reply.reason["answer"], "confidence:", reply.reason["confidence"])

# The same with fields of the strategy and a budget; while it searches, the stream says how far it is.
stream = client.chat.completions.create(
    model="reason/beam",
    messages=QUESTION,
    extra_body={"reason": {"width": 4, "budget": {"policy_tokens": 2000}}},
    stream=True,
)
for chunk in stream:
    for choice in chunk.choices:
        print(getattr(choice.delta, "reasoning_content", None) or choice.delta.content or "", end="")
print()

# Functions are for the model without a search; its own name is the first in the list.
asking = {"model": client.models.list().data[0].id, "tools": [{"type": "function", "function": LOOK_UP}]}
messages = [{"role": "user", "content": "How many bolts are in stock?"}]
message = client.chat.completions.create(messages=messages, tool_choice="required", **asking).choices[0].message
messages.append(message)
for call in message.tool_calls:
    print("called:", call.function.name, call.function.arguments)
    found = STOCK[json.loads(call.function.arguments)["item"]]
    messages.append({"role": "tool", "tool_call_id": call.id, "content": str(found)})
print(client.chat.completions.create(messages=messages, **asking).choices[0].message.content)
