"""One-line errors from the packages that reach buckets, which raise many types.

gcsfs, google-auth, s3fs, botocore and aiohttp are not imported here, because they may
not be installed. So the errors are recognised by their names and attributes.
"""

import logging as py_logging
import re

from arniqa_jax import errors

_TRANSIENT_CODES = frozenset({408, 429, *range(500, 505)})


def translate(
    url: str, error: BaseException, state: str = "unreadable"
) -> errors.ArniqaError:
    """Return a one-line error for an error of a package.

    Args:
      url: what was read or written.
      error: raised by fsspec, gcsfs, google-auth, s3fs, botocore or aiohttp.
      state: what the message says of the URL, such as `unwritable`.
    """
    if isinstance(error, errors.ArniqaError):
        return error
    if isinstance(error, FileNotFoundError):
        reason = "there is no such file"
    elif _is_forbidden(error):
        reason = (
            "permission denied; give this account the right to list, read, write and "
            f"delete objects of the bucket ({errors.one_line(error)})"
        )
    else:
        reason = errors.one_line(error)
    return errors.BucketError(f"{url}: {state}: {reason}")


def _is_forbidden(error: BaseException) -> bool:
    code = getattr(error, "code", None) or getattr(error, "status", None)
    return (
        isinstance(error, PermissionError)
        or str(code) in ("401", "403")
        or str(error).startswith("Forbidden:")  # gcsfs raises OSError with this text
    )


def is_transient(error: BaseException) -> bool:
    """Return whether an operation that failed may succeed if it is repeated."""
    code = getattr(error, "code", None) or getattr(error, "status", None)
    if code is not None and str(code).isdecimal():
        return int(code) in _TRANSIENT_CODES
    if any(kind.__module__.startswith("aiohttp.") for kind in type(error).__mro__):
        return not type(error).__name__.startswith("ClientConnector")
    return isinstance(error, TimeoutError | ConnectionError) or any(
        kind.__module__.startswith(("requests.exceptions", "urllib3.exceptions"))
        or kind.__name__ in ("TransportError", "EndpointConnectionError")
        for kind in type(error).__mro__
    )


def only_repetitions(record: py_logging.LogRecord) -> bool:
    """Reduce the log of gcsfs to one line for each request that it repeats.

    A filter for a logging handler. gcsfs repeats requests silently, but logs every
    error with its traceback before it raises it.
    """
    if not record.name.startswith("gcsfs"):
        return True
    message = " ".join(record.getMessage().split())
    match = re.search(r"retrying after exception: (.*)", message)
    if match is None:
        return False
    record.levelno, record.levelname = py_logging.WARNING, "WARNING"
    record.msg = f"a request to a bucket failed ({match[1] or 'no reason is given'})"
    record.msg, record.args = f"{record.msg}; trying again", ()
    return True


def is_of_a_bucket(error: BaseException) -> bool:
    """Return whether an error is raised by a package that reaches buckets."""
    modules = tuple(f"{kind.__module__}." for kind in type(error).__mro__)
    packages = ("gcsfs.", "google.", "aiohttp.", "requests.", "urllib3.")
    return any(module.startswith(packages) for module in modules)
