"""The house rules that a machine can check (design.md, style.md)."""

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastsac

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("fastsac", "kernels", "envs", "bench")
FILES = sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))
TEST_FILES = sorted((ROOT / "tests").rglob("*.py"))
# compiler.py is what kernels are written with.
KERNELS = sorted(
    f for f in (ROOT / "kernels").glob("*.py") if f.stem not in ("__init__", "compiler")
)
MAX_LINES, MAX_TEST_LINES, MAX_FUNCTION_LINES = 350, 400, 60


def name(file):
    return str(file.relative_to(ROOT))


def each(files):
    return pytest.mark.parametrize("file", files, ids=name)


@functools.cache
def tree(file):
    return ast.parse(file.read_text(), name(file))


def imported(file):
    """Absolute names of the modules that a file imports, at its top or inside functions."""
    found = set()
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(file)} has a relative import"
            found.add(node.module)
            # `from fastsac import envs` imports fastsac.envs.
            if node.module == "fastsac":
                found |= {f"fastsac.{alias.name}" for alias in node.names}
    return found


def within(module, package):
    return module == package or module.startswith(package + ".")


def calls(file):
    """Dotted names of what a file calls."""
    return {ast.unparse(node.func) for node in ast.walk(tree(file)) if isinstance(node, ast.Call)}


def test_there_is_something_to_check():
    assert len(FILES) > 30 and len(KERNELS) >= 6


# The house from its roof to its ground: what stands on a floor imports from its own part of it or
# from the floors below. Modules of no wing are parts of their own.
FLOORS = (
    ("__main__",),
    ("cli",),
    ("bench", "sweep"),
    ("show",),
    ("training",),
    ("runs",),
    ("learner", "adapters"),
    ("kernels", "envs"),
    ("forks", "machine", "parser", "seeding", "typed_fields"),
    ("errors",),
)
FLOOR_OF = {part: floor for floor, parts in enumerate(FLOORS) for part in parts}


def module(file):
    """The name that a file is imported by: kernels, envs and bench are subpackages too."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    dotted = ".".join(parts if parts[0] == "fastsac" else ("fastsac", *parts))
    return dotted.removesuffix(".__init__")


MODULES = {module(file): file for file in FILES}


def ours(file):
    """Which of our modules a file imports; `from fastsac.runs import metrics` is runs.metrics."""
    found = set()
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            inside = names & MODULES.keys()
            found |= inside
            if len(inside) < len(names):
                found.add(node.module)
    return {name for name in found if name in MODULES and name != module(file)}


def part(name):
    """The wing or single module that a module belongs to."""
    return name.split(".")[1]


def wing_imports():
    """Every (importer, imported) between parts of the house, the package itself aside."""
    return {
        (part(name), part(other))
        for name, file in MODULES.items()
        for other in ours(file)
        if "fastsac" not in (name, other) and part(name) != part(other)
    }


def test_every_part_has_its_floor():
    assert {part(name) for name in MODULES if name != "fastsac"} == FLOOR_OF.keys()


@each(FILES)
def test_imports_point_down(file):
    if module(file) == "fastsac":  # the public names, loaded on first use
        return
    own = part(module(file))
    for other in ours(file) - {"fastsac"}:
        down = FLOOR_OF[own] < FLOOR_OF[part(other)]
        assert down or part(other) == own, f"{own} imports {other}"


@each([f for f in FILES if f.parts[len(ROOT.parts)] != "bench"])
def test_the_product_takes_only_its_version_of_the_package(file):
    taken = {name.removeprefix("fastsac.") for name in imported(file) if within(name, "fastsac")}
    if "fastsac" in imported(file):
        taken |= {
            node.attr
            for node in ast.walk(tree(file))
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "fastsac"
        }
    assert not taken & set(fastsac.__all__), "the module that has it, rather than the package"


def test_no_module_imports_itself_through_others():
    """Imports inside functions count: a circle is one even where Python bears it."""
    left = {name: ours(file) - {"fastsac"} for name, file in MODULES.items() if name != "fastsac"}
    while free := {name for name, others in left.items() if not others & left.keys()}:
        left = {name: others for name, others in left.items() if name not in free}
    assert not left, f"a circle among {sorted(left)}"


@each(sorted((ROOT / "kernels").rglob("*.py")))
def test_kernels_know_torch_and_triton_only(file):
    for imports in imported(file):
        top = imports.split(".")[0]
        assert (
            top in ("torch", "triton")
            or top in sys.stdlib_module_names
            or within(imports, "fastsac.kernels")
        ), imports


@each(sorted((ROOT / "envs").rglob("*.py")))
def test_envs_know_nothing_of_the_learner(file):
    others = {name for name in ours(file) if not within(name, "fastsac.envs")}
    assert others <= {"fastsac.forks"}


@each(sorted((ROOT / "fastsac").rglob("*.py")))
def test_the_product_does_not_need_jax(file):
    tops = {name.split(".")[0] for name in imported(file)}
    assert not tops & {"jax", "mujoco", "triton"}


CLIENTS = {
    "dm_env": {"dm_env"},
    "rsl_rl": {"rsl_rl", "tensordict"},
    "sb3": {"stable_baselines3"},
    "skrl": {"skrl"},
    "torchrl": {"tensordict", "torchrl"},
}


def test_an_adapter_alone_knows_its_library():
    own = ROOT / "fastsac" / "adapters"
    assert {file.stem for file in own.glob("*.py")} == {"__init__", *CLIENTS}
    libraries = set().union(*CLIENTS.values())
    for file in (f for f in FILES if name(f).split("/")[0] != "bench"):
        known = {imports.split(".")[0] for imports in imported(file)} & libraries
        assert known == (CLIENTS.get(file.stem, set()) if file.parent == own else set()), file


@each(sorted((ROOT / "envs" / "tasks").rglob("*.py")))
def test_tasks_do_not_know_torch_or_engines(file):
    modules = imported(file)
    assert not [m for m in modules if within(m, "torch") or within(m, "fastsac.envs.engines")]


@each([f for f in FILES if name(f) != "envs/dlpack.py"])
def test_jax_and_torch_meet_in_one_file(file):
    for node in ast.walk(tree(file)):
        used = {ast.Attribute: "attr", ast.Name: "id"}.get(type(node))
        assert not used or getattr(node, used) not in ("from_dlpack", "to_dlpack", "__dlpack__")
    assert not [m for m in imported(file) if m.endswith(".dlpack") and not within(m, "fastsac")]


def test_they_meet_there():
    assert {"torch.from_dlpack", "jax.dlpack.from_dlpack"} <= calls(ROOT / "envs" / "dlpack.py")


@each(FILES)
def test_the_environment_is_set_where_it_must_be(file):
    source = tree(file)
    writes = [
        ast.unparse(node)
        for node in ast.walk(source)
        if isinstance(node, ast.Subscript)
        and not isinstance(node.ctx, ast.Load)
        and ast.unparse(node.value) == "os.environ"
    ]
    writers = {"os.putenv", "os.environ.update", "os.environ.setdefault", "os.environ.pop"}
    writes += calls(file) & writers
    if name(file) == "envs/__init__.py":
        assert writes == ["os.environ.setdefault"]  # the user's own values win
    elif name(file) == "envs/opengl.py":
        assert {*writes} == {"os.environ['MUJOCO_GL']"}  # where the user's own fails
    elif name(file) == "fastsac/training/ranks.py":
        assert writes == ["os.environ['CUDA_VISIBLE_DEVICES']"]  # one of the user's
    else:
        assert not writes


@each(FILES)
def test_global_random_generators_are_left_alone(file):
    forbidden = {"torch.manual_seed", "np.random.seed", "numpy.random.seed", "random.seed"}
    assert not calls(file) & forbidden


@each(KERNELS)
def test_every_kernel_has_a_reference_and_a_test(file):
    functions = {n.name: n for n in tree(file).body if isinstance(n, ast.FunctionDef)}
    assert {"fused", "reference"} <= set(functions)
    jitted = [n for n, f in functions.items() if "jit" in map(ast.unparse, f.decorator_list)]
    assert "_forward" in jitted
    test = ROOT / "tests" / "kernels" / f"test_{file.stem}.py"
    assert test.is_file()
    tested = {
        alias.name
        for node in ast.walk(tree(test))
        if isinstance(node, ast.ImportFrom) and node.module == f"fastsac.kernels.{file.stem}"
        for alias in node.names
    }
    assert {"fused", "reference"} <= tested, "the test does not use them"


@each(KERNELS)
def test_every_kernel_has_a_bench(file):
    bench = tree(ROOT / "bench" / "kernels.py")
    assert file.stem in {n.value for n in ast.walk(bench) if isinstance(n, ast.Constant)}


@each(FILES + TEST_FILES)
def test_files_are_short_and_their_names_tell_their_content(file):
    lines = len(file.read_text().splitlines())
    assert lines <= (MAX_LINES if file in FILES else MAX_TEST_LINES), f"{lines} lines"
    assert file.stem not in ("utils", "util", "common", "misc", "helpers", "tools")


@each(FILES)
def test_functions_are_short(file):
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.FunctionDef):
            start = node.body[1 if ast.get_docstring(node) and len(node.body) > 1 else 0].lineno
            assert node.end_lineno - start < MAX_FUNCTION_LINES, node.name


@each(FILES)
def test_every_module_says_what_it_is(file):
    assert ast.get_docstring(tree(file))


def modules_after(code):
    """Top-level modules loaded by a fresh interpreter that ran code."""
    code += "\nimport sys; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_fastsac_imports_neither_jax_nor_torch():
    heavy = {"jax", "torch", "mujoco", "dm_control", "numpy", "tyro"}
    assert not modules_after("import fastsac; fastsac.__version__; dir(fastsac)") & heavy


def test_the_learner_alone_imports_no_jax():
    code = "import fastsac\n" + "\n".join(
        f"fastsac.{name}"
        for name in ("SAC", "SACConfig", "TrainConfig", "ReplayBuffer", "Batch", "Policy")
    )
    loaded = modules_after(code + "\nfastsac.load_policy")
    assert "torch" in loaded and not loaded & {"jax", "mujoco", "dm_control"}


def test_every_public_name_is_there():
    for public in fastsac.__all__:
        assert getattr(fastsac, public) is not None and public in dir(fastsac)
    with pytest.raises(AttributeError, match="'no_such_name'"):
        fastsac.no_such_name  # noqa: B018


PAGE = (ROOT / "docs" / "architecture.md").read_text()


def drawn(number):
    """Labels of the boxes of a drawing on the page, and its arrows (from, to, dotted)."""
    drawing = PAGE.split("```mermaid")[number].split("```")[0]
    labels = dict(re.findall(r'^ *(\w+)\["(.+)"\]$', drawing, re.MULTILINE))
    arrows = set()
    for line in drawing.splitlines():
        ends = re.split(r"( -\.-> | -->(?: | ?$)| -- \".*?\" --> )", line.strip())
        for start, arrow, end in zip(ends[:-2:2], ends[1::2], ends[2::2], strict=True):
            arrows |= {(start, one, "." in arrow.split('"')[0]) for one in end.split(" & ")}
    assert {name for arrow in arrows for name in arrow[:2]} == labels.keys()
    return labels, arrows


def test_the_drawing_of_the_wings_is_the_imports():
    _, arrows = drawn(1)
    ground = {*FLOORS[-1], *FLOORS[-2]}
    imports = {(a, "ground" if b in ground else b) for a, b in wing_imports() if a not in ground}
    assert {arrow[:2] for arrow in arrows} == imports - {("__main__", "cli")}


def test_the_drawing_of_a_step_names_what_is_there():
    """Each box is a function of its file, each arrow a way that the imports go."""
    labels, arrows = drawn(2)
    assert len(labels) > 15
    files = {}
    for box, label in labels.items():
        path, function = label.split(": ")
        files[box], scope = ROOT / path, tree(ROOT / path).body
        for step in function.split("."):
            (found,) = (
                node
                for node in scope
                if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == step
            )
            scope = found.body
    for start, end, dotted in arrows:
        caller, called = (end, start) if dotted else (start, end)
        reached, new = set(), {module(files[caller])}
        while new:
            reached |= new
            new = {other for one in new for other in ours(MODULES[one])} - reached
        assert module(files[called]) in reached, f"{caller} does not reach {called}"
