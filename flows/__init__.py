"""Prefect and typer live here and only here."""
