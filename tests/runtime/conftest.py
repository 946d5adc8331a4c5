"""One thread, tiny random models, and devices."""
from __future__ import annotations
