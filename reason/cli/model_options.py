"""How a model is loaded here, or which server runs it: options that commands have in common, as one argument."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, get_type_hints

from reason.cli import options

__all__ = ["ModelOptions", "with_model_options"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """The options by their names in ``Solver``."""

    device: options.Device = "auto"
    dtype: options.Dtype = "auto"
    quantize: options.Quantize = None
    kv_tokens: options.KvTokens = None
    threads: options.Threads = None
    draft: options.Draft = "auto"
    route: options.Route = None
    plan: options.Plan = None
    small_model: options.SmallModel = None
    base_url: options.BaseUrl = None
    api_key_env: options.ApiKeyEnv = None
    tokenizer: options.Tokenizer = None
    server: options.Server = None
    small_base_url: options.SmallBaseUrl = None

    def check(self, model: str | None) -> None:
        """Raises UsageError if nothing can be loaded so, before anything is."""
        from reason.loading import check_draft, check_route

        check_draft(self.draft)
        check_route(self.route, model, self.small_model, plan=self.plan, named=self.small_base_url is None)

    def as_dict(self) -> dict[str, Any]:
        """For ``Solver``."""
        return asdict(self)

    @property
    def of_results(self) -> dict[str, str | None]:
        """Those that results may depend on, as evaluations record them; of a pair and of servers what was given."""
        machine: dict[str, str | None] = {"device": self.device, "dtype": self.dtype, "quantize": self.quantize}
        given = {
            "route": self.route,
            "plan": self.plan,
            "small_model": self.small_model,
            "base_url": self.base_url,
            "tokenizer": self.tokenizer,
            "small_base_url": self.small_base_url,
        }
        return machine | {name: value for name, value in given.items() if value is not None}


def with_model_options(command: Callable[..., None]) -> Callable[..., None]:
    """Has a command with a parameter ``loading: ModelOptions`` take the options themselves in its place, where typer
    finds them."""
    hints = get_type_hints(ModelOptions, include_extras=True)
    signature = inspect.signature(command, eval_str=True)
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        if parameter.name != "loading":
            parameters.append(parameter)
            continue
        parameters += [
            inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
            )
            for field in fields(ModelOptions)
        ]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        own = {field.name: given.pop(field.name) for field in fields(ModelOptions)}
        command(loading=ModelOptions(**own), **given)

    keyword = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    run.__signature__ = signature.replace(parameters=keyword)  # type: ignore[attr-defined]
    return run
