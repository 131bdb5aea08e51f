-- What API keys may do, and until when. `previous_digest` is the digest of the secret that was replaced last, which is
-- of use until `previous_until`.
ALTER TABLE api_keys ADD COLUMN status          TEXT    NOT NULL DEFAULT 'active';
ALTER TABLE api_keys ADD COLUMN scope_json      TEXT    NOT NULL DEFAULT '{}';
ALTER TABLE api_keys ADD COLUMN limits_json     TEXT    NOT NULL DEFAULT '{}';
ALTER TABLE api_keys ADD COLUMN environment     TEXT;
ALTER TABLE api_keys ADD COLUMN owner_id        TEXT;
ALTER TABLE api_keys ADD COLUMN expires_at      INTEGER;
ALTER TABLE api_keys ADD COLUMN rotated_at      INTEGER;
ALTER TABLE api_keys ADD COLUMN previous_digest BLOB;
ALTER TABLE api_keys ADD COLUMN previous_until  INTEGER;
ALTER TABLE api_keys ADD COLUMN last_used_at    INTEGER;

DROP INDEX api_keys_by_organization;
CREATE INDEX api_keys_by_organization ON api_keys (organization_id, id);
CREATE INDEX api_keys_by_owner ON api_keys (owner_id) WHERE owner_id IS NOT NULL;

-- How many requests all callers of an organization may make together. The number says which of two values is newer.
CREATE TABLE request_ceilings (
    organization_id TEXT    NOT NULL PRIMARY KEY REFERENCES organizations (id) ON DELETE CASCADE,
    per_minute      INTEGER,
    per_hour        INTEGER,
    number          INTEGER NOT NULL
) STRICT;
