-- The stored state of a learner, version 4 of the schema. Everything here can be learned again from the acceptors.

-- One row: the progress of this learner. The row changes in the same transaction as the rows below `applied_to`.
CREATE TABLE state (
  one          INTEGER PRIMARY KEY CHECK (one = 1),
  cluster_id   BLOB    NOT NULL,
  -- Exclusive: registers and sessions are as after every slot below.
  applied_to   INTEGER NOT NULL,
  -- `learned` holds the slots from this one on and below `applied_to`, and no other.
  log_from     INTEGER NOT NULL,
  -- Rolling hash over (slot, value) of every slot below `applied_to`.
  digest       BLOB    NOT NULL,
  -- The digest of the state: the sum of the hashes of all registers, sessions and recorded outcomes.
  state_digest BLOB    NOT NULL,
  -- XXH3-64 over (cluster_id, applied_to, log_from, digest, state_digest).
  checksum     INTEGER NOT NULL
) STRICT;

CREATE TABLE learned (
  slot        INTEGER PRIMARY KEY,
  -- An encoded Value; empty for the no-op.
  value       BLOB    NOT NULL,
  traceparent BLOB    NOT NULL,
  -- The judgements of the commands that did not just take effect; empty when all commands took effect.
  judgements  BLOB    NOT NULL,
  -- XXH3-64 over (cluster_id, slot, value, traceparent, judgements).
  checksum    INTEGER NOT NULL
) STRICT;

-- The value of each key.
CREATE TABLE register (
  key           BLOB    PRIMARY KEY,
  value         BLOB    NOT NULL,
  -- The version of the command that wrote the value.
  slot          INTEGER NOT NULL,
  command       INTEGER NOT NULL,
  -- XXH3-64 over (cluster_id, key, value, slot, command).
  checksum      INTEGER NOT NULL
) STRICT;

-- The unexpired sessions, each named by the version of its opening.
CREATE TABLE session (
  slot     INTEGER NOT NULL,
  command  INTEGER NOT NULL,
  -- The opener, the last use, `acked_below`, and the recorded outcomes.
  content  BLOB    NOT NULL,
  -- XXH3-64 over (cluster_id, slot, command, content).
  checksum INTEGER NOT NULL,
  PRIMARY KEY (slot, command)
) STRICT;

-- The digests at every multiple of 1,024 slots, for comparison with learners that have applied less.
CREATE TABLE digest (
  applied_to INTEGER PRIMARY KEY,
  -- The rolling hash.
  digest     BLOB NOT NULL,
  -- The digest of the state.
  state      BLOB NOT NULL
) STRICT;
