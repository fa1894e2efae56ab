"""The index of equations: that it is whole, and that a gap in it is noticed."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "equations.py"

MODULE = '''"""Lines of the lecture.

Lecture: joint
"""

class Process:
    def step(self):
        """A step: a | b.

        Equation: Ho2020 (2)
        Lecture: forward step
        """

    @property
    def other(self):
        """Another.

        Equation: Song2021 (12)
        """
'''
TESTS = '''"""Lecture: joint."""

def helper():
    """Lecture: forward step."""

class TestProcess:
    def test_step(self):
        """Lecture: forward step; joint. Both at once."""
'''


@pytest.fixture(scope="module")
def equations():
    spec = importlib.util.spec_from_file_location("equations", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["equations"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["equations"]


@pytest.fixture
def rows(equations):
    return (
        equations.Row("forward step", "add noise", "q(x_t|x_{t-1})", "a slip"),
        equations.Row("joint", "Markov", "Π p"),
    )


@pytest.fixture
def index(equations):
    def build(module=MODULE, tests=TESTS):
        return (
            equations.homes_in(module, "src/nelbo/forward.py"),
            equations.mentions_in(tests, "tests/test_forward.py"),
        )

    return build


def test_every_line_of_the_lecture_has_one_home_and_a_test(equations):
    homes, mentions = equations.read_homes(ROOT), equations.read_mentions(ROOT)
    assert equations.problems_of(equations.ROWS, homes, mentions) == []


def test_the_page_is_current_and_written_without_importing_nelbo():
    """Without site-packages (-I -S) nothing of nelbo or of its dependencies can be imported."""
    command = [sys.executable, "-I", "-S", str(SCRIPT), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr


def test_homes_have_a_name_and_a_line(equations, index):
    homes, mentions = index()
    assert [(home.name, home.line) for home in homes] == [
        ("(module)", 1),
        ("Process.step", 7),
        ("Process.other", 15),
    ]
    assert homes[1].papers == ("Ho2020 (2)",)
    assert [(mention.name, mention.text) for mention in mentions] == [
        ("TestProcess.test_step", "forward step; joint. Both at once.")
    ]


def test_an_index_without_gaps_has_no_problems(equations, rows, index):
    assert equations.problems_of(rows, *index()) == []


@pytest.mark.parametrize(
    ("module", "tests", "expected"),
    [
        (MODULE.replace("Lecture: forward step", ""), TESTS, ["'forward step' has no home"]),
        (MODULE.replace("Equation: Song2021 (12)", "Lecture: joint"), TESTS, ["'joint' has 2 homes"]),
        (MODULE.replace("Lecture: joint", "Lecture: joint\n\nLecture: joint"), TESTS, ["'joint' has 2 homes"]),
        (MODULE, TESTS.replace("; joint", ""), ["'joint' has no test"]),
        (MODULE, TESTS.replace("test_step", "check_step"), ["'forward step' has no test", "'joint' has no test"]),
        (MODULE.replace("Song2021 (12)", "Song2021 (12)\n        Lecture: DDIM"), TESTS, ["unknown key 'DDIM'"]),
        (MODULE, TESTS.replace("forward step; joint.", "joint; forward steps."), ["'forward step' has no test"]),
        (MODULE, TESTS + '\ndef test_typo():\n    """Lecture: forwards step."""\n', ["begins with no key"]),
    ],
)  # fmt: skip
def test_a_gap_is_noticed(equations, rows, index, module, tests, expected):
    problems = equations.problems_of(rows, *index(module, tests))
    assert len(problems) == len(expected)
    assert all(part in problem for part, problem in zip(expected, problems))


def test_two_modules_cannot_share_a_line(equations, rows, index):
    homes, mentions = index()
    again = equations.homes_in(MODULE, "src/nelbo/reverse.py")
    problems = equations.problems_of(rows, homes + again, mentions)
    assert len(problems) == 2
    assert "src/nelbo/forward.py:7 Process.step, src/nelbo/reverse.py:7 Process.step" in problems[0]


def test_the_longest_key_wins(equations):
    keys = ["loss", "loss, parts 1-3", "L_0"]
    assert equations.keys_of("loss, parts 1-3; L_0, in words", keys) == ["loss, parts 1-3", "L_0"]
    assert equations.keys_of("loss, part 6", keys) == ["loss"]
    assert equations.keys_of("lossy", keys) == []


def test_the_page_links_homes_and_tests(equations, rows, index):
    page = equations.page_of(rows, *index())
    lecture, beyond = page.split("## Beyond the lecture")
    assert (
        r"| add noise | q(x_t\|x_{t-1}) | [`src/nelbo/forward.py:7`](../src/nelbo/forward.py#L7) `Process.step`"
        " | Ho2020 (2) | [`TestProcess.test_step`](../tests/test_forward.py) | a slip |"
    ) in lecture
    assert "Song2021" not in lecture
    assert "| Song2021 (12) | [`src/nelbo/forward.py:15`]" in beyond
    assert "Ho2020" not in beyond


def test_equations_of_a_paper_are_in_the_order_of_their_numbers(equations, rows):
    homes = [equations.Home("a.py", i, "f", (), (f"Ho2020 ({n})",)) for i, n in enumerate((15, 4))]
    homes += [equations.Home("b.py", 1, "g", ("forward step", "joint"), ())]
    page = equations.page_of(rows, homes, [])
    assert page.index("Ho2020 (4)") < page.index("Ho2020 (15)")


def test_check_fails_on_a_stale_page_and_writing_mends_it(equations, rows, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(equations, "ROWS", rows)
    for path, text in {"src/nelbo/forward.py": MODULE, "tests/sub/test_forward.py": TESTS}.items():
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    page = tmp_path / "docs" / "equations.md"

    assert equations.main(["--check"], root=tmp_path) == 1
    assert "docs/equations.md is stale; run: python scripts/equations.py" in capsys.readouterr().err
    assert not page.exists()
    assert equations.main([], root=tmp_path) == 0
    assert equations.main(["--check"], root=tmp_path) == 0
    (tmp_path / "src/nelbo/forward.py").write_text("\n" + MODULE, encoding="utf-8")
    assert equations.main(["--check"], root=tmp_path) == 1

    written = page.read_text(encoding="utf-8")
    (tmp_path / "src/nelbo/forward.py").write_text("", encoding="utf-8")
    assert equations.main([], root=tmp_path) == 1
    assert "'joint' has no home" in capsys.readouterr().err
    assert page.read_text(encoding="utf-8") == written
