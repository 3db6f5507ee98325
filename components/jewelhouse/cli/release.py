"""`jewelhouse release`: what the key services will be told, before anything is deployed."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from jewelhouse import lifecycle as graph
from jewelhouse.cli import diff, judge, matrix
from jewelhouse.cli.lifecycle import FileOption, StackOption, chosen
from jewelhouse.errors import JewelhouseError
from jewelhouse.release import compiler, policy_json
from jewelhouse.yamlpath import suggestion

app = typer.Typer(help="Release policies: who may have which key released.", no_args_is_help=True)
app.command("evaluate")(judge.evaluate_policy)
app.command("lint")(judge.lint_policies)
app.command("matrix")(matrix.show_matrix)
app.command("diff")(diff.compare)


@app.callback()
def release() -> None:
    """Release policies: who may have which key released."""


@app.command("compile")
def compile_policies(
    stack: StackOption = None,
    file: FileOption = None,
    artifact: Annotated[
        str | None, typer.Option("--artifact", "-a", help="Only this artifact's keys.")
    ] = None,
    neutral: Annotated[
        bool, typer.Option("--neutral", help="The policies before they are compiled, in one form for all.")
    ] = False,
) -> None:
    """Print the native policy document of every attested key, as JSON by name of the key."""
    lifecycle = chosen(stack, file)
    if artifact is not None and artifact not in lifecycle.artifacts:
        raise JewelhouseError(
            f"there is no artifact {artifact}",
            where="--artifact",
            remedy=suggestion(artifact, lifecycle.artifacts),
        )
    documents = {
        key.name: policy_json.to_json(policy) if neutral else compiler.compile(policy)
        for key, policy in graph.release_policies(lifecycle).items()
        if artifact in (None, key.artifact)
    }
    typer.echo(json.dumps(documents, indent=2))
