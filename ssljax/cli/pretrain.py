"""`ssljax pretrain`: an encoder from one's own pictures."""

import jax

from ssljax import sharding
from ssljax.cli.experiments import run_or_exit
from ssljax.run import experiment, programs, ranges
from ssljax.run.experiment import Experiment
from ssljax.train.hosts import joining
from ssljax.vision import choices, pretrain
from ssljax.vision.pretrain import Config


def main(config: Config) -> None:
    """Choose what is left to choose, then train, export and evaluate; exits as `cli.experiments.main` states."""

    def start() -> None:
        ranges.check(config)
        joining.start_hosts(heartbeat_timeout=config.stall_timeout + 60)
        chosen = choices.resolve(config)
        built = pretrain.build(chosen)
        if config.dry_run:
            print(dry_run(chosen, built))
        else:
            experiment.run(chosen, built, pretrain.__doc__ or "")

    run_or_exit(start)


def dry_run(config: Config, built: Experiment) -> str:
    """The number of steps, and the memory of one from its compiled program, in words."""
    with sharding.use_mesh(sharding.make_mesh(config.devices)):
        task = built.task()
        pace = built.pace(task.examples)
        made = programs.compile_programs(config, built, task, built.method(pace), built.optimizer(pace))
        compiled = made.step.lower(jax.eval_shape(made.init), task.batch_shapes[0]).compile()
    found = compiled.memory_analysis()
    memory = (found.argument_size_in_bytes + found.temp_size_in_bytes) / 2**20
    per_epoch = task.examples // built.batch_size
    return (
        f"{pace.steps} steps of {built.batch_size} pictures, {per_epoch} an epoch; a step takes {memory:,.0f} MiB on a "
        f"device beside the pictures. Nothing was trained (--dry-run)."
    )
