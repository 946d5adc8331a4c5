"""smolagents: an agent that calls tools, on the model itself; and one question to a search.

    pip install 'smolagents[openai]'
    python examples/smolagents_agent.py

Wants `reason serve` running at http://127.0.0.1:8010, or REASON_BASE_URL (and REASON_API_KEY) set; REASON_MODEL is the
name of the model that it serves. The agent forces calls: the server needs the `grammar` extra.
"""

import os
from typing import Literal

from smolagents import ChatMessage, OpenAIModel, ToolCallingAgent, tool

SERVER = {
    "api_base": os.environ.get("REASON_BASE_URL", "http://127.0.0.1:8010/v1"),
    "api_key": os.environ.get("REASON_API_KEY", "none"),
}
MODEL = os.environ.get("REASON_MODEL", "qwen2.5-coder-0.5b-instruct")


@tool
def stock(item: Literal["bolts", "nuts"]) -> int:
    """How many pieces of an item are in stock.

    Args:
        item: what to look up.
    """
    return {"bolts": 17, "nuts": 5}[item]


searching = OpenAIModel("reason/best-of-n:8", **SERVER)
question = ChatMessage(role="user", content="What is the sum of the first 20 odd numbers?")
print(searching([question]).content)

agent = ToolCallingAgent(tools=[stock], model=OpenAIModel(MODEL, temperature=0, **SERVER), max_steps=4)
print("agent:", agent.run("How many bolts are in stock?"))
