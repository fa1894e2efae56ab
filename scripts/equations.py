"""The index of equations: where each line of the lecture lives in the code, and which tests prove it.

    python scripts/equations.py            write docs/equations.md
    python scripts/equations.py --check    write nothing; exit with 1 if the page is stale

It reads docstrings and imports nothing of nelbo. A docstring in src/nelbo says ``Lecture: <key>`` (it is the home
of that row) and ``Equation: <source>`` (the paper). A test's docstring says ``Lecture: <key>``, or several keys
separated by "; ", and then what it likes. Every row below has exactly one home and at least one test; if not,
nothing is written and the exit status is 1.
"""

import argparse
import ast
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = "docs/equations.md"
COMMAND = "python scripts/equations.py"
_DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Row:
    """A line of the lecture: its key, its own wording, the formula as it is right, the slip if there was one."""

    key: str
    wording: str
    formula: str
    slip: str = ""


ROWS = (
    Row(
        "data, x_0",
        "Suppose x_0 ∼ 𝒟; d = 3×64×64 = 12,288",
        "x_0 ∈ {−1, …, 1} on a 256-level grid, x = u/127.5 − 1",
    ),
    Row("noise schedule", "1e-4 … linear … .02", "β_1, β_2, …, β_T; T = 1000"),
    Row("α_t", "α_t = 1 − θ_t", "α_t = 1 − β_t", "The slide writes θ_t for β_t."),
    Row("ᾱ_t", "ᾱ_t = Σ_{i≤t} α_i", "ᾱ_t = Π_{i≤t} α_i", "The slide writes Σ; it is the product."),
    Row(
        "forward step",
        "add noise per noise schedule",
        "q(x_t∣x_{t−1}) = N(√(1−β_t) x_{t−1}, β_t I)",
        "The slide writes p(x_t∣x_{t−1}, x_0); x_0 changes nothing there. Its var(x_1) = β_1 holds given x_0.",
    ),
    Row(
        "q(x_{1:T}|x_0)",
        "likewise for posteriors: q(x_{1:T}∣x_0)",
        "q(x_{1:T}∣x_0) = Π_t q(x_t∣x_{t−1})",
    ),
    Row(
        "closed form",
        "q(x_t∣x_0) normal, only depends on x_0",
        "q(x_t∣x_0) = N(√ᾱ_t x_0, (1−ᾱ_t) I), ᾱ_t = Π_{i≤t} α_i",
        "The slide's first line writes θ_t for β_t.",
    ),
    Row(
        "Bayes",
        "Can apply Bayes' Theorem … and it is normal",
        "q(x_{t−1}∣x_t, x_0) = N(c_t x_0 + γ_t x_t, β̃_t I), c_t = √ᾱ_{t−1} β_t/(1−ᾱ_t), "
        "γ_t = √α_t (1−ᾱ_{t−1})/(1−ᾱ_t), β̃_t = β_t (1−ᾱ_{t−1})/(1−ᾱ_t)",
        "The slide runs c_t, γ_t and β̃_t together, and announces q(x_t∣x_{t−1}, x_0) where q(x_{t−1}∣x_t, x_0) "
        "is meant.",
    ),
    Row("β̃_t", "β̃_t", "β̃_t = β_t (1−ᾱ_{t−1})/(1−ᾱ_t)", "The slide writes it without its name, after γ_t."),
    Row("x_T ~ N(0, I)", "x_T ∼ N(0, I^d)", "p(x_T) = N(0, I)"),
    Row(
        "reverse process",
        "Model reverse process",
        "p_θ(x_{t−1}∣x_t) = N(μ_θ(x_t, t), Σ_θ(x_t, t))",
    ),
    Row("simplify as β_t I", "simplify as N(x_{t−1}∣μ_θ(x_t, t), β_t I)", "σ_t² = β_t"),
    Row("joint, Markov", "assume Markov property", "p_θ(x_{0:T}) = p(x_T) Π_t p_θ(x_{t−1}∣x_t)"),
    Row(
        "loss, parts 1-3",
        "Deriving Loss, parts 1 to 3: Jensen, then expand using Markov",
        "−ln p_θ(x_0) ≤ E[−ln p_θ(x_{0:T})/q(x_{1:T}∣x_0)]",
    ),
    Row(
        "loss, parts 4-6",
        "Deriving Loss, parts 4 to 6: apply Bayes, telescoping sum",
        "L_T + Σ_{t≥2} KL[q(x_{t−1}∣x_t, x_0) ‖ p_θ(x_{t−1}∣x_t)] + L_0",
        "The slides write q(x_{t−1}∣x_t) for q(x_{t−1}∣x_t, x_0). Part 6 puts every divergence under E_{x_1}, and "
        "its last line has no E before Σ KL: each is under E over its own x_t. Each term varies less as a "
        "divergence; their sum over a path can vary more.",
    ),
    Row(
        "L_0, reconstruction, simple decoder",
        "L_0 loss term, reconstruction; could do simple decoder",
        "L_0 = −ln p_θ(x_0∣x_1), a Gaussian discretised to 256 levels",
    ),
    Row(
        "L_T, constant",
        "constant, can ignore for training; x_T → N(0, I), not exactly",
        "L_T = KL[q(x_T∣x_0) ‖ p(x_T)], reported and never dropped",
        "“Model Noise” leaves it out of the loss in its first line.",
    ),
    Row(
        "L_{t-1}, weighted MSE on means",
        "analytic formula, weighted MSE on means",
        "L_{t−1} = E ‖μ̃_t − μ_θ‖²/2σ_t², and what the two variances add where they differ",
    ),
    Row(
        "x_t as a function of x_0 and ε",
        "Model Noise: x_t = C_1 x_0 + C_2 ε; and x_1 = √(1−β_1) x_0 + √β_1 ε",
        "x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε, mean + σ ε of q(x_t∣x_0)",
    ),
    Row(
        "x_0 as a function of x_t and ε",
        "Model Noise: x_0 = C̃_1 x_t + C̃_2 ε",
        "x_0 = (x_t − √(1−ᾱ_t) ε)/√ᾱ_t",
    ),
    Row(
        "μ̃_t and μ_θ as functions of x_t and ε",
        "Model Noise: μ̃_t = C̃̃_1 x_t + C̃̃_2 ε, so set μ_θ(x_t, t) = C̃̃_1 x_t + C̃̃_2 ε_θ(x_t, t)",
        "μ_θ = (x_t − β_t/√(1−ᾱ_t) ε_θ)/√α_t: the mean of q(x_{t−1}∣x_t, x_0) at x̂_0(x_t, ε_θ)",
    ),
    Row(
        "ω_t",
        "ω_t = β_t²/(2σ_t² α_t (1−ᾱ_t))",
        "ω_t ‖ε − ε_θ(x_t, t)‖² = L_{t−1} + constant",
        "The slide leaves the bars out of x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε, has the square outside its bracket, "
        "[ω_t ‖…‖]², and sums from t = 1, which is L_0.",
    ),
    Row("simple, algorithm 1", "Simple alg 1: ignore L_0, ω_t = 1", "‖ε − ε_θ(x_t, t)‖²"),
    Row(
        "denoise x_T to x_0, algorithm 2",
        "x_T → x_{T−1} → … → x_1 → x_0, denoise",
        "x_{t−1} = μ_θ(x_t, t) + σ_t z, and at t = 1 the mean alone",
    ),
)


@dataclass(frozen=True)
class Home:
    """A definition in src/nelbo whose docstring names lines of the lecture or equations of papers."""

    path: str
    line: int
    name: str
    lecture: tuple[str, ...]
    papers: tuple[str, ...]


@dataclass(frozen=True)
class Mention:
    """What follows ``Lecture:`` on one line of a test's docstring."""

    path: str
    name: str
    text: str


def homes_in(source: str, path: str) -> list[Home]:
    """The definitions of a module whose docstrings carry ``Lecture:`` or ``Equation:`` lines."""
    homes = []
    for name, line, docstring in _docstrings(source):
        lecture, papers = _tagged(docstring, "Lecture"), _tagged(docstring, "Equation")
        if lecture or papers:
            homes.append(Home(path, line, name or "(module)", lecture, papers))
    return homes


def mentions_in(source: str, path: str) -> list[Mention]:
    """The ``Lecture:`` lines of the tests in a file; those of helpers and of the module prove nothing."""
    return [
        Mention(path, name, text)
        for name, _, docstring in _docstrings(source)
        if name.rpartition(".")[2].startswith("test_")
        for text in _tagged(docstring, "Lecture")
    ]


def keys_of(text: str, keys: Sequence[str]) -> list[str]:
    """The keys at the head of a test's line, separated by "; "; empty if it does not begin with a key."""
    found: list[str] = []
    while True:
        heads = [key for key in keys if re.match(re.escape(key) + r"(?!\w)", text)]
        if not heads:
            return found
        found.append(max(heads, key=len))
        rest = text[len(found[-1]) :]
        if not rest.startswith("; "):
            return found
        text = rest[2:]


def problems_of(rows: Sequence[Row], homes: Sequence[Home], mentions: Sequence[Mention]) -> list[str]:
    """What is wrong with the index, one sentence each; empty if every row has one home and a test."""
    keys = [row.key for row in rows]
    known = f"the keys are {', '.join(map(repr, keys))}"
    problems = [
        f"{home.path}:{home.line} {home.name}: unknown key {key!r}; {known}"
        for home in homes
        for key in home.lecture
        if key not in keys
    ]
    problems += [
        f"{mention.path} {mention.name}: {mention.text!r} begins with no key; {known}"
        for mention in mentions
        if not keys_of(mention.text, keys)
    ]
    for key in keys:
        at = [
            f"{home.path}:{home.line} {home.name}" for home in homes for named in home.lecture if named == key
        ]
        if not at:
            problems.append(
                f"{key!r} has no home: write 'Lecture: {key}' in the docstring that has its formula"
            )
        if len(at) > 1:
            problems.append(f"{key!r} has {len(at)} homes, and must have one: {', '.join(at)}")
        if not any(key in keys_of(mention.text, keys) for mention in mentions):
            problems.append(
                f"{key!r} has no test: write 'Lecture: {key}' in the docstring of one that proves it"
            )
    return problems


def page_of(rows: Sequence[Row], homes: Sequence[Home], mentions: Sequence[Mention]) -> str:
    """The page docs/equations.md, for an index without problems."""
    keys = [row.key for row in rows]
    home_of = {key: home for home in homes for key in home.lecture}
    lines = [
        "# The equations",
        "",
        f"Written by `{COMMAND}` from the docstrings; do not edit.",
        "",
        "Paper time: x_0 is the data, x_1 … x_T are the latents, and ᾱ_t is the product of α_1 … α_t.",
        "",
        "## The lecture",
        "",
        "Each line of the lecture has one home in the code and at least one test.",
        "",
        "| lecture | formula | home | paper | tests | slip, mended |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        home = home_of[row.key]
        tests = [
            _link(mention.name, mention.path)
            for mention in mentions
            if row.key in keys_of(mention.text, keys)
        ]
        lines.append(
            _table_line(row.wording, row.formula, _home_link(home), "; ".join(home.papers),
                        "<br>".join(dict.fromkeys(tests)), row.slip)
        )  # fmt: skip
    lines += [
        "",
        "## Beyond the lecture",
        "",
        "What comes from papers and has no line in the lecture.",
        "",
        "| paper | home |",
        "|---|---|",
    ]
    beyond = [(paper, home) for home in homes if not home.lecture for paper in home.papers]
    lines += [_table_line(paper, _home_link(home)) for paper, home in sorted(beyond, key=_by_paper)]
    return "\n".join(lines) + "\n"


def read_homes(root: Path) -> list[Home]:
    """Every home under src/nelbo."""
    return [home for path, source in _sources(root, "src/nelbo", "*.py") for home in homes_in(source, path)]


def read_mentions(root: Path) -> list[Mention]:
    """Every ``Lecture:`` line of every test under tests."""
    return [
        mention
        for path, source in _sources(root, "tests", "test_*.py")
        for mention in mentions_in(source, path)
    ]


def main(arguments: Sequence[str] | None = None, *, root: Path = ROOT) -> int:
    """Write the page, or check it; 0 if all is well."""
    parser = argparse.ArgumentParser(description=f"Write {PAGE}, the index of equations.")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 if the page is stale"
    )
    check = parser.parse_args(arguments).check
    homes, mentions = read_homes(root), read_mentions(root)
    problems = problems_of(ROWS, homes, mentions)
    if problems:
        print(*problems, sep="\n", file=sys.stderr)
        return 1
    page, path = page_of(ROWS, homes, mentions), root / PAGE
    if path.exists() and path.read_text(encoding="utf-8") == page:
        return 0
    if check:
        print(f"{PAGE} is stale; run: {COMMAND}", file=sys.stderr)
        return 1
    path.parent.mkdir(exist_ok=True)
    path.write_text(page, encoding="utf-8")
    print(f"wrote {PAGE}")
    return 0


def _docstrings(source: str) -> Iterator[tuple[str, int, str]]:
    """Qualified name ("" for the module), line and docstring of everything that has one, in order."""

    def visit(node: ast.AST, name: str) -> Iterator[tuple[str, int, str]]:
        if isinstance(node, (ast.Module, *_DEFINITIONS)):
            docstring = ast.get_docstring(node)
            if docstring is not None:
                yield name, getattr(node, "lineno", 1), docstring
        for child in ast.iter_child_nodes(node):
            own = (child.name,) if isinstance(child, _DEFINITIONS) else ()
            yield from visit(child, ".".join((*filter(None, [name]), *own)))

    yield from visit(ast.parse(source), "")


def _tagged(docstring: str, tag: str) -> tuple[str, ...]:
    lines = (line.strip() for line in docstring.splitlines())
    return tuple(line[len(tag) + 1 :].strip() for line in lines if line.startswith(f"{tag}:"))


def _sources(root: Path, folder: str, pattern: str) -> Iterator[tuple[str, str]]:
    for path in sorted((root / folder).rglob(pattern)):
        yield path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")


def _home_link(home: Home) -> str:
    place = f"{home.path}:{home.line}"
    return f"{_link(place, f'{home.path}#L{home.line}')} `{home.name}`"


def _link(text: str, target: str) -> str:
    return f"[`{text}`](../{target})"


def _table_line(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _by_paper(entry: tuple[str, Home]) -> tuple[list[str | int], str, int]:
    """(4) comes before (15)."""
    paper, home = entry
    words = [int(word) if word.isdigit() else word for word in re.split(r"(\d+)", paper)]
    return words, home.path, home.line


if __name__ == "__main__":
    sys.exit(main())
