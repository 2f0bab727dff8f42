"""The lock of a run directory in a bucket: an object with an owner and a heartbeat.

The system does not release such a lock when its owner is killed. So the owner rewrites
the object again and again, each time only if nobody else has written it (a generation
precondition). A lock whose generation stays the same for a while is stale, and the next
run takes it over. No clocks are compared, because those of two machines may differ.
"""

import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import secrets
import socket
import threading
import time

from absl import logging

from arniqa_jax import errors
from arniqa_jax.storage import buckets


@dataclasses.dataclass(frozen=True)
class _Owner:
    """The process that holds a lock.

    Attributes:
      host: its machine, for messages.
      process: its process id.
      namespace: of the process id; containers with the same host name may differ.
      begun: when the process started, because process ids are used again.
      token: random, so that no two owners are equal.
      since: when the lock was taken, for messages.
    """

    host: str
    process: int
    namespace: str
    begun: str
    token: str
    since: str

    def __str__(self):
        return f"process {self.process} on {self.host}, since {self.since}"


class BucketLock:
    """Holds the lock of a directory, as a context manager."""

    def __init__(
        self,
        url: str,
        name: str,
        *,
        beat_every: float = 10.0,
        stale_after: float = 60.0,
    ):
        """Describe a lock; entering the context takes it.

        Args:
          url: the object, in Google Cloud Storage.
          name: what is locked, for messages.
          beat_every: seconds between two heartbeats.
          stale_after: seconds without a heartbeat after which a lock is stale.
        """
        self._url = url
        self._name = name
        self._beat_every = beat_every
        self._stale_after = stale_after
        self._owner = _this_process()
        self._beats = 0
        self._generation = 0
        self._alive_at = 0.0
        self._lost = False
        # Held while the object is written, by the thread or by `confirm`.
        self._writing = threading.Lock()
        self._ended = threading.Event()

    def __enter__(self) -> "BucketLock":
        """Take the lock.

        Raises:
          ArniqaError: another run holds it.
          BucketError: the bucket cannot be written.
        """
        while not self._write(self._claimable()):
            pass  # another process was faster
        self._thread = threading.Thread(
            target=self._beat, name="lock of the run directory", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        self._thread.join()
        # A lock that cannot be removed becomes stale.
        with contextlib.suppress(errors.BucketError):
            found = _read_version(self._url)
            if found is not None and found[1] == self._generation:
                buckets.delete(self._url)

    def confirm(self) -> None:
        """Raise an error if another run has taken the lock over.

        It asks the bucket if the last heartbeat is old.

        Raises:
          ArniqaError: this process was silent for so long that another run has taken
            the lock.
        """
        if not self._lost and self._is_old():
            self._write_again()
        if self._lost:
            found = _read_version(self._url)
            owner = None if found is None else _read(found[0])
            raise errors.ArniqaError(
                f"{self._name} was taken over by another run ({owner}), because this "
                f"one gave no sign for {self._stale_after:g} s; this one ends"
            )

    def _is_old(self) -> bool:
        return time.monotonic() - self._alive_at > self._stale_after / 2

    def _beat(self) -> None:
        while not self._ended.wait(self._beat_every) and not self._lost:
            try:
                self._write_again()
            except errors.ArniqaError as error:
                logging.warning("the lock of the run directory: %s", error)

    def _write_again(self) -> None:
        if not self._write():
            self._lost = True

    def _write(self, generation: int | None = None) -> bool:
        """Write the lock in place of a generation; return whether it was there.

        Args:
          generation: None for the last one that this process has written.
        """
        with self._writing:
            generation = self._generation if generation is None else generation
            self._beats += 1
            content = dataclasses.asdict(self._owner) | {"beats": self._beats}
            moment = time.monotonic()
            written = _replace_version(
                self._url, json.dumps(content).encode(), generation
            )
            if written is None:
                return False
            self._generation, self._alive_at = written, moment
            return True

    def _claimable(self) -> int:
        """Return the generation that may be replaced, when the owner is gone.

        Raises:
          ArniqaError: the owner is alive.
        """
        found = _read_version(self._url)
        if found is None:
            return 0
        owner, generation = _read(found[0]), found[1]
        alive = None if owner is None else _is_alive(owner)
        if alive is None:
            logging.info(
                "%s is locked by %s: waiting for up to %g s whether it is alive",
                self._name,
                owner,
                self._stale_after,
            )
            now = self._later_generation(generation)
            if now == 0:
                return 0  # it was released
            alive = now != generation
        if alive:
            raise errors.ArniqaError(
                f"{self._name} is in use by another run ({owner}); wait for it, end "
                "it, or choose another --workdir"
            )
        logging.info("%s: taking over the lock of %s, which is gone", self._name, owner)
        return generation

    def _later_generation(self, generation: int) -> int:
        """Wait until the lock is stale or has another generation; return it.

        Returns:
          The same generation if the lock is stale; 0 if it was released.
        """
        deadline = time.monotonic() + self._stale_after
        while time.monotonic() < deadline:
            time.sleep(min(1.0, self._stale_after / 20))
            found = _read_version(self._url)
            if found is None:
                return 0
            if found[1] != generation:
                return found[1]
        return generation


def _read_version(url: str) -> tuple[bytes, int] | None:
    """Return the content of an object of Google Cloud Storage, and its generation.

    Returns:
      None if there is no such object.
    """
    system, path = buckets.open_system(url)

    def get():
        try:
            headers, content = system.call("GET", system.url(path))
        except FileNotFoundError:
            return None
        names = {name.lower(): value for name, value in headers.items()}
        return content, int(names["x-goog-generation"])

    return buckets.retried(url, get)


def _replace_version(url: str, content: bytes, generation: int) -> int | None:
    """Write an object of Google Cloud Storage if nobody else has written it meanwhile.

    Args:
      url: the object.
      content: must differ from what any other process writes.
      generation: the generation that is replaced; 0 if there must be no object.

    Returns:
      The new generation; None if the object has another generation.
    """
    system, path = buckets.open_system(url)
    bucket, name, _ = system.split_path(path)
    kind = "\r\nContent-Type: application/json\r\n\r\n"
    parts = (json.dumps({"name": name}).encode(), content)
    body = b"".join(b"--part" + kind.encode() + part + b"\r\n" for part in parts)

    def put():
        try:
            answer = system.call(
                "POST",
                f"{system._location}/upload/storage/v1/b/{bucket}/o",
                uploadType="multipart",
                headers={"Content-Type": "multipart/related; boundary=part"},
                ifGenerationMatch=str(generation),
                data=body + b"--part--\r\n",
                json_out=True,
            )
        except FileExistsError:  # gcsfs raises it for a precondition that fails
            return None
        return int(answer["generation"])

    written = buckets.retried(url, put, "unwritable")
    if written is None:
        # An attempt whose answer was lost may have written it.
        now = _read_version(url)
        if now is not None and now[0] == content:
            return now[1]
    return written


def _this_process() -> _Owner:
    process = os.getpid()
    return _Owner(
        host=socket.gethostname(),
        process=process,
        namespace=_namespace(),
        begun=_begun(process),
        token=secrets.token_hex(8),
        since=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
    )


def _read(content: bytes) -> _Owner | None:
    """Return the owner that a lock names; None if the object is not a lock."""
    try:
        fields = json.loads(content)
        return _Owner(**{f.name: fields[f.name] for f in dataclasses.fields(_Owner)})
    except (ValueError, KeyError, TypeError):
        return None


def _is_alive(owner: _Owner) -> bool | None:
    """Return whether a process of this machine is alive; None for another machine."""
    if not owner.namespace or owner.namespace != _namespace():
        return None
    return _begun(owner.process) == owner.begun


def _namespace() -> str:
    """Return a name of the set of process ids that this process sees; '' if unknown."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _begun(process: int) -> str:
    """Return the start time of a process in the kernel's unit; '' if there is none."""
    try:
        stat = pathlib.Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return ""
    # The name of the program, in parentheses, may contain anything.
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]  # a zombie does nothing any more
