"""LiteLLM: the server as one of its `openai/` models, whole and streamed.

    pip install litellm
    python examples/litellm_completion.py

Wants `reason serve` running at http://127.0.0.1:8010, or REASON_BASE_URL (and REASON_API_KEY) set.
"""

import os

import litellm

SERVER = {
    "api_base": os.environ.get("REASON_BASE_URL", "http://127.0.0.1:8010/v1"),
    "api_key": os.environ.get("REASON_API_KEY", "none"),
}
MESSAGES = [{"role": "user", "content": "What is the sum of the first 20 odd numbers?"}]

reply = litellm.completion("openai/reason/best-of-n:8", MESSAGES, **SERVER)
print(reply.choices[0].message.content)
print("tokens of the whole search:", reply.usage.completion_tokens)

stream = litellm.completion(
    "openai/reason/beam",
    MESSAGES,
    extra_body={"reason": {"width": 4, "budget": {"policy_tokens": 2000}}},
    stream=True,
    **SERVER,
)
for chunk in stream:
    delta = chunk.choices[0].delta
    print(getattr(delta, "reasoning_content", None) or delta.content or "", end="")
print()
