"""Groups of commands, each a typer app of its own that `holdfast.cli` adds."""
