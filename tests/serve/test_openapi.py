"""The published description: what is sent by it, or against it, is answered as it says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from reason.serve.app import make_app
from reason.serve.security import Security
from tests.serve.conftest import make_service

schemathesis = pytest.importorskip("schemathesis")

SERVICE = make_service(max_policy_tokens=2000, max_calls=50, max_seconds=10.0)
DESCRIBED = schemathesis.openapi.from_asgi("/openapi.json", make_app(SERVICE, Security(names=())))
# What the description allows may yet be refused, with a reason: by this model, or together with another field.
REFUSED = schemathesis.specs.openapi.checks.positive_data_acceptance


@DESCRIBED.parametrize()  # type: ignore[untyped-decorator, unused-ignore]
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_is_described(case: Any) -> None:
    case.call_and_validate(excluded_checks=[REFUSED])
    assert SERVICE.admission.running == 0
