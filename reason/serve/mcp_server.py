"""A server of the Model Context Protocol (https://modelcontextprotocol.io): searches as tools of an agent.

``solve`` searches for an answer and tells how it goes on; ``verify`` has a verifier score a solution;
``compare_answers`` says whether two answers are the same. A call that the client cancels ends its work.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import BaseModel, Field

from reason import __version__
from reason.errors import ReasonError
from reason.report.process import score_text
from reason.serve.admission import Place
from reason.serve.app import guarded
from reason.serve.bodies import WholeBodies
from reason.serve.failures import ApiError, as_api_error
from reason.serve.protocol import Ask, SearchAsk
from reason.serve.replies import told_solution
from reason.serve.security import Security
from reason.serve.service import PREFIX, Searched, Service
from reason.tasks.answers import extract_answer
from reason.tasks.equivalence import equivalent
from reason.tasks.prompts import math_messages
from reason.types import Budget, Message, Problem
from reason.verifiers import make_verifier

if TYPE_CHECKING:
    from starlette.types import ASGIApp

__all__ = ["Comparison", "Found", "Verdict", "make_mcp_app", "make_mcp_server"]

_PLAIN = ToolAnnotations(read_only_hint=True, open_world_hint=False)

_owners = itertools.count()


class Found(BaseModel):
    """What a search came to."""

    answer: str | None
    text: str
    confidence: float
    strategy: str
    chosen: str | None
    stopped_by: str
    usage: dict[str, int | float]
    candidates: list[dict[str, Any]]


class Verdict(BaseModel):
    """A verifier's score of a solution; the higher the better."""

    score: float
    verifier: str
    answer: str | None
    feedback: str


class Comparison(BaseModel):
    """Whether two answers are the same."""

    equivalent: bool


def make_mcp_server(service: Service) -> MCPServer[Any]:
    """The server; ``run("stdio")`` serves it."""
    server: MCPServer[Any] = MCPServer(
        "reason",
        version=__version__,
        instructions="Solves problems that take reasoning, with a local model and a search over its solutions.",
        log_level="WARNING",
    )

    @server.tool(annotations=_PLAIN)
    async def solve(
        problem: Annotated[str, Field(description="The problem's whole text.", min_length=1)],
        context: Context[Any, Any],
        strategy: Annotated[str | None, Field(description="How to search, e.g. best-of-n, beam, ets.")] = None,
        fields: Annotated[
            dict[str, str | float | int | bool] | None,
            Field(description='Fields of the strategy, e.g. {"num_samples": 8}.'),
        ] = None,
        max_policy_tokens: Annotated[int | None, Field(description="Tokens it may generate.", ge=1)] = None,
        max_seconds: Annotated[float | None, Field(description="Seconds it may take.", gt=0)] = None,
        seed: Annotated[int | None, Field(description="Equal seeds give equal answers.", ge=0, lt=1 << 62)] = None,
    ) -> Found:
        """Solve a problem whose answer is short: a number, a formula, a choice, a name."""
        budget = Budget(policy_tokens=max_policy_tokens, seconds=max_seconds)
        asked = SearchAsk(strategy=strategy, fields=fields or {}, budget=budget)
        model = PREFIX if strategy is None else service.engine.name
        ask = Ask(model=model, messages=(Message(role="user", content=problem),), search=asked, seed=seed)
        with _told_errors():
            work = service.prepare(ask)
            assert isinstance(work, Searched)
            place = service.admission.enter()
            try:
                return await _solve(service, work, place, context)
            finally:
                place.leave()

    @server.tool(annotations=_PLAIN)
    async def verify(
        problem: Annotated[str, Field(description="The problem's whole text.", min_length=1)],
        solution: Annotated[str, Field(description="A worked solution to it.", min_length=1)],
        verifier: Annotated[str, Field(description="What scores it: judge, logprob ...")] = "judge",
    ) -> Verdict:
        """Have a verifier score a worked solution."""
        with _told_errors():
            service.check_text("verifier", verifier)
            place = service.admission.enter()
            try:
                await place.turn()
                return await asyncio.wait_for(_verify(service, problem, solution, verifier), service.limits.max_seconds)
            except asyncio.TimeoutError:
                raise ToolError(f"no score after {service.limits.max_seconds:g} seconds") from None
            finally:
                place.leave()

    @server.tool(annotations=_PLAIN)
    async def compare_answers(
        a: Annotated[str, Field(description="An answer, as text or LaTeX.")],
        b: Annotated[str, Field(description="Another.")],
    ) -> Comparison:
        """Say whether two answers are mathematically the same: 0.5 and \\frac{1}{2}, x+1 and 1+x."""
        with _told_errors():
            return Comparison(equivalent=await asyncio.to_thread(equivalent, a, b))

    return server


def make_mcp_app(service: Service, security: Security) -> ASGIApp:
    """The server as an ASGI application that is told of its beginning and end, at /mcp."""
    from mcp.server.transport_security import TransportSecuritySettings

    unguarded = TransportSecuritySettings(enable_dns_rebinding_protection=False)  # names are the guard's matter
    app = make_mcp_server(service).streamable_http_app(transport_security=unguarded)
    return guarded(WholeBodies(app, service.limits), service, security)


async def _solve(service: Service, work: Searched, place: Place, context: Context[Any, Any]) -> Found:
    """Runs a search; each line about it is a report of progress."""
    lines = itertools.count(1)
    async with contextlib.aclosing(service.follow(work, place)) as steps:
        async for step in steps:
            if not isinstance(step, str):
                assert step.solution is not None
                return Found(text=step.solution.text, usage=step.usage.as_dict(), **told_solution(step.solution))
            await context.report_progress(next(lines), message=step)
    raise AssertionError("a search ends with what it came to, or raises")


async def _verify(service: Service, problem: str, solution: str, name: str) -> Verdict:
    verifier = make_verifier(name)
    asked = Problem(content=math_messages(problem))
    owner = f"verify#{next(_owners)}"
    try:
        score, feedback = await score_text(verifier, asked, solution, service.engine, owner)
    finally:
        for ledger in (service.engine, verifier):
            if forget := getattr(ledger, "forget", None):
                forget(owner)
    return Verdict(score=score, verifier=name, answer=extract_answer(solution), feedback=feedback)


@contextlib.contextmanager
def _told_errors() -> Iterator[None]:
    """What goes wrong, as a tool's error: messages that were meant to be read, and of others an id."""
    try:
        yield
    except (ReasonError, ApiError) as error:
        raise ToolError(as_api_error(error).message) from None
