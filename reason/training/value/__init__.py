"""Value heads from rollouts: docs/value-heads.md."""
