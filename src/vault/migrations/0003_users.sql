-- People. What proves who they are stands apart from who they are: as a hash, or as the name an identity provider has
-- for them.

CREATE TABLE users (
    id              TEXT    NOT NULL PRIMARY KEY,
    organization_id TEXT    NOT NULL REFERENCES organizations (id),
    email           TEXT    NOT NULL,
    first_name      TEXT    NOT NULL,
    last_name       TEXT    NOT NULL,
    method          TEXT    NOT NULL,
    roles_json      TEXT    NOT NULL,
    status          TEXT    NOT NULL,
    password_hash   TEXT,
    issuer          TEXT,
    subject         TEXT,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    last_sign_in_at INTEGER,
    UNIQUE (organization_id, email)
) STRICT;

CREATE UNIQUE INDEX users_by_subject ON users (organization_id, issuer, subject) WHERE subject IS NOT NULL;

-- One-time links. One without a user makes a super admin. A used one stays a while, so that its second use is told
-- from a link that never was.
CREATE TABLE links (
    id              TEXT    NOT NULL PRIMARY KEY,
    organization_id TEXT    NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    user_id         TEXT    REFERENCES users (id) ON DELETE CASCADE,
    digest          BLOB    NOT NULL,
    created_at      INTEGER NOT NULL,
    expires_at      INTEGER NOT NULL,
    used_at         INTEGER
) STRICT;

CREATE INDEX links_by_user ON links (user_id);
CREATE INDEX links_by_expiry ON links (expires_at);

CREATE TABLE sessions (
    id              TEXT    NOT NULL PRIMARY KEY,
    organization_id TEXT    NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    user_id         TEXT    NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    digest          BLOB    NOT NULL,
    address         TEXT    NOT NULL,
    agent           TEXT    NOT NULL,
    created_at      INTEGER NOT NULL,
    used_at         INTEGER NOT NULL,
    expires_at      INTEGER NOT NULL
) STRICT;

CREATE INDEX sessions_by_user ON sessions (user_id, id);
CREATE INDEX sessions_by_organization ON sessions (organization_id, id);
CREATE INDEX sessions_by_expiry ON sessions (expires_at);
