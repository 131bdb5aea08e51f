-- Facts stand in clear, values are sealed. A sealed value names its data key and stands beside its nonce.

CREATE TABLE meta (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

CREATE TABLE organizations (
    id         TEXT    NOT NULL PRIMARY KEY,
    key        TEXT    NOT NULL UNIQUE,
    name       TEXT    NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE environments (
    organization_id TEXT    NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    name            TEXT    NOT NULL,
    position        INTEGER NOT NULL,
    PRIMARY KEY (organization_id, name)
) STRICT;

-- A key without an organization serves the whole vault.
CREATE TABLE data_keys (
    id              TEXT    NOT NULL PRIMARY KEY,
    organization_id TEXT    REFERENCES organizations (id) ON DELETE CASCADE,
    purpose         TEXT    NOT NULL,
    master_key_id   TEXT    NOT NULL,
    nonce           BLOB    NOT NULL,
    ciphertext      BLOB    NOT NULL,
    seals           INTEGER NOT NULL,
    created_at      INTEGER NOT NULL
) STRICT;

CREATE INDEX data_keys_by_organization ON data_keys (organization_id, purpose, id);

CREATE TABLE integrations (
    id              TEXT    NOT NULL PRIMARY KEY,
    organization_id TEXT    NOT NULL REFERENCES organizations (id),
    slug            TEXT    NOT NULL,
    document        TEXT    NOT NULL,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    UNIQUE (organization_id, slug)
) STRICT;

-- The organization's own connections have the customer ''.
CREATE TABLE connections (
    id              TEXT    NOT NULL PRIMARY KEY,
    organization_id TEXT    NOT NULL REFERENCES organizations (id),
    customer        TEXT    NOT NULL,
    key             TEXT    NOT NULL,
    name            TEXT,
    integration     TEXT    NOT NULL,
    auth            TEXT,
    values_json     TEXT    NOT NULL,
    limit_json      TEXT,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    UNIQUE (organization_id, customer, key),
    UNIQUE (id, organization_id)
) STRICT;

CREATE INDEX connections_by_integration ON connections (organization_id, integration);

CREATE TABLE credentials (
    connection_id   TEXT    NOT NULL,
    organization_id TEXT    NOT NULL,
    environment     TEXT    NOT NULL,
    field           TEXT    NOT NULL,
    version         INTEGER NOT NULL,
    key_id          TEXT    NOT NULL REFERENCES data_keys (id),
    nonce           BLOB    NOT NULL,
    ciphertext      BLOB    NOT NULL,
    PRIMARY KEY (connection_id, environment, field),
    FOREIGN KEY (connection_id, organization_id) REFERENCES connections (id, organization_id) ON DELETE CASCADE,
    FOREIGN KEY (organization_id, environment) REFERENCES environments (organization_id, name)
) STRICT;

CREATE INDEX credentials_by_environment ON credentials (organization_id, environment);
CREATE INDEX credentials_by_key ON credentials (key_id);

CREATE TABLE secrets (
    id              TEXT    NOT NULL PRIMARY KEY,
    organization_id TEXT    NOT NULL REFERENCES organizations (id),
    key             TEXT    NOT NULL,
    description     TEXT,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    UNIQUE (organization_id, key),
    UNIQUE (id, organization_id)
) STRICT;

CREATE TABLE secret_values (
    secret_id       TEXT    NOT NULL,
    organization_id TEXT    NOT NULL,
    environment     TEXT    NOT NULL,
    version         INTEGER NOT NULL,
    key_id          TEXT    NOT NULL REFERENCES data_keys (id),
    nonce           BLOB    NOT NULL,
    ciphertext      BLOB    NOT NULL,
    PRIMARY KEY (secret_id, environment),
    FOREIGN KEY (secret_id, organization_id) REFERENCES secrets (id, organization_id) ON DELETE CASCADE,
    FOREIGN KEY (organization_id, environment) REFERENCES environments (organization_id, name)
) STRICT;

CREATE INDEX secret_values_by_environment ON secret_values (organization_id, environment);
CREATE INDEX secret_values_by_key ON secret_values (key_id);

CREATE TABLE api_keys (
    id              TEXT    NOT NULL PRIMARY KEY,
    organization_id TEXT    NOT NULL REFERENCES organizations (id),
    name            TEXT    NOT NULL,
    digest          BLOB    NOT NULL,
    roles_json      TEXT    NOT NULL,
    created_at      INTEGER NOT NULL
) STRICT;

CREATE INDEX api_keys_by_organization ON api_keys (organization_id);

-- Events outlive what they tell of.
CREATE TABLE audit (
    id              TEXT    NOT NULL PRIMARY KEY,
    organization_id TEXT    NOT NULL,
    at              INTEGER NOT NULL,
    actor           TEXT    NOT NULL,
    action          TEXT    NOT NULL,
    object          TEXT    NOT NULL,
    detail          TEXT    NOT NULL
) STRICT;

CREATE INDEX audit_by_organization ON audit (organization_id, id);
