"""`img2mesh eval mesh|views|decoder|meshes`: scores against the truth, as tables and as JSON, a module for each command."""

import typer

from flows.evaluate import decoder, mesh, meshes, views

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Score meshes, views and decoders against the truth.")
app.command()(mesh.mesh)
app.command()(views.views)
app.command()(decoder.decoder)
app.command()(meshes.meshes)
