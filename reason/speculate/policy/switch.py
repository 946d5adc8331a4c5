"""Learning to leave drafting off where it does not pay, whatever the estimates promise.

    advantage = (tokens / seconds of an iteration with drafts) / (branches / seconds without) - 1

Averaged apart for each class of batch sizes. Where the average falls below a margin, for what drafting replaces is only
estimated, drafting pauses there, and is tried again after a while that doubles each time.
"""

from __future__ import annotations

__all__ = ["Switch"]

_TRIAL = 8  # iterations before an average counts
_STEP = 0.06
_MARGIN = 0.04
_FIRST_PAUSE, _LONGEST_PAUSE = 48, 1536


class Switch:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._classes: dict[int, _Class] = {}

    def on(self, branches: int) -> bool:
        """Whether to draft in this iteration; counts the iterations of a pause."""
        state = self._of(branches)
        if state.pause_left > 0:
            state.pause_left -= 1
            return False
        return True

    def settle(self, branches: int, advantage: float) -> None:
        """What an iteration with drafts came to."""
        state = self._of(branches)
        state.visits += 1
        state.average += max(_STEP, 1.0 / state.visits) * (advantage - state.average)
        if state.visits >= _TRIAL:
            if state.average < _MARGIN:
                state.pause_left = state.next_pause
                state.next_pause = min(2 * state.next_pause, _LONGEST_PAUSE)
                state.visits, state.average = 0, 0.0
            elif state.visits >= 4 * _TRIAL:
                state.next_pause = _FIRST_PAUSE

    def _of(self, branches: int) -> _Class:
        return self._classes.setdefault((2 * branches * branches).bit_length(), _Class())


class _Class:
    """Batch sizes within a factor of about 1.4."""

    __slots__ = ("average", "next_pause", "pause_left", "visits")

    def __init__(self) -> None:
        self.visits = 0
        self.average = 0.0
        self.pause_left = 0
        self.next_pause = _FIRST_PAUSE
