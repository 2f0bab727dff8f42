"""Differences that are allowed between two starts of a run, and the messages."""

import json
import pathlib

import pytest

from arniqa_jax import errors
from arniqa_jax.storage import workdir
from arniqa_jax.training import loop, metrics_log, resume
from benchmarks import soak
from configs import pretrain

_GOLDEN = pathlib.Path(__file__).with_name("golden")


class _Photographs:
    """A source that has only names."""

    def __init__(self, *names):
        self._names = names

    def __len__(self):
        return len(self._names)

    def name(self, index):
        return self._names[index]


_EIGHTY = _Photographs(*(f"root/{n:02}.png" for n in range(80)))  # epochs of 5 steps


def _config(**changes):
    config = pretrain.get_config()
    config.data.root = "root"
    config.update_from_flattened_dict(changes)
    return config


def _at(run, step):
    (run.checkpoints / str(step)).mkdir(parents=True)


@pytest.fixture
def run(tmp_path):
    """A run of 10 epochs, 50 steps, with a logged step."""
    run = workdir.Workdir(tmp_path / "run")
    resume.settle(run, _config(), _EIGHTY)
    run.metrics.write_text('{"step": 1}\n')
    return run


def test_the_config_comes_back_as_it_was(run):
    assert workdir.read_config(run.path).to_dict() == _config().to_dict()


def test_a_run_that_never_began_can_be_given_another_config(run):
    run.metrics.unlink()
    changed = _config(**{"model.init": "random", "seed": 3})
    resume.settle(run, changed, _EIGHTY)
    assert workdir.read_config(run.path).to_dict() == changed.to_dict()
    _at(run, 4)
    with pytest.raises(errors.UsageError, match="seed was 3 and is 27"):
        resume.settle(run, _config(), _EIGHTY)


@pytest.mark.parametrize(
    "changes",
    [
        {"data.workers": 0, "data.max_bad_share": 0.5, "log.tensorboard": False},
        {"evaluation.datasets": "live", "evaluation.every_epochs": 3},
        {"degradation.tile": 2, "train.log_every": 5, "train.picture_every": 0},
        {"train.checkpoint_every": 9, "train.epochs": 11},
        {"train.steps": 51, "train.epochs": 1},
        {"train.steps": 50},
    ],
)
def test_what_may_change_on_resume(run, changes):
    resume.settle(run, _config(**changes), _EIGHTY)
    stored = workdir.read_config(run.path).to_dict()
    assert stored == _config(**changes).to_dict()


def test_every_other_change_is_listed(run):
    before = run.config.read_bytes()
    changed = _config(**{"seed": 28, "model.arch": "resnet18", "train.epochs": 9})
    with pytest.raises(errors.UsageError) as error:
        resume.settle(run, changed, _EIGHTY)
    for part in (
        "seed was 27 and is 28",
        "model.arch was 'resnet50' and is 'resnet18'",
    ):
        assert part in str(error.value)
    assert run.config.read_bytes() == before


@pytest.mark.parametrize("changes", [{"train.epochs": 9}, {"train.steps": 49}])
def test_a_run_cannot_be_made_shorter(run, changes):
    before = run.config.read_bytes()
    with pytest.raises(errors.UsageError, match=r"run of 50 steps.*make it 4[59]"):
        resume.settle(run, _config(**changes), _EIGHTY)
    assert run.config.read_bytes() == before


def test_a_total_below_the_step_that_is_reached(run):
    _at(run, 9)
    _at(run, 10)
    before = run.config.read_bytes()
    with pytest.raises(errors.UsageError, match="at step 10, beyond the 4 asked for"):
        resume.settle(run, _config(**{"train.steps": 4}), _EIGHTY)
    # The same by fewer photographs: 10 epochs of one step.
    few = _Photographs("root/00.png", "root/01.png")
    _at(run, 40)
    with pytest.raises(errors.UsageError, match=r"step 40, beyond.* 2 photographs"):
        resume.settle(run, _config(), few)
    assert run.config.read_bytes() == before


def test_a_run_of_an_older_version_takes_the_defaults(run, caplog):
    """The oldest config that a run of this package can have on disk."""
    old = json.loads((_GOLDEN / "config_of_older_run.json").read_text())
    old["data"]["root"] = "root"
    assert "precision" not in old["model"]
    run.config.write_text(json.dumps(old))
    run.photographs.unlink()  # they are recorded since later, too
    other = _config(**{"model.precision": "highest"})
    with pytest.raises(
        errors.UsageError, match=r"model\.precision was 'default' and is 'highest'"
    ):
        resume.settle(run, other, _EIGHTY)
    resume.settle(run, _config(), _EIGHTY)
    assert not caplog.records
    assert workdir.read_config(run.path).to_dict() == _config().to_dict()


def test_a_field_of_a_newer_version_is_named(run):
    newer = json.loads(run.config.read_text())
    newer["model"]["projector_layers"] = 3
    run.config.write_text(json.dumps(newer))
    with pytest.raises(
        errors.CheckpointError, match=r"fields model.projector_layers\."
    ):
        resume.settle(run, _config(), _EIGHTY)


@pytest.mark.parametrize(
    ("schedule", "level", "message"),
    [
        ("constant", None, ""),
        ("warm_restarts", "INFO", "continues at step 51"),
        ("cosine", "WARNING", "step 51 has the learning rate 0.000146, where .* 1e-06"),
    ],
)
def test_a_finished_run_is_extended(tmp_path, caplog, schedule, level, message):
    run = workdir.Workdir(tmp_path / "run")
    resume.settle(run, _config(**{"schedule.name": schedule}), _EIGHTY)
    _at(run, 50)
    longer = _config(**{"schedule.name": schedule, "train.steps": 66})
    with caplog.at_level("INFO", "absl"):
        resume.settle(run, longer, _EIGHTY)
    first, *rest = caplog.records
    assert "was to end at step 50 and now ends at step 66" in first.getMessage()
    assert [record.levelname for record in rest] == [level] * bool(level)
    caplog.clear()
    # From the start again: nothing has changed since.
    with caplog.at_level("INFO", "absl"):
        resume.settle(run, longer, _EIGHTY)
    assert not caplog.records


def test_changed_photographs_are_named(run, caplog):
    moved = _Photographs(*(f"/other/place/{n:02}.png" for n in range(80)))
    resume.settle(run, _config(**{"data.root": "/other/place"}), moved)
    assert not caplog.records
    names = [f"root/{n:02}.png" for n in range(4, 80)]
    changed = _Photographs(*names, "root/new.png")
    resume.settle(run, _config(**{"train.steps": 50}), changed)
    (warning,) = (r for r in caplog.records if "photographs" in r.getMessage())
    assert warning.levelname == "WARNING"
    assert "from 80 to 77" in warning.getMessage()
    assert "1 added (new.png)" in warning.getMessage()
    assert "4 removed (00.png, 01.png, 02.png and 1 more)" in warning.getMessage()


def test_a_damaged_record_of_the_photographs(run):
    run.photographs.write_text("{")
    with pytest.raises(errors.CheckpointError, match=r"photographs\.json is damaged"):
        resume.settle(run, _config(), _EIGHTY)


def _train(path, steps: int) -> list[dict]:
    """Trains in this process; returns the logged steps without the times."""
    config = pretrain.get_config()
    config.update_from_flattened_dict(
        soak.FIELDS
        | {
            "data.workers": 0,
            "train.batch_size": 8,  # this process has 8 devices
            "train.steps": steps,
            "evaluation.every_epochs": 0,
            "evaluation.root": str(path.parent),
        }
    )
    assert loop.run(config, path) == 0
    return [line for line in soak.outcome(path)[1] if "loss" in line]


@pytest.mark.slow
def test_an_extended_run_is_the_longer_run(tmp_path, capsys):
    """By warm restarts, whose rates do not depend on the length of the run."""
    soak.write_scored(tmp_path / "scored")
    _train(tmp_path / "run", 2)
    extended = _train(tmp_path / "run", 4)
    assert extended == _train(tmp_path / "longer", 4)
    found, expected = (soak.outcome(tmp_path / name)[0] for name in ("run", "longer"))
    assert found == expected
    lines = metrics_log.read(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines if "test" in line] == [2, 4]
    assert capsys.readouterr().out.count("written to") == 3
    assert _train(tmp_path / "run", 4) == extended  # finished: nothing is left to do
    assert not capsys.readouterr().out


@pytest.mark.slow
def test_a_run_killed_before_its_last_evaluation_is_evaluated(tmp_path, capsys):
    """Also where it was extended, and the evaluation of its former end is there."""
    soak.write_scored(tmp_path / "scored")
    _train(tmp_path / "run", 2)
    _train(tmp_path / "run", 3)
    metrics = tmp_path / "run" / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    assert '"test"' in lines[-1]
    metrics.write_text("".join(lines[:-1]))
    capsys.readouterr()
    expected = _without_times(lines)
    _train(tmp_path / "run", 3)
    assert "written to" in capsys.readouterr().out
    assert _without_times(metrics.read_text().splitlines()) == expected


def _without_times(lines):
    return [
        {
            name: value
            for name, value in json.loads(line).items()
            if name not in metrics_log.TIMING_FIELDS
        }
        for line in lines
    ]
