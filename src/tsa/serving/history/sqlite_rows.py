"""SQL of the SQLite history store: its tables, reads and scans, and writes that check the expected versions."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from tsa.serving.history.base import PAYMENTS, StoreKey, VersionedValue, WriteBatch, new_version
from tsa.serving.history.identity import RING, Mark

SCAN_ROWS = 1000

_SCHEMA = """
create table if not exists payments (name text primary key, version integer not null, data blob not null) without rowid;
create table if not exists blocks (number integer primary key, namespace text not null, name text not null,
    version integer not null, data blob not null, unique (namespace, name));
create table if not exists store (one integer primary key check (one = 1), identity blob not null, generation integer not null);
create table if not exists marks (place integer primary key, mark blob not null);
"""
_TABLES = ("payments", "blocks", "store", "marks")
_READ_MARK = "select mark from marks where place = ?"
_WRITE_MARK = "insert into marks values (?, ?) on conflict do update set mark = excluded.mark"
_HAS_TABLE = "select count(*) from sqlite_master where type = 'table' and name = ?"
_OLDER_COLUMN = "select count(*) from pragma_table_info('payments') where name = 'stamp'"
"""Up to version 3, versions of values were in a column of this name."""
_READ_STORE = "select identity, generation from store"
_MAKE_STORE = "insert into store values (1, ?, 0) on conflict do nothing"
_ADOPT_STORE = "insert into store values (1, ?, 0) on conflict do update set identity = excluded.identity"
_NEXT_GENERATION = "update store set generation = generation + 1 where identity = ? returning generation"
_CONDEMN = "update store set identity = ? where identity = ?"
_READ_PAYMENT = "select version, data from payments where name = ?"
_READ_BLOCK = "select version, data from blocks where namespace = ? and name = ?"
_INSERT_PAYMENT = "insert into payments (version, data, name) values (?, ?, ?) on conflict do nothing"
_INSERT_BLOCK = "insert into blocks (version, data, namespace, name) values (?, ?, ?, ?) on conflict do nothing"
_UPDATE_PAYMENT = "update payments set version = ?, data = ? where name = ? and version = ?"
_UPDATE_BLOCK = "update blocks set version = ?, data = ? where namespace = ? and name = ? and version = ?"
_DROP_PAYMENT = "delete from payments where name = ? and version = ?"
_DROP_BLOCK = "delete from blocks where namespace = ? and name = ? and version = ?"
_ANYTHING = "select 1 from blocks union all select 1 from payments limit 1"
_SCAN_PAYMENTS = "select name, version, data from payments where name > ? order by name limit ?"
_SCAN_BLOCKS = "select name, version, data from blocks where namespace = ? and name > ? order by name limit ?"


def store_row(link: sqlite3.Connection) -> tuple[bytes, int] | None:
    """Identity and generation of the store; None if it has none."""
    try:
        row: tuple[bytes, int] | None = link.execute(_READ_STORE).fetchone()
    except sqlite3.OperationalError:
        if link.execute(_HAS_TABLE, ("store",)).fetchone()[0]:
            raise
        return None
    return row


def has_older_tables(link: sqlite3.Connection) -> bool:
    """Whether the tables are those of a store of version 3 or older."""
    return bool(link.execute(_OLDER_COLUMN).fetchone()[0])


def end(link: sqlite3.Connection) -> None:
    """Roll back an open transaction."""
    if link.in_transaction:
        link.execute("rollback")


def is_as_seen(link: sqlite3.Connection, change: WriteBatch) -> bool:
    """Whether the keys that were read but are not written have the expected versions. Writes check their own."""
    for place, stamp in change.expected_versions.items():
        if place in change.puts or (place in change.deletes and stamp is not None):
            continue
        namespace, name = place
        row = link.execute(*((_READ_BLOCK, place) if namespace else (_READ_PAYMENT, (name,)))).fetchone()
        if (None if row is None else row[0]) != stamp:
            return False
    return True


def written(link: sqlite3.Connection, change: WriteBatch) -> bool:
    """Write and delete; False if a key no longer has its expected version."""
    stamp, seen = new_version(), change.expected_versions
    put = [(namespace, name, seen[namespace, name], data) for (namespace, name), data in change.puts.items()]
    drop = [
        (namespace, name, seen[namespace, name])
        for namespace, name in change.deletes
        if seen[namespace, name] is not None
    ]
    batches: Mapping[str, list[tuple[object, ...]]] = {
        _INSERT_PAYMENT: [
            (stamp, data, name) for namespace, name, old, data in put if namespace == PAYMENTS and old is None
        ],
        _INSERT_BLOCK: [
            (stamp, data, namespace, name) for namespace, name, old, data in put if namespace and old is None
        ],
        _UPDATE_PAYMENT: [
            (stamp, data, name, old) for namespace, name, old, data in put if not namespace and old is not None
        ],
        _UPDATE_BLOCK: [
            (stamp, data, namespace, name, old) for namespace, name, old, data in put if namespace and old is not None
        ],
        _DROP_PAYMENT: [(name, old) for namespace, name, old in drop if not namespace],
        _DROP_BLOCK: [(namespace, name, old) for namespace, name, old in drop if namespace],
    }
    made = (link.executemany(statement, rows).rowcount == len(rows) for statement, rows in batches.items() if rows)
    return all(made)


def read_place(link: sqlite3.Connection, place: StoreKey) -> VersionedValue | None:
    """The value of a key; None if it has none."""
    namespace, name = place
    row = link.execute(*((_READ_BLOCK, place) if namespace else (_READ_PAYMENT, (name,)))).fetchone()
    return None if row is None else VersionedValue(*row)


def read_page(link: sqlite3.Connection, namespace: str, after: str) -> list[tuple[str, int, bytes]]:
    """Name, version and data of the next SCAN_ROWS keys of a namespace after the name `after`."""
    query = (_SCAN_BLOCKS, (namespace, after, SCAN_ROWS)) if namespace else (_SCAN_PAYMENTS, (after, SCAN_ROWS))
    return link.execute(*query).fetchall()


def holds_anything(link: sqlite3.Connection) -> bool:
    """Whether the store has any payment or block."""
    has = link.execute(_HAS_TABLE, ("blocks",)).fetchone()[0]
    return bool(has) and link.execute(_ANYTHING).fetchone() is not None


def foreign_tables(link: sqlite3.Connection) -> list[str]:
    """Tables of another program in the file."""
    rows = link.execute("select name from sqlite_master where type = 'table' and name not like 'sqlite~_%' escape '~'")
    return sorted(name for (name,) in rows if name not in _TABLES)


def make_tables(link: sqlite3.Connection, identity: bytes, *, replace: bool = False) -> None:
    """Create missing tables and set the store's identity.

    Args:
        replace: also replace an existing identity.
    """
    for statement in _SCHEMA.split(";"):
        link.execute(statement)
    link.execute(_ADOPT_STORE if replace else _MAKE_STORE, (identity,))


def raise_generation(link: sqlite3.Connection, identity: bytes) -> Mark | None:
    """Note that the store has changed; the mark of the change, None where the store has another identity."""
    row = link.execute(_NEXT_GENERATION, (identity,)).fetchone()
    if row is None:
        return None
    mark = Mark(int(row[0]), b"%d" % new_version())
    link.execute(_WRITE_MARK, (mark.generation % RING, mark.pack()))
    return mark


def read_mark(link: sqlite3.Connection, own: Mark | None) -> bytes | None:
    """The mark stored in the place of this one."""
    if own is None:
        return None
    row = link.execute(_READ_MARK, (own.generation % RING,)).fetchone()
    return None if row is None else bytes(row[0])


def condemn(link: sqlite3.Connection, identity: bytes, lost: bytes) -> None:
    """Replace the store's identity by `lost`."""
    link.execute(_CONDEMN, (lost, identity))
