"""Value heads: what the policy's own hidden states say of the solution it is writing."""

from __future__ import annotations

from reason.verifiers.value_head.head import ValueHead
from reason.verifiers.value_head.shipped import SHIPPED, find_shipped
from reason.verifiers.value_head.verifier import HeadVerifier, short_name

__all__ = ["SHIPPED", "HeadVerifier", "ValueHead", "find_shipped", "short_name"]
