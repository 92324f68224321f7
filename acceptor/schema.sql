-- Durable state of an acceptor. Schema version 4, in PRAGMA user_version; upgrade.rs reads the versions 1 to 3.
--
-- Every table but promise has checksums: XXH3-64 over the columns named beside the checksum, each preceded by its
-- length; integers as 8 bytes, little-endian. Slots, eras, rounds and proposers are below 2^63.

-- The acceptor's identity; never changes.
CREATE TABLE identity (
    only INTEGER PRIMARY KEY CHECK (only = 0),
    -- 16 random bytes.
    uuid BLOB NOT NULL,
    -- The operator's name for the acceptor.
    name TEXT NOT NULL,
    -- uuid, name
    checksum INTEGER NOT NULL
) STRICT;

-- Changed by every commit.
CREATE TABLE state (
    only INTEGER PRIMARY KEY CHECK (only = 0),
    -- Incremented by each commit.
    commit_counter INTEGER NOT NULL,
    -- The highest promised ballot, and the address of its proposer.
    promised_era INTEGER NOT NULL DEFAULT 0,
    promised_round INTEGER NOT NULL,
    promised_proposer INTEGER NOT NULL,
    leader_address TEXT NOT NULL,
    -- Every slot below is chosen, and the votes here hold the chosen values. May trail the watermark in memory.
    chosen_to INTEGER NOT NULL,
    -- The first slot of the log: no vote below is shown, and rows below are being deleted. The end of the bottom.
    trimmed_to INTEGER NOT NULL,
    -- The slot after the highest slot with a vote; at least chosen_to and trimmed_to.
    voted_to INTEGER NOT NULL,
    -- Sum of the checksums of the slots with a vote from chosen_to on, modulo 2^64: proves that no such row is gone.
    open_slots INTEGER NOT NULL,
    -- The oldest protocol version whose callers this acceptor still serves: 3 once the members were to change.
    least_version INTEGER NOT NULL DEFAULT 1,
    -- uuid, then the columns above from commit_counter on. promised_era and least_version are the last two of them, and
    -- left out while they are 0 and 1.
    checksum INTEGER NOT NULL
) STRICT;

-- The cluster; no row before the acceptor belongs to a cluster.
CREATE TABLE membership (
    only INTEGER PRIMARY KEY CHECK (only = 0),
    -- 0: stored, and every other configuration is refused; 1: a voting member.
    formed INTEGER NOT NULL,
    -- An encoded paxos.v1.Configuration.
    configuration BLOB NOT NULL,
    -- uuid, formed, configuration
    checksum INTEGER NOT NULL
) STRICT;

-- The snapshot files in the same directory, each whole and durable before its record: snapshot-UNTIL-HASH.pxs, with the
-- first 4 bytes of sha256 as HASH in hexadecimal digits. In an acceptor without a formed cluster, the waiting snapshot is
-- the seed of a restored cluster.
CREATE TABLE snapshot (
    -- 0: the bottom, the snapshot to trimmed_to; present after the first trim. 1: a newer snapshot, waiting for a trim.
    place INTEGER PRIMARY KEY CHECK (place IN (0, 1)),
    -- The snapshot holds the result of every slot below.
    until INTEGER NOT NULL,
    -- SHA-256 of the file.
    sha256 BLOB NOT NULL,
    -- Size of the file.
    bytes INTEGER NOT NULL,
    -- Size of the log, the used pages of this file, at the time of the record.
    log_bytes INTEGER NOT NULL,
    -- uuid, then the columns above from place on
    checksum INTEGER NOT NULL
) STRICT;

-- Process lifetimes, ascending.
CREATE TABLE run (
    position INTEGER PRIMARY KEY,
    number INTEGER NOT NULL,
    -- Commit counter at the end of the run; NULL for the present run.
    ended INTEGER
) STRICT;

-- Remembered runs of other acceptors: the highest commit counter heard of each run. For each acceptor, a few runs are
-- kept: the runs with the highest counters.
CREATE TABLE witness (
    acceptor BLOB NOT NULL,
    run INTEGER NOT NULL,
    commit_counter INTEGER NOT NULL,
    -- uuid, acceptor, run, commit_counter
    checksum INTEGER NOT NULL,
    PRIMARY KEY (acceptor, run)
) STRICT, WITHOUT ROWID;

-- Accepted values: the latest vote of each slot.
CREATE TABLE vote (
    slot INTEGER PRIMARY KEY,
    era INTEGER NOT NULL DEFAULT 0,
    round INTEGER NOT NULL,
    proposer INTEGER NOT NULL,
    -- An encoded paxos.v1.Value; empty is the no-op.
    value BLOB NOT NULL,
    -- W3C trace context; empty when unsampled.
    traceparent TEXT NOT NULL,
    -- cluster id, uuid, slot, round, proposer, value, and the era if above 0
    checksum INTEGER NOT NULL
) STRICT;

-- The last promises, for people only.
CREATE TABLE promise (
    position INTEGER PRIMARY KEY,
    era INTEGER NOT NULL DEFAULT 0,
    round INTEGER NOT NULL,
    proposer INTEGER NOT NULL,
    address TEXT NOT NULL,
    -- Milliseconds since 1970-01-01 UTC by this machine's clock.
    wall_time_ms INTEGER NOT NULL
) STRICT;
