"""What a module does, apart from what it says.

A mutant that says something else and does the same is no fault. So two modules count as one if
their syntax trees are equal once these are taken away: docstrings, annotations, protocols, what
stands under `if TYPE_CHECKING:`, the texts of errors, and the methods that only word a result.
"""

from __future__ import annotations

import ast

WORDING = ("__repr__", "__str__", "_repr_html_", "to_frame")
"""Methods that word a result."""


def what_it_does(source: str) -> str:
    """The module's syntax tree without its words, as a string.

    Raises:
        SyntaxError: if it is no module.
    """
    return ast.dump(_WithoutWords().visit(ast.parse(source)))


class _WithoutWords(ast.NodeTransformer):
    """Takes away what only a reader or a type checker sees."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        if node.name in WORDING:
            node.body = [ast.Pass()]
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        if any(ast.unparse(base) == "Protocol" for base in node.bases):
            return ast.Pass()
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        return ast.Pass() if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST:
        if "TYPE_CHECKING" in ast.unparse(node.test):
            return ast.Pass()
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            node.exc.args = [ast.Constant("text") for _ in node.exc.args]
        return self.generic_visit(node)
