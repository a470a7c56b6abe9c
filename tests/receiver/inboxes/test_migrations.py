"""Alembic makes a migration from the metadata of an inbox, which needs nothing of this library, and runs it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.engine import make_url

from basiq_async.receiver import SQLInbox
from basiq_async.receiver.protocol import ClaimStatus
from tests.support.databases import engine_of, new_table

ENVIRONMENT = """
from alembic import context
from sqlalchemy import NullPool, create_engine
from basiq_async.receiver import inbox_metadata

metadata = inbox_metadata({table!r})

def ours(name, kind, parent_names):
    return kind != "table" or name in metadata.tables

with create_engine({url!r}, poolclass=NullPool).connect() as connection:
    context.configure(
        connection=connection, target_metadata=metadata, include_name=ours, version_table={table!r} + "_alembic"
    )
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
"""
TEMPLATE = """
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}

from alembic import op
import sqlalchemy as sa
${imports if imports else ""}

def upgrade():
    ${upgrades if upgrades else "pass"}

def downgrade():
    ${downgrades if downgrades else "pass"}
"""


def project(folder: Path, url: str, table: str) -> Config:
    """A project as `alembic init` makes it."""
    (folder / "alembic" / "versions").mkdir(parents=True)
    (folder / "alembic" / "env.py").write_text(ENVIRONMENT.format(url=url, table=table))
    (folder / "alembic" / "script.py.mako").write_text(TEMPLATE)
    config = Config()
    config.set_main_option("script_location", str(folder / "alembic"))
    config.set_main_option("path_separator", "os")
    return config


@pytest.mark.parametrize("url", ["psycopg", "aiosqlite"], indirect=True)
async def test_a_migration_makes_the_tables_and_removes_them_again(url: str, tmp_path: Path) -> None:
    table = new_table()
    plain = make_url(url)
    plain = plain.set(drivername="sqlite") if plain.drivername.startswith("sqlite") else plain
    config = project(tmp_path, plain.render_as_string(hide_password=False), table)

    command.revision(config, "the inbox", autogenerate=True)
    (script,) = (tmp_path / "alembic" / "versions").glob("*.py")
    made = script.read_text()
    assert "basiq" not in made, "it runs without this library"
    assert set(re.findall(r"^(?:import|from) (\S+)", made, re.MULTILINE)) == {"alembic", "sqlalchemy"}

    command.upgrade(config, "head")
    async with engine_of(url) as engine:
        async with SQLInbox(engine, table=table, create_tables=False) as inbox:
            await inbox.check()
            assert (await inbox.claim("k", "a", lease=60)).status is ClaimStatus.CLAIMED
            assert await inbox.complete("k", "a")
            assert await inbox.complete("l", "a")
            assert await inbox.known(["k", "l", "m"]) == {"k", "l"}

        command.check(config)  # raises if another migration would change anything

        command.downgrade(config, "base")
        async with engine.connect() as connection:
            left = await connection.run_sync(lambda sync: sa.inspect(sync).get_table_names())
        assert [name for name in left if name.startswith(table)] == [f"{table}_alembic"]
