"""Comparison of a start with the previous start in the same run directory.

A resumed run computes what an uninterrupted run computes. So a config field that
affects a result may not change, and the photographs are compared with those of the last
start. A run may become longer.
"""

import hashlib
import json

from absl import logging
from ml_collections import ConfigDict

from arniqa_jax import errors
from arniqa_jax.data.photos import PhotoSource
from arniqa_jax.storage import workdir as workdirs
from arniqa_jax.storage.files import write_atomically
from arniqa_jax.storage.workdir import Workdir
from arniqa_jax.training import plans

# Fields that do not affect a result: field names, or groups, which end with a dot.
_MAY_CHANGE = (
    "data.root",
    "data.workers",
    "data.cache_mib",
    "data.max_bad_share",
    "degradation.tile",
    "evaluation.",
    "log.",
    "train.log_every",
    "train.picture_every",
    "train.checkpoint_every",
)
# These fields are compared by the step at which the run ends.
_LENGTH = ("train.epochs", "train.steps")
_SHOWN = 3  # maximum number of photographs that a message names


def settle(workdir: Workdir, config: ConfigDict, source: PhotoSource) -> None:
    """Check a start against the run in `workdir`, and record its config.

    Before its first step a run accepts any other config, because a start that failed
    (for a missing model, say) has produced nothing that could be inconsistent. The
    config and the photographs are recorded after all checks, so that a rejected start
    changes nothing.

    Raises:
      UsageError: a field differs that may not, or the run would end before the step
        that it has reached.
      CheckpointError: the stored config is damaged or of a newer version.
    """
    names = _names(source, config.data.root)
    if workdir.config.exists() and workdir.has_begun():
        old = workdirs.read_config(workdir.path)
        _compare_fields(workdir, old, config)
        before = _read_photographs(workdir)
        old_count = len(names) if before is None else before["count"]
        _compare_lengths(workdir, old, config, old_count, len(names))
        if before is not None:
            _compare_photographs(before, names)
    _write_photographs(workdir, names)
    write_atomically(workdir.config, json.dumps(config.to_dict(), indent=2) + "\n")


def _compare_fields(workdir: Workdir, old: ConfigDict, new: ConfigDict) -> None:
    old_fields = workdirs.config_fields(old.to_dict())
    new_fields = workdirs.config_fields(new.to_dict())
    free = {
        name
        for name in old_fields.keys() | new_fields.keys()
        if name in _MAY_CHANGE or f"{name.split('.')[0]}." in _MAY_CHANGE
    }
    unknown = sorted((old_fields.keys() ^ new_fields.keys()) - free)
    if unknown:
        raise errors.CheckpointError(
            f"{workdir.config} is of another version of this program: only one of the "
            f"two has the fields {', '.join(unknown)}. Finish the run with the version "
            "that began it, or choose another --workdir"
        )
    differing = [
        f"{name} was {old_fields[name]!r} and is {new_fields[name]!r}"
        for name in sorted(old_fields.keys() - free - set(_LENGTH))
        if old_fields[name] != new_fields[name]
    ]
    if differing:
        raise errors.UsageError(
            f"{workdir.location} holds a run of another config: "
            f"{'; '.join(differing)}. Set these fields back, or choose another "
            "--workdir"
        )


def _compare_lengths(
    workdir: Workdir, old: ConfigDict, new: ConfigDict, old_count: int, new_count: int
) -> None:
    """Raise if a run becomes shorter; log the effect on the learning rate."""
    step = workdir.latest_step()
    before = plans.make_plan(old, old_count)
    now = plans.make_plan(new, new_count)
    if step > now.total:
        raise errors.UsageError(
            f"this run is at step {step}, beyond the {now.total} asked for by "
            f"train.steps={new.train.steps}, train.epochs={new.train.epochs} and "
            f"{new_count} photographs: raise train.steps or train.epochs"
        )
    # Compare for the same photographs, because fewer photographs may make a run
    # shorter.
    wanted = plans.make_plan(new, old_count).total
    if wanted < before.total:
        raise errors.UsageError(
            f"{workdir.location} holds a run of {before.total} steps, and train.steps="
            f"{new.train.steps}, train.epochs={new.train.epochs} make it {wanted}: a "
            "run can be made longer, not shorter. Set these fields back, or choose "
            "another --workdir"
        )
    if now.total == before.total and now.epoch == before.epoch:
        return
    logging.info(
        "the run was to end at step %d and now ends at step %d", before.total, now.total
    )
    rates = [
        float(plans.learning_rates(config, plan)(step))
        for config, plan in ((old, before), (new, now))
    ]
    if rates[0] != rates[1]:
        logging.warning(
            "schedule.name=%s depends on the length of the run: step %d has the "
            "learning rate %.3g, where the schedule before had %.3g. A run of this "
            "length from the start would have had other rates up to here",
            new.schedule.name,
            step + 1,
            rates[1],
            rates[0],
        )
    elif new.schedule.name != "constant":
        logging.info(
            "schedule.name=%s continues at step %d with the learning rate %.3g, as in "
            "a run of this length from the start",
            new.schedule.name,
            step + 1,
            rates[1],
        )


# --- Photographs --------------------------------------------------------------------


def _names(source: PhotoSource, root: str) -> list[str]:
    """Return names of the photographs that do not depend on the root."""
    names = (source.name(index) for index in range(len(source)))
    return [name.removeprefix(root).lstrip("/") for name in names]


def _digest(names: list[str]) -> str:
    return hashlib.sha256("\n".join(names).encode(errors="replace")).hexdigest()


def _write_photographs(workdir: Workdir, names: list[str]) -> None:
    described = {"count": len(names), "sha256": _digest(names), "names": names}
    write_atomically(workdir.photographs, json.dumps(described) + "\n")


def _read_photographs(workdir: Workdir) -> dict | None:
    """Return the record of the last start; None if it was of an older version."""
    try:
        described = json.loads(workdir.photographs.read_text())
        return {name: described[name] for name in ("count", "sha256", "names")}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise errors.CheckpointError(
            f"{workdir.photographs} is damaged ({error}): remove it, and the run "
            "resumes without a comparison of the photographs"
        ) from error


def _compare_photographs(before: dict, names: list[str]) -> None:
    """Log a warning about photographs added or removed since the last start."""
    if before["sha256"] == _digest(names):
        return
    changes = []
    for change, found in (
        ("added", set(names) - set(before["names"])),
        ("removed", set(before["names"]) - set(names)),
    ):
        if found:
            shown = ", ".join(sorted(found)[:_SHOWN])
            more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            changes.append(f"{len(found)} {change} ({shown}{more})")
    logging.warning(
        "the photographs have changed since the last start, from %d to %d: %s. The "
        "batches from here on differ from those of a run without this change",
        before["count"],
        len(names),
        "; ".join(changes) or "the same names in another order",
    )
