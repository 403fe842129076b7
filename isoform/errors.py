"""The errors of isoform: classes follow what the caller can do about them, not which module raised them."""

from __future__ import annotations


class IsoformError(Exception):
    """What failed and where, why, and what to do. The CLI and the API show it as it stands."""

    exit_code, status, title = 1, 500, "Internal error"

    def __init__(self, what: str, *, why: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what, self.why, self.fix = what, why, fix

    def __str__(self) -> str:
        return self.what + "".join(f"\n  {k}: {v}" for k, v in (("why", self.why), ("fix", self.fix)) if v)


class DescriptorError(IsoformError):
    """The user's file, argument or option is not valid: mend it and try again."""

    exit_code, status, title = 2, 422, "Descriptor not valid"


class WrongState(IsoformError):
    """What was asked for is not possible now: something is missing, busy or in the way."""

    exit_code, status, title = 3, 409, "Not possible now"


class NotFound(WrongState):
    """A service, function, instance or image of that name does not exist."""

    status, title = 404, "Not found"


class HostLacks(IsoformError):
    """This host lacks a tool, a kernel feature, memory, disk or a privilege."""

    exit_code, status, title = 4, 503, "Host lacks a requirement"


class StepFailed(IsoformError):
    """A change of the world was tried and failed."""

    exit_code, status, title = 5, 500, "Step failed"
