-- What people manage: who sees a connection and what is told of it, which credential refers to which secret, the
-- versions of integrations, and what was answered to requests that may be sent again.
--
-- A `version` is a random number that is drawn anew with every change of its row, so that a row that was deleted and
-- made again never looks like the one before.

ALTER TABLE organizations ADD COLUMN version INTEGER NOT NULL DEFAULT 0;

ALTER TABLE environments ADD COLUMN version  INTEGER NOT NULL DEFAULT 0;
ALTER TABLE environments ADD COLUMN designer INTEGER NOT NULL DEFAULT 0;

ALTER TABLE secrets ADD COLUMN version INTEGER NOT NULL DEFAULT 0;

ALTER TABLE connections ADD COLUMN version     INTEGER NOT NULL DEFAULT 0;
ALTER TABLE connections ADD COLUMN visibility  TEXT    NOT NULL DEFAULT 'organization';
ALTER TABLE connections ADD COLUMN owner_id    TEXT;
ALTER TABLE connections ADD COLUMN labels_json TEXT    NOT NULL DEFAULT '[]';
ALTER TABLE connections ADD COLUMN exposed     INTEGER NOT NULL DEFAULT 0;

CREATE INDEX connections_by_owner ON connections (owner_id) WHERE owner_id IS NOT NULL;

-- One without an organization is the whole system's.
CREATE TABLE new_integrations (
    id              TEXT    NOT NULL PRIMARY KEY,
    organization_id TEXT    REFERENCES organizations (id),
    slug            TEXT    NOT NULL,
    document        TEXT    NOT NULL,
    number          INTEGER NOT NULL,
    version         INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    -- Since when its requests go to these hosts.
    moved_at        INTEGER NOT NULL
) STRICT;

INSERT INTO new_integrations (id, organization_id, slug, document, number, version, created_at, updated_at, moved_at)
    SELECT id, organization_id, slug, document, 1, 0, created_at, updated_at, updated_at FROM integrations;
DROP TABLE integrations;
ALTER TABLE new_integrations RENAME TO integrations;

CREATE UNIQUE INDEX integrations_by_slug ON integrations (organization_id, slug) WHERE organization_id IS NOT NULL;
CREATE UNIQUE INDEX integrations_of_all ON integrations (slug) WHERE organization_id IS NULL;

CREATE TABLE integration_versions (
    integration_id TEXT    NOT NULL REFERENCES integrations (id) ON DELETE CASCADE,
    number         INTEGER NOT NULL,
    document       TEXT    NOT NULL,
    actor          TEXT    NOT NULL,
    created_at     INTEGER NOT NULL,
    PRIMARY KEY (integration_id, number)
) STRICT;

INSERT INTO integration_versions (integration_id, number, document, actor, created_at)
    SELECT id, 1, document, '', updated_at FROM integrations;

-- What an organization fills in once for all its connections of an integration.
CREATE TABLE integration_values (
    organization_id TEXT    NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    slug            TEXT    NOT NULL,
    values_json     TEXT    NOT NULL,
    version         INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    PRIMARY KEY (organization_id, slug)
) STRICT;

-- What may be known of a credential without opening it.
CREATE TABLE credential_entries (
    connection_id   TEXT    NOT NULL,
    organization_id TEXT    NOT NULL,
    environment     TEXT    NOT NULL,
    version         INTEGER NOT NULL,
    entered_at      INTEGER NOT NULL,
    expires_at      INTEGER,
    PRIMARY KEY (connection_id, environment),
    FOREIGN KEY (connection_id, organization_id) REFERENCES connections (id, organization_id) ON DELETE CASCADE,
    FOREIGN KEY (organization_id, environment) REFERENCES environments (organization_id, name)
) STRICT;

CREATE INDEX credential_entries_by_environment ON credential_entries (organization_id, environment);

INSERT INTO credential_entries (connection_id, organization_id, environment, version, entered_at)
    SELECT DISTINCT c.connection_id, c.organization_id, c.environment, 0, n.updated_at
    FROM credentials c JOIN connections n ON n.id = c.connection_id;

-- Since when a connection has no credential in an environment where it had one.
CREATE TABLE credential_removals (
    connection_id   TEXT    NOT NULL,
    organization_id TEXT    NOT NULL,
    environment     TEXT    NOT NULL,
    removed_at      INTEGER NOT NULL,
    PRIMARY KEY (connection_id, environment),
    FOREIGN KEY (connection_id, organization_id) REFERENCES connections (id, organization_id) ON DELETE CASCADE
) STRICT;

-- Which secrets the fields of a credential refer to.
CREATE TABLE credential_secrets (
    connection_id   TEXT NOT NULL,
    organization_id TEXT NOT NULL,
    environment     TEXT NOT NULL,
    secret_key      TEXT NOT NULL,
    PRIMARY KEY (connection_id, environment, secret_key),
    FOREIGN KEY (connection_id, environment) REFERENCES credential_entries (connection_id, environment)
        ON DELETE CASCADE ON UPDATE CASCADE
) STRICT;

CREATE INDEX credential_secrets_by_key ON credential_secrets (organization_id, secret_key);

-- When a connection was used last, and whether it was refused then. Declared ones have lines here too.
CREATE TABLE connection_uses (
    organization_id TEXT    NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    connection_id   TEXT    NOT NULL,
    environment     TEXT    NOT NULL,
    used_at         INTEGER NOT NULL,
    refused_at      INTEGER,
    reason          TEXT,
    -- When the upstream said last whether it takes the credential.
    verdict_at      INTEGER,
    PRIMARY KEY (connection_id, environment)
) STRICT;

CREATE INDEX connection_uses_by_organization ON connection_uses (organization_id);

CREATE TABLE connection_workflows (
    organization_id TEXT    NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    connection_id   TEXT    NOT NULL,
    workflow        TEXT    NOT NULL,
    used_at         INTEGER NOT NULL,
    PRIMARY KEY (connection_id, workflow)
) STRICT;

CREATE INDEX connection_workflows_by_organization ON connection_workflows (organization_id);
CREATE INDEX connection_workflows_by_age ON connection_workflows (used_at);

-- What was answered to whoever may ask again. Without a secret in it.
CREATE TABLE answers (
    actor      TEXT    NOT NULL,
    key        TEXT    NOT NULL,
    digest     BLOB    NOT NULL,
    status     INTEGER,
    location   TEXT,
    etag       TEXT,
    body       TEXT,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (actor, key)
) STRICT;

CREATE INDEX answers_by_age ON answers (created_at);
