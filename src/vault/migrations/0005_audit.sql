-- The events of an organization (and those of the vault itself, whose organization is '') are a chain: each is numbered
-- and authenticated together with the one before it. Events without a number are older than their chain, which begins with
-- them when the vault is opened.
ALTER TABLE audit ADD COLUMN address TEXT;
ALTER TABLE audit ADD COLUMN request_id TEXT NOT NULL DEFAULT '';
ALTER TABLE audit ADD COLUMN sequence INTEGER;
ALTER TABLE audit ADD COLUMN key_id TEXT;
ALTER TABLE audit ADD COLUMN mac BLOB;

CREATE UNIQUE INDEX audit_by_sequence ON audit (organization_id, sequence);
CREATE INDEX audit_unnumbered ON audit (organization_id) WHERE sequence IS NULL;
CREATE INDEX audit_by_time ON audit (organization_id, at);
CREATE INDEX audit_by_actor ON audit (organization_id, actor, sequence);
CREATE INDEX audit_by_action ON audit (organization_id, action, sequence);
CREATE INDEX audit_by_object ON audit (organization_id, object, sequence);

-- Where each chain ends.
CREATE TABLE audit_chains (
    organization_id TEXT    NOT NULL PRIMARY KEY,
    count           INTEGER NOT NULL,
    head            BLOB    NOT NULL
) STRICT;

-- How often a caller used a connection in an hour (hours since 1970).
CREATE TABLE audit_usage (
    organization_id TEXT    NOT NULL,
    connection_id   TEXT    NOT NULL,
    caller          TEXT    NOT NULL,
    environment     TEXT    NOT NULL,
    hour            INTEGER NOT NULL,
    count           INTEGER NOT NULL,
    last_at         INTEGER NOT NULL,
    PRIMARY KEY (organization_id, hour, connection_id, caller, environment)
) STRICT, WITHOUT ROWID;

CREATE INDEX audit_usage_by_age ON audit_usage (hour);
CREATE INDEX audit_usage_by_connection ON audit_usage (organization_id, connection_id, hour);
