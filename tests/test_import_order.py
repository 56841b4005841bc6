"""Data flows one way: a module imports only modules that come before it in this list."""

import ast
from pathlib import Path

import pytest

import workbench

ORDER = [
    "errors",
    "batches",
    "scopes",
    "traces",
    "languages",
    "verdicts",
    "intervals",
    "areas",
    "provenance",
    "parts",
    "rows",
    "measures",
    "effects",
    "reviews",
    "files",
    "questions",
    "question_checks",
    "intake",
    "layouts",
    "polyrefuse",
    "xsafety",
    "sources",
    "romanise",
    "spelling",
    "lengths",
    "checks",
    "prompts",
    "shards",
    "upkeep",
    "index",
    "answers",
    "store",
    "encoding",
    "hardware",
    "weights",
    "model",
    "steering",
    "capture",
    "activations",
    "places",
    "contrasts",
    "directions",
    "refusals",
    "subspaces",
    "interventions",
    "scores",
    "sweeps",
    "similarities",
    "nulls",
    "maps",
    "translations",
    "tokenisation",
    "examples",
    "conditions",
    "newton",
    "thresholds",
    "gates",
    "conditionals",
    "repairs",
    "transfer",
    "completions",
    "benches",
    "laws",
    "likelihoods",
    "accuracies",
    "costs",
    "inversions",
    "replies",
    "lexicon",
    "judges",
    "endpoints",
    "guards",
    "labels",
    "agreements",
    "rivals",
    "transcripts",
    "trials",
    "ablations",
    "analysis",
    "corrections",
    "ledger",
    "budget",
    "printing",
    "cli_store",
    "cli_prompts",
    "confounds",
    "plots",
    "spreads",
    "allocations",
    "wide",
    "plans",
    "baselines",
    "curves",
    "omniguard",
    "fewshot",
    "study",
    "experiments",
    "cli",
]
PACKAGE = Path(workbench.__file__).parent
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def _imports(path: Path) -> dict[str, bool]:
    """Workbench modules that a file imports -> whether at its top level."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "workbench":
            names = [node.module.split(".")[1]] if "." in node.module else [alias.name for alias in node.names]
            found |= dict.fromkeys(names, node in tree.body)
    return found


def test_the_order_names_every_module():
    assert set(MODULES) == set(ORDER)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_modules_above_it(module):
    later = [name for name in _imports(PACKAGE / f"{module}.py") if ORDER.index(name) >= ORDER.index(module)]
    assert not later, f"{module} imports {later}"


def test_transformer_lens_is_imported_in_model_only():
    users = [m for m in MODULES if "import TransformerBridge" in _outside_type_checking(PACKAGE / f"{m}.py")]
    assert users == ["model"]


def _outside_type_checking(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [n for n in tree.body if not (isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test))]
    return ast.unparse(tree)


def test_no_public_name_is_also_a_module_name():
    assert not set(workbench.__all__) & set(MODULES)


def test_every_public_name_resolves_and_has_a_docstring():
    for name in workbench.__all__:
        value = getattr(workbench, name)
        assert callable(value) is False or value.__doc__, name
