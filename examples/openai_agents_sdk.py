"""OpenAI's Agents SDK: an agent on the model itself, with a function and with a search as its tools.

    pip install openai-agents
    python examples/openai_agents_sdk.py

Wants `reason serve` running at http://127.0.0.1:8010, or REASON_BASE_URL (and REASON_API_KEY) set; REASON_MODEL is the
name of the model that it serves. The SDK speaks the Responses API.
"""

import asyncio
import os
from typing import Literal

from agents import Agent, ModelSettings, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled
from openai import AsyncOpenAI

set_tracing_disabled(True)  # traces go to OpenAI otherwise
client = AsyncOpenAI(
    base_url=os.environ.get("REASON_BASE_URL", "http://127.0.0.1:8010/v1"),
    api_key=os.environ.get("REASON_API_KEY", "none"),
)
# As objects: a name with a slash would be taken for another provider's.
searching = OpenAIResponsesModel("reason/best-of-n:8", client)
plain = OpenAIResponsesModel(os.environ.get("REASON_MODEL", "qwen2.5-coder-0.5b-instruct"), client)


@function_tool
def stock(item: Literal["bolts", "nuts"]) -> int:
    """How many pieces of an item are in stock."""
    return {"bolts": 17, "nuts": 5}[item]


solver = Agent(name="solver", model=searching)
clerk = Agent(
    name="clerk",
    instructions="Answer in one short sentence.",
    model=plain,
    model_settings=ModelSettings(temperature=0),
    tools=[stock, solver.as_tool("calculate", "Solves a problem of arithmetic that takes several steps.")],
)


async def main() -> None:
    solved = await Runner.run(solver, "What is the sum of the first 20 odd numbers?")
    print(solved.final_output)

    running = Runner.run_streamed(clerk, "How many bolts are in stock?")
    async for event in running.stream_events():
        if event.type == "run_item_stream_event":
            print(event.name)
    print(running.final_output)


asyncio.run(main())
