"""Organizations and their API keys."""

from dataclasses import dataclass

KEY_PREFIXES = ("mlps_", "mlpi_")


@dataclass(slots=True)
class Organization:
    """A tenant. `at_limit` refuses new runs, nothing else."""

    id: str
    slug: str
    at_limit: bool = False


@dataclass(frozen=True, slots=True)
class Key:
    """An API key of one user of one organization."""

    id: str
    token: str
    organization: Organization
    user_id: str
    expired: bool = False
    revoked: bool = False

    @property
    def usable(self) -> bool:
        """Neither expired nor revoked."""
        return not (self.expired or self.revoked)


class KeyRing:
    """The recording's keys: two good ones, one of another organization, an expired and a revoked one."""

    def __init__(self) -> None:
        home, other = Organization("org1", "test-org"), Organization("org2", "other-org")
        keys = (
            Key("key1", "mlps_GOOD", home, "user1"),
            Key("key2", "mlpi_GOOD", home, "user1"),
            Key("key3", "mlps_OTHER_ORG", other, "user2"),
            Key("key4", "mlps_EXPIRED", home, "user1", expired=True),
            Key("key5", "mlps_REVOKED", home, "user1", revoked=True),
        )
        self.home = home
        self.other_of_home = keys[1]
        self._keys = {key.token: key for key in keys}

    def find(self, token: str) -> Key | None:
        """The key with this token, usable or not."""
        return self._keys.get(token)
