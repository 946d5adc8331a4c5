"""The Model Context Protocol: the tools of `reason mcp`, which this script starts itself.

    pip install mcp
    python examples/mcp_client.py                              # over standard streams
    python examples/mcp_client.py http://127.0.0.1:8011/mcp    # one that runs: `reason mcp --transport http`

The first wants the command `reason` on the path; REASON_MODEL is the name of its model.
"""

import asyncio
import os
import sys

from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters


def server() -> str | StdioServerParameters:
    if len(sys.argv) > 1:
        return sys.argv[1]
    model = os.environ.get("REASON_MODEL", "qwen2.5-coder-0.5b-instruct")
    return StdioServerParameters(command="reason", args=["mcp", "--model", model], env=dict(os.environ))


async def on_progress(progress: float, total: float | None, message: str | None) -> None:
    print("...", message)


async def main() -> None:
    async with Client(server()) as client:
        print("tools:", ", ".join(tool.name for tool in (await client.list_tools()).tools))
        asked = {
            "problem": "What is the sum of the first 20 odd numbers?",
            "strategy": "best-of-n",
            "fields": {"num_samples": 8},
        }
        found = (await client.call_tool("solve", asked, progress_callback=on_progress)).structured_content
        print("answer:", found["answer"], "confidence:", found["confidence"])
        answers = {"a": found["answer"] or "", "b": "20^2"}
        print(await compared(client, answers))


async def compared(client: Client, answers: dict[str, str]) -> str:
    same = (await client.call_tool("compare_answers", answers)).structured_content
    return f"{answers['a']} is {'' if same['equivalent'] else 'not '}{answers['b']}"


asyncio.run(main())
