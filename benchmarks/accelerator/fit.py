"""The largest batch that fits the memory of a device."""

from collections.abc import Callable

from ml_collections import ConfigDict

from accelerator.targets import Chip

# Number of pairs per device at which the memory per pair is measured.
_PROBE = 8


def both(
    compile_one: Callable[..., dict], devices: int, config: ConfigDict, chip: Chip
) -> dict[str, dict]:
    """Return the largest batch without and with rematerialisation.

    Args:
      compile_one: compiles a program by its name, with fields `NAME=VALUE` changed, and
        returns its record, with `error` if it does not fit.
      devices: number of devices.
      config: config of a run.
      chip: one of the devices.
    """
    return {
        name: largest(
            lambda *changes, name=name, value=value: compile_one(
                "step", f"model.rematerialize={value}", *changes
            ),
            devices,
            chip,
        )
        for name, value in (("kept", False), ("rematerialised", True))
    }


def largest(compile_step: Callable[..., dict], devices: int, chip: Chip) -> dict:
    """Return the largest power of two of pairs per device whose step fits.

    The memory of a small batch gives the first power of two. It is then doubled or
    halved until a batch fits and its double does not.

    Args:
      compile_step: takes a change of the config, `train.batch_size=...`.
      devices: number of devices.
      chip: one of the devices.

    Returns:
      `pairs` per device, 0 if none fits, and `tried`: the bytes of each number.
    """
    tried: dict[int, dict] = {}

    def fits(pairs: int) -> bool:
        record = compile_step(f"train.batch_size={pairs * devices}")
        tried[pairs] = {
            "fits": "error" not in record,
            "bytes": record.get("used") or record.get("memory", {}).get("total"),
            "flops": record.get("flops"),
        }
        return tried[pairs]["fits"]

    pairs = _PROBE
    while pairs and not fits(pairs):
        pairs //= 2
    if pairs == _PROBE:
        # Start at half of the memory, because a program that does not fit takes as long
        # to compile.
        each = tried[pairs]["bytes"] / pairs
        guess = _power_below(chip.memory / each)
        if guess > pairs:
            if fits(guess):
                pairs = guess
                while fits(2 * pairs):
                    pairs *= 2
            else:
                while guess > 2 * pairs:
                    guess //= 2
                    if fits(guess):
                        pairs = guess
                        break
    return {"pairs": pairs, "tried": tried}


def below(compile_one: Callable[..., dict], record: dict, devices: int, chip: Chip):
    """Return the largest power of two of pairs per device that fits, below a failure.

    Args:
      compile_one: see `both`.
      record: record of the program that does not fit.
      devices: number of devices.
      chip: one of the devices.
    """
    pairs = record["pairs"] / 2
    if record["used"]:
        pairs = min(pairs, record["pairs"] * chip.memory / record["used"])
    pairs = _power_below(pairs)
    while pairs:
        change = f"train.batch_size={pairs * devices}"
        if "error" not in compile_one(record["name"], change):
            break
        pairs //= 2
    return pairs


def _power_below(limit: float) -> int:
    return 2 ** (int(limit).bit_length() - 1) if limit >= 1 else 0
