"""Children of multiprocessing's fork: a sentence where they would wait for ever."""

import json
import os
import subprocess
import sys

import pytest

PARENT = """
import json, multiprocessing, os, sys, warnings
warnings.simplefilter("ignore")
import torch
import fastsac
torch.set_num_threads(2)
MODEL = '<mujoco><worldbody><body><joint name="x" type="slide"/><geom size="0.1"/></body>'
MODEL += '</worldbody><actuator><motor joint="x" ctrlrange="-1 1"/></actuator></mujoco>'
def make():
    return fastsac.make("cartpole_swingup", 64, engine="native")
def register():
    fastsac.register("mine", MODEL, lambda p: {"x": p.qpos}, lambda p: p.qpos[0])
def use_env():
    env = make()
    env.reset()
    env.send(torch.zeros(64, 1))
    env.recv()
    return env
def use_agent():
    agent, replay = fastsac.SAC(40, 3), fastsac.ReplayBuffer(2000, 40, 3)
    x = torch.zeros(2000, 40)
    replay.add(x, x[:, :3], x[:, 0], x[:, 0], x)
    agent.learn(replay, 1024, 2)
    return agent, replay, x, fastsac.Policy.snapshot(agent, "task")
def calm():
    torch.set_num_threads(1)
    agent.act(x)
WHATS = {
    "step": lambda: env.step(torch.zeros(64, 1)), "reset": lambda: env.reset(),
    "state": lambda: env.state_dict(), "load": lambda: env.load_state_dict({}), "make": make,
    "register": register, "close": lambda: (env.close(), globals().pop("env")),
    "learn": lambda: agent.learn(replay, 1024, 2), "act": lambda: agent.act(x), "calm": calm,
    "policy": lambda: policy(x), "new agent": use_agent, "sample": lambda: replay.sample(1024),
    "snapshot": lambda: fastsac.Policy.snapshot(agent, "t"),
    "new": lambda: (use_env(), use_agent()),
    "exit": lambda: globals().pop("env"),
}
used, how, *whats = sys.argv[1:]
def child(what, answer):
    try:
        WHATS[what]()
        answer.send("done")
    except RuntimeError as error:
        answer.send(str(error))
if __name__ == "__main__":
    if used == "env":
        env = use_env()
    if used == "agent":
        agent, replay, x, policy = use_agent()
    said = {}
    context = multiprocessing.get_context(how)
    for what in whats:
        ours, theirs = context.Pipe()
        if what == "exit":  # through Python's own end, which destroys what is left
            pid = os.fork()
            if not pid:
                child(what, theirs)
                sys.exit(0)
            os.waitpid(pid, 0)
        else:
            process = context.Process(target=child, args=(what, theirs))
            process.start()
        said[what] = ours.recv() if ours.poll(100) else "silence"
        if what != "exit":
            process.kill()
    print(json.dumps(said))
"""
SPAWN = 'use "spawn", as multiprocessing.get_context("spawn") does'


def said_by_children(tmp_path, used, how, *whats):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    command = [sys.executable, str(script), used, how, *whats]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=500, env=environment, check=True
    )
    return json.loads(done.stdout)


def test_environments_that_the_parent_used_are_refused(tmp_path):
    refused = ("step", "reset", "state", "load", "make", "register")
    said = said_by_children(tmp_path, "env", "fork", *refused, "close", "exit")
    for what in refused:
        assert said[what].startswith("fastsac's environments were used by the process"), what
        assert SPAWN in said[what]
    assert said["close"] == said["exit"] == "done"


def test_a_learner_whose_parent_used_torchs_threads_is_refused(tmp_path):
    refused = ("learn", "act", "policy", "new agent", "sample", "snapshot")
    said = said_by_children(tmp_path, "agent", "fork", *refused, "calm")
    for what in refused:
        assert said[what].startswith("torch's threads were used by the process"), what
        assert SPAWN in said[what]
    assert said["calm"] == "done", "one thread is the child's own"


@pytest.mark.parametrize(("used", "how"), [("nothing", "fork"), ("env", "spawn")])
def test_a_child_of_its_own_may_do_all(used, how, tmp_path):
    assert said_by_children(tmp_path, used, how, "new") == {"new": "done"}
