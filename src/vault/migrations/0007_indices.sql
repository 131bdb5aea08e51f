-- Nothing is looked for row by row, however many connections an organization has.

-- The name comes first, so that nobody who looks for one connection's rows is led to all of an organization's.
DROP INDEX credentials_by_environment;
CREATE INDEX credentials_by_environment ON credentials (environment, organization_id);
DROP INDEX credential_entries_by_environment;
CREATE INDEX credential_entries_by_environment ON credential_entries (environment, organization_id);
DROP INDEX secret_values_by_environment;
CREATE INDEX secret_values_by_environment ON secret_values (environment, organization_id);

-- Pages of lists, in their order.
DROP INDEX connections_by_integration;
CREATE INDEX connections_by_integration ON connections (organization_id, integration, customer, key);
CREATE INDEX connections_by_exposure ON connections (organization_id, exposed, customer, key);

-- The labels of connections, for lists; `labels_json` is what a connection is read from.
CREATE TABLE connection_labels (
    connection_id   TEXT NOT NULL REFERENCES connections (id) ON DELETE CASCADE,
    organization_id TEXT NOT NULL,
    label           TEXT NOT NULL,
    customer        TEXT NOT NULL,
    key             TEXT NOT NULL,
    PRIMARY KEY (connection_id, label)
) STRICT, WITHOUT ROWID;

INSERT INTO connection_labels (connection_id, organization_id, label, customer, key)
    SELECT DISTINCT c.id, c.organization_id, label.value, c.customer, c.key
    FROM connections c, json_each(c.labels_json) AS label;

CREATE INDEX connections_by_label ON connection_labels (organization_id, label, customer, key);
