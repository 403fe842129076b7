"""What isoform remembers: identity (names, addresses, MACs) and the journal of operations. SQLite in WAL mode.

The kernel and the runtimes are asked for everything else; see `observe`.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from isoform.errors import HostLacks
from isoform.model import Port

_SCHEMA = """
CREATE TABLE IF NOT EXISTS services (
  name TEXT PRIMARY KEY, source TEXT NOT NULL, desired TEXT NOT NULL, applied_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS instances (
  id TEXT PRIMARY KEY, service TEXT NOT NULL, function TEXT NOT NULL, replica INTEGER NOT NULL, form TEXT NOT NULL,
  why TEXT NOT NULL, image TEXT NOT NULL, ports TEXT NOT NULL, machine TEXT NOT NULL,
  hosts TEXT NOT NULL DEFAULT '', started_at REAL, ready_pid INTEGER, ready_after_s REAL);
CREATE TABLE IF NOT EXISTS operations (
  id INTEGER PRIMARY KEY, service TEXT NOT NULL, verb TEXT NOT NULL, state TEXT NOT NULL, pid INTEGER NOT NULL,
  started_at REAL NOT NULL, ended_at REAL, error TEXT NOT NULL DEFAULT '', desired TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS steps (
  operation INTEGER NOT NULL, step TEXT NOT NULL, state TEXT NOT NULL, at REAL NOT NULL);
CREATE INDEX IF NOT EXISTS steps_of_operation ON steps (operation);
"""
_VERSION = 1  # of the tables; counts up with each change of them, and a newer isoform brings an older state along
_KEPT_OPERATIONS = 200  # older ones are forgotten; enough to tell the story of a bad day


@dataclass(frozen=True, slots=True)
class Row:
    """What is remembered of one instance."""

    id: str
    service: str
    function: str
    replica: int
    form: str
    why: str  # why it has this form, in words
    image: str
    ports: tuple[Port, ...]
    machine: str  # id of the machine that holds it; "" for none
    hosts: str = ""  # digest of the neighbours' names that it was last told
    started_at: float | None = None
    ready_pid: int | None = None  # the process that was seen to be ready: another pid has yet to prove itself
    ready_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """One change of a service: ETSI's LCM operation occurrence."""

    id: int
    service: str
    verb: str
    state: str  # PROCESSING, COMPLETED, FAILED, ROLLED_BACK, FAILED_TEMP (cut off: the next command goes on)
    pid: int
    started_at: float
    ended_at: float | None
    error: str


class Journal:
    """The state of one home. Opening it makes it; every call is one transaction."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, timeout=10)
            if self._db.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                self._db.execute("PRAGMA journal_mode=WAL")
            # A crash of the process loses nothing under NORMAL; a crash of the host ends all that is described here.
            self._db.execute("PRAGMA synchronous=NORMAL")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                self._db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")
        except (sqlite3.Error, OSError) as error:
            raise HostLacks(
                f"the state in {path} cannot be opened",
                why=str(error),
                fix="run as root (sudo isoform …), or name a folder of your own in ISOFORM_HOME",
            ) from error
        if version > _VERSION:
            raise HostLacks(
                f"the state in {path} was written by a newer isoform",
                why=f"its tables have version {version}, this isoform knows {_VERSION}",
                fix="use that isoform, or name another folder in ISOFORM_HOME",
            )

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def begin(self, service: str, verb: str, desired: str) -> int:
        """Note the start of an operation and return its id; mark those cut off earlier as FAILED_TEMP.

        Args:
            desired: the service as the operation wants it.
        """
        with self._transaction():
            self._db.execute(
                "UPDATE operations SET state = 'FAILED_TEMP', ended_at = ?, error = 'cut off'"
                " WHERE state = 'PROCESSING'",
                (self._clock(),),
            )
            added = self._db.execute(
                "INSERT INTO operations (service, verb, state, pid, started_at, desired)"
                " VALUES (?, ?, 'PROCESSING', ?, ?, ?)",
                (service, verb, os.getpid(), self._clock(), desired),
            ).lastrowid
            assert added is not None
            self._db.execute("DELETE FROM operations WHERE id <= ?", (added - _KEPT_OPERATIONS,))
            self._db.execute("DELETE FROM steps WHERE operation <= ?", (added - _KEPT_OPERATIONS,))
        return added

    def finish(self, operation: int, state: str, error: str = "") -> None:
        """Note how an operation ended."""
        self._db.execute(
            "UPDATE operations SET state = ?, ended_at = ?, error = ?,"
            " desired = CASE WHEN ? = 'FAILED_TEMP' THEN desired ELSE '' END WHERE id = ?",
            (state, self._clock(), error, state, operation),
        )

    def settle(self, service: str) -> None:
        """Note that what an operation was cut off from is done: there is nothing left to do."""
        self._db.execute(
            "UPDATE operations SET state = 'COMPLETED', ended_at = ?, desired = '' WHERE service = ?"
            " AND state IN ('PROCESSING', 'FAILED_TEMP') AND id = (SELECT max(id) FROM operations WHERE service = ?)",
            (self._clock(), service, service),
        )

    def note(self, operation: int, step: str, state: str) -> None:
        """Note that a step was "started" or is "done"."""
        self._db.execute("INSERT INTO steps VALUES (?, ?, ?, ?)", (operation, step, state, self._clock()))

    def operations(self, service: str = "") -> list[Operation]:
        """Return operations, newest first."""
        where, args = ("WHERE service = ?", (service,)) if service else ("", ())
        rows = self._db.execute(
            "SELECT id, service, verb, state, pid, started_at, ended_at, error"
            f" FROM operations {where} ORDER BY id DESC",
            args,
        )
        return [Operation(*row) for row in rows]

    def steps(self, operation: int) -> list[tuple[str, str, float]]:
        """Return (step, state, seconds since the epoch) of an operation, oldest first."""
        return self._db.execute(
            "SELECT step, state, at FROM steps WHERE operation = ? ORDER BY rowid", (operation,)
        ).fetchall()

    def services(self) -> dict[str, str]:
        """Return the services that were brought up, and the file each came from."""
        return dict(self._db.execute("SELECT name, source FROM services ORDER BY name").fetchall())

    def desired(self, service: str) -> str:
        """Return what the last completed `up` of a service wanted, as it was kept; "" if there was none."""
        row = self._db.execute("SELECT desired FROM services WHERE name = ?", (service,)).fetchone()
        return row[0] if row else ""

    def all_desired(self) -> list[str]:
        """Return what every service shall be, and what operations that did not end wanted."""
        kept = self._db.execute("SELECT desired FROM services").fetchall()
        open_ = self._db.execute(
            "SELECT desired FROM operations WHERE state IN ('PROCESSING', 'FAILED_TEMP') AND id IN"
            " (SELECT max(id) FROM operations GROUP BY service)"
        ).fetchall()
        return [row[0] for row in (*kept, *open_)]

    def keep_service(self, service: str, source: str, desired: str) -> None:
        """Remember what a completed `up` wanted."""
        self._db.execute(
            "INSERT OR REPLACE INTO services VALUES (?, ?, ?, ?)", (service, source, desired, self._clock())
        )

    def forget_service(self, service: str) -> None:
        """Forget a service and its instances' identity, in one transaction."""
        with self._transaction():
            self._db.execute("DELETE FROM services WHERE name = ?", (service,))
            self._db.execute("DELETE FROM instances WHERE service = ?", (service,))

    def rows(self, service: str = "") -> dict[str, Row]:
        """Return what is remembered of instances, by id."""
        return self._select("WHERE service = ?", service) if service else self._select("")

    def row(self, instance_id: str) -> Row | None:
        """Return what is remembered of one instance."""
        return self._select("WHERE id = ?", instance_id).get(instance_id)

    def keep_rows(self, rows: Iterable[Row]) -> None:
        """Remember instances' identity, before anything is made of them; how they were last seen is kept."""
        with self._transaction():
            self._db.executemany(
                "INSERT INTO instances (id, service, function, replica, form, why, image, ports, machine)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET form = excluded.form,"
                " why = excluded.why, image = excluded.image, ports = excluded.ports, machine = excluded.machine",
                [
                    (r.id, r.service, r.function, r.replica, r.form, r.why, r.image,
                     json.dumps([asdict(port) for port in r.ports]), r.machine)
                    for r in rows
                ],
            )

    def forget_rows(self, ids: Iterable[str]) -> None:
        """Forget instances."""
        self._db.executemany("DELETE FROM instances WHERE id = ?", [(one,) for one in ids])

    def told_hosts(self, instance_id: str, digest: str) -> None:
        """Remember which names of neighbours an instance was told."""
        self._db.execute("UPDATE instances SET hosts = ? WHERE id = ?", (digest, instance_id))

    def was_created(self, instance_id: str, hosts: str) -> None:
        """Remember that an instance was made anew, with those neighbours' names."""
        self._db.execute(
            "UPDATE instances SET hosts = ?, started_at = NULL, ready_pid = NULL, ready_after_s = NULL WHERE id = ?",
            (hosts, instance_id),
        )

    def was_started(self, instance_id: str, ago_s: float) -> None:
        """Remember that an instance was started; its creation began `ago_s` ago, waiting for others left out."""
        self._db.execute("UPDATE instances SET started_at = ? WHERE id = ?", (self._clock() - ago_s, instance_id))

    def was_ready(self, instance_id: str, pid: int) -> None:
        """Remember that the instance's process `pid` was seen to be ready, just now."""
        self._db.execute(
            "UPDATE instances SET ready_pid = ?, ready_after_s = ? - started_at WHERE id = ?",
            (pid, self._clock(), instance_id),
        )

    def _select(self, where: str, *args: str) -> dict[str, Row]:
        rows = self._db.execute(
            "SELECT id, service, function, replica, form, why, image, ports, machine, hosts, started_at, ready_pid,"
            f" ready_after_s FROM instances {where} ORDER BY service, function, replica",
            args,
        )
        return {row[0]: Row(*(*row[:7], _ports(row[7]), *row[8:])) for row in rows}

    def _transaction(self) -> _Transaction:
        return _Transaction(self._db)


class _Transaction:
    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._db.execute("COMMIT" if kind is None else "ROLLBACK")


def _ports(text: str) -> tuple[Port, ...]:
    def port(item: Mapping[str, object]) -> Port:
        return Port(**{**item, "addresses": tuple(item["addresses"])})  # type: ignore[arg-type]

    return tuple(port(item) for item in json.loads(text))
