-- What a learner keeps, version 1 of the schema. Everything here can be learned again from the acceptors.

-- One row: how far this learner has come. It changes in the transaction that brings the rows it speaks of.
CREATE TABLE state (
  one        INTEGER PRIMARY KEY CHECK (one = 1),
  cluster_id BLOB    NOT NULL,
  -- Exclusive: `learned` holds every slot below it, and none from it on.
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
  -- XXH3-64 over (cluster_id, slot, value, traceparent).
  checksum    INTEGER NOT NULL
) STRICT;

-- The rolling hash as it was at every multiple of 1,024 slots, for comparing learners that have come less far.
CREATE TABLE digest (
  applied_to INTEGER PRIMARY KEY,
  digest     BLOB NOT NULL
) STRICT;
