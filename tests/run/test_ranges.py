"""No number of any experiment or command is used that is out of its range."""

import dataclasses
import importlib
import typing
from pathlib import Path

import pytest

from ssljax.cli import main as commands
from ssljax.cli.embed import Embed
from ssljax.cli.evaluate import Evaluate
from ssljax.cli.finetune import Finetune, Predict
from ssljax.run.ranges import RANGES, check
from ssljax.types import BadInputError
from ssljax.vision.pretrain import Config as Pretrain

EXPERIMENTS = sorted((Path(__file__).parents[2] / "experiments").glob("[a-z]*.py"))
VALUES = (0, -1, -7, 2**31, 2**32, 10**12, float("nan"), float("inf"), float("-inf"), 1e30, 1e-30, 0.5)


def configs():
    """The configs with defaults of everything that has numbers."""
    yield from (Pretrain(), Finetune(), Evaluate(), Embed("a", "b"), Predict("a", "b"), commands.FillMask("a"))
    for path in EXPERIMENTS:
        module = importlib.import_module(f"experiments.{path.stem}")
        kind = getattr(module, "Config", None)
        if kind is not None and all(field.default is not dataclasses.MISSING for field in dataclasses.fields(kind)):
            yield kind()


def numbers_of(config):
    """(name, whether it is whole, how many) of every option that is a number or several."""
    for name, kind in typing.get_type_hints(type(config)).items():
        kinds = {one for one in (kind, *typing.get_args(kind)) for one in (one, *typing.get_args(one))}
        if kinds & {int, float} and typing.get_origin(kind) is not typing.ClassVar:
            default = getattr(config, name)
            yield name, float not in kinds, len(default) if isinstance(default, tuple) else 0


CONFIGS = {f"{type(config).__module__.split('.')[-1]}.{type(config).__name__}": config for config in configs()}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_number_has_a_range_and_its_default_is_in_it(name):
    config = CONFIGS[name]
    assert not {option for option, *_ in numbers_of(config)} - RANGES.keys()
    check(config)


@pytest.mark.parametrize("name", CONFIGS)
def test_values_out_of_range_name_the_option(name):
    config = CONFIGS[name]
    for option, whole, count in numbers_of(config):
        for value in VALUES:
            if (whole and isinstance(value, float)) or RANGES[option].holds(value):
                continue
            given = (*getattr(config, option)[: count - 1], value) if count else value
            with pytest.raises(BadInputError, match=rf"^{option}=.*: give a (whole )?number (from|above)"):
                check(dataclasses.replace(config, **{option: given}))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--log-every", "0"), "log_every=0: give a whole number from 1 to 2147483647."),
        (("--seed", "-1"), "seed=-1: give a whole number from 0 to 4294967295."),
        (("--seed", "4294967296"), "seed=4294967296: give a whole number from 0"),
        (("--batch-size", "-32"), "batch_size=-32: give a whole number from 1 to 16777216."),
        (("--steps", "0"), "steps=0: give a whole number from 1"),
        (("--learning-rate", "nan"), "learning_rate=nan: give a number from 0 to 10000."),
        (("--queue-size", "16000000000"), "queue_size=16000000000: give a whole number from 1"),
        (("--mean", "0.5", "127", "0.5"), "mean=0.5 127.0 0.5: give a number from 0 to 1."),
        (("--eval-every", "-1"), "eval_every=-1: give a whole number from 0"),
    ],
)
def test_the_command_ends_before_anything_is_opened(arguments, said, capsys):
    with pytest.raises(SystemExit, match="2"):
        commands.main(["pretrain", "--data", "folder:nowhere", *arguments])
    assert capsys.readouterr().err.startswith(f"error: {said}")


def test_an_experiment_ends_likewise(capsys, monkeypatch):
    from experiments import demo
    from ssljax.cli import experiments

    monkeypatch.setattr("sys.argv", ["demo", "--temperature", "inf", "--workdir", "nowhere"])
    with pytest.raises(SystemExit, match="2"):
        experiments.main(demo.Config, demo.build, demo.__doc__)
    assert capsys.readouterr().err == "error: temperature=inf: give a number above 0 and at most 10000.\n"
