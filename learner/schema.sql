-- The stored log of a learner, version 6 of the schema. Everything here can be learned again from the acceptors.
--
-- The state machine is not here: a snapshot file beside this file has the state after every slot below `snapshot_to`, and
-- each start applies the slots from there on and below `applied_to` again.

-- One row: the progress of this learner. The row changes in the same transaction as the rows below `applied_to`.
CREATE TABLE state (
  one             INTEGER PRIMARY KEY CHECK (one = 1),
  cluster_id      BLOB    NOT NULL,
  -- Exclusive: every slot below is applied.
  applied_to      INTEGER NOT NULL,
  -- Readers get the slots from this one on and below `applied_to`.
  log_from        INTEGER NOT NULL,
  -- Rolling hash over (slot, value) of every slot below `applied_to`.
  digest          BLOB    NOT NULL,
  -- The digest of the state after every slot below `applied_to`: the sum of the hashes of all registers, sessions and
  -- recorded outcomes.
  state_digest    BLOB    NOT NULL,
  -- The snapshot file: the end, the SHA-256 in the name and at the end of the file, and the length in bytes. Without a file:
  -- 0, empty, 0, and the empty state.
  snapshot_to     INTEGER NOT NULL,
  snapshot_sha256 BLOB    NOT NULL,
  snapshot_bytes  INTEGER NOT NULL,
  -- XXH3-64 over (cluster_id, applied_to, log_from, digest, state_digest, snapshot_to, snapshot_sha256, snapshot_bytes), and
  -- over the configuration, unless empty.
  checksum        INTEGER NOT NULL,
  -- The latest configuration of the cluster that this learner has worked with: an encoded Configuration. Never below a change
  -- of members below `applied_to`. Empty in a file upgraded from version 5, which knew the first era alone.
  configuration   BLOB    NOT NULL DEFAULT x''
) STRICT;

-- Every slot from `state.snapshot_to` on and below `state.applied_to`, and the lower slots from `state.log_from` on.
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

-- The digests at every multiple of 1,024 slots, for comparison with learners that have applied less.
CREATE TABLE digest (
  applied_to INTEGER PRIMARY KEY,
  -- The rolling hash.
  digest     BLOB NOT NULL,
  -- The digest of the state.
  state      BLOB NOT NULL,
  -- XXH3-64 over (cluster_id, applied_to, digest, state).
  checksum   INTEGER NOT NULL
) STRICT;
