"""Learning to leave drafting off where it does not pay, whatever the estimates promise.

    advantage = (tokens / seconds of an iteration with drafts) / (branches / seconds without) - 1

Averaged apart for each class of batch sizes. Where the average falls below a margin, for what drafting replaces is only
estimated, drafting pauses there, and is tried again after a while that doubles each time.

What an iteration without drafts would take is known by estimate alone as long as there is none. So where drafting does
not clearly win, an iteration goes without them now and then.
"""

from __future__ import annotations

__all__ = ["Switch"]

_TRIAL = 8  # iterations before an average counts
_STEP = 0.06
_MARGIN = 0.04
_CLEAR = 0.3  # an advantage that needs no looking
_LOOK = 16  # iterations
_FEW = 4  # branches that are not looked at before a trial
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

    def looks(self, branches: int) -> bool:
        """Whether to go without drafts in this iteration to see what that takes."""
        state = self._of(branches)
        tried = state.visits >= _TRIAL
        if (tried and state.average >= _CLEAR) or (not tried and branches <= _FEW):
            return False
        state.iterations += 1
        return state.iterations % _LOOK == 1

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

    __slots__ = ("average", "iterations", "next_pause", "pause_left", "visits")

    def __init__(self) -> None:
        self.iterations = 0  # in which looking was a question
        self.visits = 0
        self.average = 0.0
        self.pause_left = 0
        self.next_pause = _FIRST_PAUSE
