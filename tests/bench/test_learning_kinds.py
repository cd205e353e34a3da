"""The suite by kind of task: who is in which kind, the numbers, and the picture."""

import math

import fastsac
from fastsac.bench.learning_kinds import (
    best_by_kind,
    draw_kinds,
    median_and_iqm,
    table_of_kinds,
)


def test_every_task_of_the_suite_is_of_one_kind():
    of_kind = [task for returns in best_by_kind({}).values() for task in returns]
    assert sorted(of_kind) == sorted(fastsac.tasks()) and len(of_kind) == 51


FINALS = {
    "cartpole_balance": 100.0,
    "reacher_easy": 900.0,
    "reacher_hard": 200.0,
    "pendulum_swingup": math.nan,
    "finger_spin": 400.0,
    "lqr_lqr_2_1": -50.0,
    "dog_run": 300.0,
}


def test_the_best_come_first_and_nan_is_none():
    kinds = best_by_kind(FINALS)
    small = kinds["small models"]
    assert [*small][
        :5
    ] == "reacher_easy finger_spin reacher_hard cartpole_balance lqr_lqr_2_1".split()
    assert small["pendulum_swingup"] is None
    assert median_and_iqm(small) == (200.0, (100 + 200 + 400) / 3)
    rows = table_of_kinds(kinds).strip().splitlines()[2:]
    assert rows == [
        "| small models | 5 of 19 | 200.0 | 233.3 |",
        "| whole bodies | 1 of 16 | 300.0 | 300.0 |",
    ]


def test_the_picture_has_the_kinds_that_ran():
    panels = draw_kinds(best_by_kind(FINALS)).axes
    assert [panel.get_title() for panel in panels] == ["small models", "whole bodies"]
    dogs = panels[1]
    assert [bar.get_width() for bar in dogs.patches] == [300.0]
    (name,) = (t.get_text() for t in dogs.get_yticklabels() if t.get_position()[1] == 15)
    assert name == "dog_run"
    marks = dogs.get_legend_handles_labels()[1]
    assert marks == ["no run", "median 300", "IQM 300"]
