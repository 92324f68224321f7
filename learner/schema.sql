-- What a learner keeps, version 3 of the schema. Everything here can be learned again from the acceptors.

-- One row: how far this learner has come. It changes in the transaction that brings the rows it speaks of.
CREATE TABLE state (
  one        INTEGER PRIMARY KEY CHECK (one = 1),
  cluster_id BLOB    NOT NULL,
  -- Exclusive: `learned` holds every slot below it, and none from it on; registers and sessions are as after them.
  applied_to INTEGER NOT NULL,
  -- Rolling hash over (slot, value) of every slot below `applied_to`.
  digest     BLOB    NOT NULL,
  -- XXH3-64 over (cluster_id, applied_to, digest).
  checksum   INTEGER NOT NULL
) STRICT;

CREATE TABLE learned (
  slot        INTEGER PRIMARY KEY,
  -- An encoded Value; empty is the no-op.
  value       BLOB    NOT NULL,
  traceparent BLOB    NOT NULL,
  -- What became of its commands, as far as they did not just what they asked for; empty when all did.
  judgements  BLOB    NOT NULL,
  -- XXH3-64 over (cluster_id, slot, value, traceparent, judgements).
  checksum    INTEGER NOT NULL
) STRICT;

-- What each key holds.
CREATE TABLE register (
  key           BLOB    PRIMARY KEY,
  value         BLOB    NOT NULL,
  -- The version of the command that wrote it.
  slot          INTEGER NOT NULL,
  command       INTEGER NOT NULL,
  -- XXH3-64 over (cluster_id, key, value, slot, command).
  checksum      INTEGER NOT NULL
) STRICT;

-- The sessions that have not expired, each by the version of its opening.
CREATE TABLE session (
  slot     INTEGER NOT NULL,
  command  INTEGER NOT NULL,
  -- Its opener, its last use, `acked_below`, and the outcomes recorded.
  content  BLOB    NOT NULL,
  -- XXH3-64 over (cluster_id, slot, command, content).
  checksum INTEGER NOT NULL,
  PRIMARY KEY (slot, command)
) STRICT;

-- The rolling hash as it was at every multiple of 1,024 slots, for comparing learners that have come less far.
CREATE TABLE digest (
  applied_to INTEGER PRIMARY KEY,
  digest     BLOB NOT NULL
) STRICT;
