"""LlamaIndex: an LLM that searches, and an agent on the model itself that calls a function.

    pip install llama-index-core llama-index-llms-openai-like
    python examples/llama_index_agent.py

Wants `reason serve` running at http://127.0.0.1:8010, or REASON_BASE_URL (and REASON_API_KEY) set; REASON_MODEL is the
name of the model that it serves.
"""

import asyncio
import os
from typing import Literal

from llama_index.core.agent.workflow import FunctionAgent, ToolCallResult
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

SERVER = {
    "api_base": os.environ.get("REASON_BASE_URL", "http://127.0.0.1:8010/v1"),
    "api_key": os.environ.get("REASON_API_KEY", "none"),
    "is_chat_model": True,
    "timeout": 600,  # a search takes longer than a sample
}
MODEL = os.environ.get("REASON_MODEL", "qwen2.5-coder-0.5b-instruct")

searching = OpenAILike(model="reason/best-of-n:8", **SERVER)
plain = OpenAILike(model=MODEL, temperature=0, is_function_calling_model=True, **SERVER)


def stock(item: Literal["bolts", "nuts"]) -> int:
    """How many pieces of an item are in stock."""
    return {"bolts": 17, "nuts": 5}[item]


async def main() -> None:
    question = ChatMessage("What is the sum of the first 20 odd numbers?")
    print((await searching.achat([question])).message.content)

    agent = FunctionAgent(tools=[stock], llm=plain)
    running = agent.run("How many bolts are in stock?")
    async for event in running.stream_events():
        if isinstance(event, ToolCallResult):
            print("called:", event.tool_name, event.tool_kwargs, "->", event.tool_output)
    print("agent:", await running)


asyncio.run(main())
