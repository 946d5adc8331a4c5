"""What strategies came to at which cost: the table from which ``auto`` chooses.

    {"task": …, "model": …, "rows": [{"strategy": …, "fields": {…}, "budget_tokens": …, "policy_tokens": …,
                                      "most_policy_tokens": …, "accuracy": …, "problems": …}]}

``reason compare`` writes one beside its report. The one that comes with the package is of the default model and the
first 60 problems of GSM8K's test set: an evaluation of ``auto`` on those flatters it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from reason.errors import UsageError
from reason.fields import check_types, hints

__all__ = ["CalibrationRow", "choose", "read_calibration"]

_PATIENCE = 0.5  # standard errors that more tokens must gain
_CLEAR = 2.0  # standard errors of a difference that another strategy than the table's first must gain


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationRow:
    """A setting and what it was measured to come to.

    Args:
        fields: all that were set, for ``make_strategy``.
        budget_tokens: the limit of generated tokens that each problem had, if there was one.
        policy_tokens: generated tokens of a problem, on average.
        most_policy_tokens: so many at most for nine of ten problems (the 90th percentile).
        accuracy: the share of ``problems`` it gets right.
    """

    strategy: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    budget_tokens: int | None = None
    policy_tokens: float
    most_policy_tokens: float
    accuracy: float
    problems: int

    def __post_init__(self) -> None:
        check_types(type(self), {name: getattr(self, name) for name in hints(type(self))})
        if not isinstance(self.fields, Mapping):
            raise UsageError(f"fields must be an object, got {self.fields!r}")
        if "auto" in (self.strategy.lower(), str(self.fields.get("inner")).lower()):
            raise UsageError("auto chooses among the rows and cannot be one")

    @property
    def fits(self) -> float:
        """The least budget under which this accuracy can be expected: a limit that cut problems off where none did when
        it was measured would cost some."""
        return min(self.most_policy_tokens, self.budget_tokens or self.most_policy_tokens)

    @property
    def variance(self) -> float:
        """Of the accuracy, as an estimate from so many problems; more than 0 where all or none were right."""
        share = (self.accuracy * self.problems + 1.0) / (self.problems + 2.0)
        return share * (1.0 - share) / max(1, self.problems)


@lru_cache(maxsize=16)
def read_calibration(file: str = "") -> tuple[CalibrationRow, ...]:
    """The rows of a table; of the package's own without a file.

    Raises:
        UsageError: there is no such table.
    """
    where: Any = Path(file).expanduser() if file else resources.files("reason.search") / "calibration.json"
    try:
        rows = tuple(CalibrationRow(**row) for row in json.loads(where.read_text(encoding="utf-8"))["rows"])
    except OSError as error:
        raise UsageError(f"cannot read the calibration table {where}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, UsageError) as error:
        raise UsageError(f"{where} is no calibration table as `reason compare` writes it: {error}") from None
    if not rows:
        raise UsageError(f"the calibration table {where} has no rows")
    return rows


def choose(rows: Sequence[CalibrationRow], budget_tokens: int) -> CalibrationRow:
    """The row to use where a problem may cost so many generated tokens: the most accurate that fits, or a cheaper one
    that is as good within noise. The best of several strategies owes something to luck, so that the first row's is left
    only for one that is clearly better. If nothing fits, the same among what comes nearest."""
    least = max(budget_tokens, min(row.fits for row in rows))
    fitting = [row for row in rows if row.fits <= least]
    own = [row for row in fitting if row.strategy == rows[0].strategy]
    if own:
        usual = max(own, key=lambda row: row.accuracy)
        fitting = own + [row for row in fitting if row.strategy != usual.strategy and _clearly_better(row, usual)]
    best = max(fitting, key=lambda row: (row.accuracy, -row.policy_tokens))
    noise = _PATIENCE * math.sqrt(best.variance)
    good = [row for row in fitting if row.accuracy >= best.accuracy - noise]
    return min(good, key=lambda row: (row.policy_tokens, -row.accuracy))


def _clearly_better(row: CalibrationRow, usual: CalibrationRow) -> bool:
    spread = math.sqrt(row.variance + usual.variance)
    return row.accuracy - usual.accuracy > _CLEAR * spread
