"""Run directories as a training leaves them, and one of a real, tiny training."""

import csv
import json

import fastsac
from fastsac.runs.metrics import COLUMNS
from fastsac.training.config import to_json
from fastsac.training.presets import preset_config


def write_run(path, evaluations, task="cartpole_swingup", preset="seed", result=None, **fields):
    """Makes a run's directory with evaluations (step, seconds, return, std), result (mean, std)."""
    path.mkdir(parents=True)
    config = preset_config(task, preset, **{"total_steps": 10_000} | fields)
    (path / "config.json").write_text(to_json(config) + "\n")
    with (path / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for step, seconds, value, std in evaluations:
            row = {"step": step, "seconds": seconds, "updates": 0, "cpu_seconds": seconds}
            writer.writerow(row | {"q": 1.5})
            writer.writerow(row | {"eval_return": value, "eval_return_std": std})
    if result:
        mean, std = result
        figures = {"steps": 10_000, "updates": 900, "seconds": 469.0, "backend": "dm_control"}
        figures |= {"seed": 10_000, "returns": [mean - std, mean + std], "mean": mean, "std": std}
        (path / "result.json").write_text(json.dumps(figures))
    return path


def train_tiny(run_dir):
    """Trains cartpole_balance for a few seconds and returns the run's directory."""
    config = preset_config(
        "cartpole_balance",
        run_dir=str(run_dir),
        num_envs=3,
        total_steps=300,
        learning_starts=150,
        batch_size=32,
        replay_capacity=400,
        final_eval_episodes=1,
        sac=fastsac.SACConfig(hidden_sizes=(16, 16)),
    )
    return fastsac.train(config).run_dir
