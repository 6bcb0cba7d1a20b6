"""What can go wrong, by who has to act. The class decides the exit code and whether a flow retries."""


class FrostlineError(Exception):
    """Base of every error a user should read as one sentence."""

    exit_code = 1
    retryable = False


class ConfigError(FrostlineError):
    """The recipe, the profile or the command line asks for something impossible."""

    exit_code = 2


class DataError(FrostlineError):
    """The data cannot be used as it is."""

    exit_code = 3


class IntegrityError(FrostlineError):
    """Bytes are not what their digest says. Never retried into being used."""

    exit_code = 4


class PlatformError(FrostlineError):
    """A server, a machine or a network failed; trying again can help."""

    exit_code = 5
    retryable = True


class Interrupted(FrostlineError):  # noqa: N818 (a request that was met, no error)
    """Stopped on request after committing a checkpoint; starting again resumes."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h


class Held(FrostlineError):  # noqa: N818 (nothing is wrong)
    """Another process is at work on the same, and was not to be waited for."""

    exit_code = 75


class ClaimLost(FrostlineError):  # noqa: N818
    """Another process took over, because nothing was heard of this one."""

    exit_code = 75
