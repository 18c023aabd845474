"""Groups of commands, each a typer app that `holdfast.cli` adds."""
