"""What a history store in SQLite says to the database: its tables, and changes of places that are as they were seen."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from tsa.serving.history.base import PAYMENTS, StoreKey, VersionedValue, WriteBatch, new_version
from tsa.serving.history.identity import RING, Mark

SCAN_ROWS = 1000

_SCHEMA = """
create table if not exists payments (name text primary key, stamp integer not null, data blob not null) without rowid;
create table if not exists blocks (number integer primary key, room text not null, name text not null,
    stamp integer not null, data blob not null, unique (room, name));
create table if not exists store (one integer primary key check (one = 1), identity blob not null, generation integer not null);
create table if not exists marks (place integer primary key, mark blob not null);
"""
_READ_MARK = "select mark from marks where place = ?"
_WRITE_MARK = "insert into marks values (?, ?) on conflict do update set mark = excluded.mark"
_HAS_TABLE = "select count(*) from sqlite_master where type = 'table' and name = ?"
_READ_STORE = "select identity, generation from store"
_MAKE_STORE = "insert into store values (1, ?, 0) on conflict do nothing"
_ADOPT_STORE = "insert into store values (1, ?, 0) on conflict do update set identity = excluded.identity"
_NEXT_GENERATION = "update store set generation = generation + 1 where identity = ? returning generation"
_CONDEMN = "update store set identity = ? where identity = ?"
_READ_PAYMENT = "select stamp, data from payments where name = ?"
_READ_BLOCK = "select stamp, data from blocks where room = ? and name = ?"
_INSERT_PAYMENT = "insert into payments (stamp, data, name) values (?, ?, ?) on conflict do nothing"
_INSERT_BLOCK = "insert into blocks (stamp, data, room, name) values (?, ?, ?, ?) on conflict do nothing"
_UPDATE_PAYMENT = "update payments set stamp = ?, data = ? where name = ? and stamp = ?"
_UPDATE_BLOCK = "update blocks set stamp = ?, data = ? where room = ? and name = ? and stamp = ?"
_DROP_PAYMENT = "delete from payments where name = ? and stamp = ?"
_DROP_BLOCK = "delete from blocks where room = ? and name = ? and stamp = ?"
_ANYTHING = "select 1 from blocks union all select 1 from payments limit 1"
_SCAN_PAYMENTS = "select name, stamp, data from payments where name > ? order by name limit ?"
_SCAN_BLOCKS = "select name, stamp, data from blocks where room = ? and name > ? order by name limit ?"


def store_row(link: sqlite3.Connection) -> tuple[bytes, int] | None:
    """Identity and generation; None where the store has none."""
    try:
        row: tuple[bytes, int] | None = link.execute(_READ_STORE).fetchone()
    except sqlite3.OperationalError:
        if link.execute(_HAS_TABLE, ("store",)).fetchone()[0]:
            raise
        return None
    return row


def end(link: sqlite3.Connection) -> None:
    """End what was not committed."""
    if link.in_transaction:
        link.execute("rollback")


def is_as_seen(link: sqlite3.Connection, change: WriteBatch) -> bool:
    """Whether the places that are seen but not written are as they were; those that are written check themselves."""
    for place, stamp in change.expected_versions.items():
        if place in change.puts or (place in change.deletes and stamp is not None):
            continue
        room, name = place
        row = link.execute(*((_READ_BLOCK, place) if room else (_READ_PAYMENT, (name,)))).fetchone()
        if (None if row is None else row[0]) != stamp:
            return False
    return True


def written(link: sqlite3.Connection, change: WriteBatch) -> bool:
    """Write and drop; False where a place has moved on."""
    stamp, seen = new_version(), change.expected_versions
    put = [(room, name, seen[room, name], data) for (room, name), data in change.puts.items()]
    drop = [(room, name, seen[room, name]) for room, name in change.deletes if seen[room, name] is not None]
    batches: Mapping[str, list[tuple[object, ...]]] = {
        _INSERT_PAYMENT: [(stamp, data, name) for room, name, old, data in put if room == PAYMENTS and old is None],
        _INSERT_BLOCK: [(stamp, data, room, name) for room, name, old, data in put if room and old is None],
        _UPDATE_PAYMENT: [(stamp, data, name, old) for room, name, old, data in put if not room and old is not None],
        _UPDATE_BLOCK: [(stamp, data, room, name, old) for room, name, old, data in put if room and old is not None],
        _DROP_PAYMENT: [(name, old) for room, name, old in drop if not room],
        _DROP_BLOCK: [(room, name, old) for room, name, old in drop if room],
    }
    made = (link.executemany(statement, rows).rowcount == len(rows) for statement, rows in batches.items() if rows)
    return all(made)


def read_place(link: sqlite3.Connection, place: StoreKey) -> VersionedValue | None:
    """What stands at a place."""
    room, name = place
    row = link.execute(*((_READ_BLOCK, place) if room else (_READ_PAYMENT, (name,)))).fetchone()
    return None if row is None else VersionedValue(*row)


def read_page(link: sqlite3.Connection, room: str, after: str) -> list[tuple[str, int, bytes]]:
    """Names, stamps and data of the places of a room that follow `after`, so many at a time."""
    query = (_SCAN_BLOCKS, (room, after, SCAN_ROWS)) if room else (_SCAN_PAYMENTS, (after, SCAN_ROWS))
    return link.execute(*query).fetchall()


def holds_anything(link: sqlite3.Connection) -> bool:
    """Whether the store has any payment or block."""
    has = link.execute(_HAS_TABLE, ("blocks",)).fetchone()[0]
    return bool(has) and link.execute(_ANYTHING).fetchone() is not None


def make_tables(link: sqlite3.Connection, identity: bytes, *, anew: bool = False) -> None:
    """Make what tables there are none of yet, and give the store an identity. anew: also where it has one."""
    for statement in _SCHEMA.split(";"):
        link.execute(statement)
    link.execute(_ADOPT_STORE if anew else _MAKE_STORE, (identity,))


def raise_generation(link: sqlite3.Connection, identity: bytes) -> Mark | None:
    """Note that the store has changed; the mark of the change, None where the store has another identity."""
    row = link.execute(_NEXT_GENERATION, (identity,)).fetchone()
    if row is None:
        return None
    mark = Mark(int(row[0]), b"%d" % new_version())
    link.execute(_WRITE_MARK, (mark.generation % RING, mark.pack()))
    return mark


def read_mark(link: sqlite3.Connection, own: Mark | None) -> bytes | None:
    """What stands in the place of this mark."""
    if own is None:
        return None
    row = link.execute(_READ_MARK, (own.generation % RING,)).fetchone()
    return None if row is None else bytes(row[0])


def condemn(link: sqlite3.Connection, identity: bytes, lost: bytes) -> None:
    """Put another identity in the place of the one that the store has."""
    link.execute(_CONDEMN, (lost, identity))
