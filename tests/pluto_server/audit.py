"""All rules that find client defects."""

from .audit_delivery import DeliveryAudit
from .audit_shared import SharedAudit
from .audit_status import StatusAudit
from .state import State


class Audit:
    """The three groups of rules over one state."""

    def __init__(self, state: State) -> None:
        self.delivery = DeliveryAudit(state)
        self.status = StatusAudit(state)
        self.shared = SharedAudit(state)

    def check(self) -> None:
        """Look for what only shows when the client is done."""
        self.delivery.check()
        self.status.check()
        self.shared.check()
