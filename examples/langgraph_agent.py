"""LangChain and LangGraph: a chat model that searches, and an agent whose hard questions go to it.

    pip install langchain langchain-openai langgraph
    python examples/langgraph_agent.py

Wants `reason serve` running at http://127.0.0.1:8010, or REASON_BASE_URL (and REASON_API_KEY) set; REASON_MODEL is the
name of the model that it serves.
"""

import os
from typing import Literal

from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

SERVER = {
    "base_url": os.environ.get("REASON_BASE_URL", "http://127.0.0.1:8010/v1"),
    "api_key": os.environ.get("REASON_API_KEY", "none"),
}
MODEL = os.environ.get("REASON_MODEL", "qwen2.5-coder-0.5b-instruct")

searching = ChatOpenAI(model="reason/best-of-n:8", **SERVER)
plain = ChatOpenAI(model=MODEL, temperature=0, **SERVER)


@tool
def stock(item: Literal["bolts", "nuts"]) -> int:
    """How many pieces of an item are in stock."""
    return {"bolts": 17, "nuts": 5}[item]


@tool
def calculate(problem: str) -> str:
    """Solve a problem of arithmetic that takes several steps, given as text."""
    return searching.invoke(problem).text


for piece in searching.stream("What is the sum of the first 20 odd numbers?"):
    print(piece.text, end="")
print()

agent = create_agent(plain, tools=[stock, calculate])
for update in agent.stream({"messages": [("user", "How many bolts are in stock?")]}, stream_mode="updates"):
    for node, state in update.items():
        for message in state["messages"]:
            print(f"{node}: {message.text or message.tool_calls}")
