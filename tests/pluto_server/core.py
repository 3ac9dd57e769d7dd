"""What every service works on."""

from .audit import Audit
from .state import State


class Core:
    """The state and the rules that watch it."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.audit = Audit(state)
