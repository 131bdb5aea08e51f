use sqlx::{AssertSqlSafe, SqliteConnection};

use super::credential::CREDENTIAL;
use super::*;
use crate::model::id::ConnectionId;
use crate::vault::change::Change;
use crate::vault::fixture::{Home, environment};

/// Two organizations with two connections and a secret each, and the database open for damage.
struct Setting {
    home: Home,
    database: Database,
    raw: SqliteConnection,
    organizations: [OrganizationId; 2],
    connections: [ConnectionId; 4],
}

impl Setting {
    async fn new() -> Self {
        let home = Home::new();
        let database = home.open().await;
        let organizations = [database.default_organization().await, OrganizationId::generate()];
        let (id, name) = (organizations[1], "Acme".to_owned());
        database.put(Change::CreateOrganization { id, key: "acme".parse().unwrap(), name }).await;
        let mut connections = Vec::new();
        for organization in organizations {
            for key in ["one", "two"] {
                let connection = database.put_connection(organization, key).await;
                database.put_token(organization, connection, "production", &format!("production {key}")).await;
                database.put_token(organization, connection, "staging", &format!("staging {key}")).await;
                connections.push(connection);
            }
            database.put_secret(organization, "A", "production", "a").await;
            database.put_secret(organization, "B", "production", "b").await;
        }
        let raw = home.raw().await;
        Setting { raw, database, organizations, connections: connections.try_into().unwrap(), home }
    }

    /// A copy of it all.
    async fn killed(&self) -> Self {
        let home = self.home.killed();
        let (organizations, connections) = (self.organizations, self.connections);
        Setting { database: home.open().await, raw: home.raw().await, organizations, connections, home }
    }

    async fn damage(&mut self, sql: &str) {
        let done = sqlx::query(AssertSqlSafe(sql.to_owned())).execute(&mut self.raw).await.unwrap();
        assert!(done.rows_affected() > 0, "{sql}");
    }

    /// Which of the eight credentials do not open.
    async fn corrupt(&self) -> Vec<String> {
        let mut corrupt = Vec::new();
        for (index, connection) in self.connections.into_iter().enumerate() {
            for env in ["production", "staging"] {
                match self.database.token(self.organizations[index / 2], connection, env).await {
                    Ok(token) => assert!(token.unwrap().starts_with(env)),
                    Err(DatabaseError::Corrupt { .. }) => corrupt.push(format!("{index} {env}")),
                    Err(error) => panic!("{error}"),
                }
            }
        }
        corrupt
    }
}

#[tokio::test]
async fn a_value_that_was_moved_does_not_open() {
    let setting = Setting::new().await;
    let [one, two, other, _] = setting.connections.map(|id| id.to_string());
    let copy = |to: &str, from: &str| {
        format!(
            "UPDATE credentials SET (version, key_id, nonce, ciphertext) = \
             (SELECT version, key_id, nonce, ciphertext FROM credentials WHERE {from}) WHERE {to}"
        )
    };
    let row = |connection: &str, env: &str, field: &str| {
        format!("connection_id = '{connection}' AND environment = '{env}' AND field = '{field}'")
    };
    let moves = [
        copy(&row(&one, "production", "token"), &row(&two, "production", "token")),
        copy(&row(&one, "production", "token"), &row(&one, "staging", "token")),
        copy(&row(&one, "production", "token"), &row(&one, "production", "@binding")),
        copy(&row(&one, "production", "token"), &row(&other, "production", "token")),
        copy(&row(&one, "production", "@binding"), &row(&two, "production", "@binding")),
        format!(
            "UPDATE credentials SET (version, key_id, nonce, ciphertext) = (SELECT version, key_id, nonce, ciphertext \
             FROM secret_values LIMIT 1) WHERE {}",
            row(&one, "production", "token")
        ),
        format!("UPDATE credentials SET field = 'tokem' WHERE {}", row(&one, "production", "token")),
        format!("UPDATE credentials SET version = version + 1 WHERE {}", row(&one, "production", "token")),
        format!("UPDATE credentials SET key_id = 'key_none' WHERE {}", row(&one, "production", "token")),
        format!("DELETE FROM credentials WHERE {}", row(&one, "production", "token")),
        format!("DELETE FROM credentials WHERE {}", row(&one, "production", "@binding")),
    ];
    for sql in moves {
        let mut copy = setting.killed().await;
        assert_eq!(copy.corrupt().await, [""; 0]);
        copy.damage(&sql).await;
        assert_eq!(copy.corrupt().await, ["0 production"], "{sql}");
    }
}

#[tokio::test]
async fn a_credential_of_two_versions_does_not_open() {
    let mut setting = Setting::new().await;
    let [connection, ..] = setting.connections;
    let [organization, _] = setting.organizations;
    sqlx::query("CREATE TEMPORARY TABLE old AS SELECT * FROM credentials").execute(&mut setting.raw).await.unwrap();
    setting.database.put_token(organization, connection, "production", "production, rotated").await;
    let row = format!("connection_id = '{connection}' AND environment = 'production' AND field = 'token'");
    setting.damage(&format!("DELETE FROM credentials WHERE {row}")).await;
    setting.damage(&format!("INSERT INTO credentials SELECT * FROM old WHERE {row}")).await;
    assert_eq!(setting.corrupt().await, ["0 production"]);
}

#[tokio::test]
async fn any_flipped_bit_of_a_row_fails_that_row_only() {
    let mut setting = Setting::new().await;
    let [connection, ..] = setting.connections;
    let row = format!("connection_id = '{connection}' AND environment = 'production' AND field = 'token'");
    let (nonce, ciphertext, version): (Vec<u8>, Vec<u8>, i64) =
        sqlx::query_as(AssertSqlSafe(format!("SELECT nonce, ciphertext, version FROM credentials WHERE {row}")))
            .fetch_one(&mut setting.raw)
            .await
            .unwrap();
    let mut flips = Vec::new();
    for (column, bytes) in [("nonce", &nonce), ("ciphertext", &ciphertext)] {
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let hex: String = flipped.iter().map(|byte| format!("{byte:02x}")).collect();
            flips.push((format!("{column} = x'{hex}'"), column, bytes.clone()));
        }
    }
    let [organization, _] = setting.organizations;
    for (flip, column, original) in flips {
        setting.damage(&format!("UPDATE credentials SET {flip} WHERE {row}")).await;
        let read = setting.database.token(organization, connection, "production").await;
        assert!(matches!(read, Err(DatabaseError::Corrupt { .. })), "{flip}");
        let hex: String = original.iter().map(|byte| format!("{byte:02x}")).collect();
        setting.damage(&format!("UPDATE credentials SET {column} = x'{hex}' WHERE {row}")).await;
    }
    for bit in 0..64 {
        setting.damage(&format!("UPDATE credentials SET version = {} WHERE {row}", version ^ (1 << bit))).await;
        let read = setting.database.token(organization, connection, "production").await;
        assert!(matches!(read, Err(DatabaseError::Corrupt { .. })), "bit {bit} of the version");
    }
    assert_eq!(setting.corrupt().await, ["0 production"]);
    setting.damage(&format!("UPDATE credentials SET version = {version} WHERE {row}")).await;
    assert_eq!(setting.corrupt().await, [""; 0]);
}

#[tokio::test]
async fn a_damaged_data_key_fails_its_organization_only() {
    let mut setting = Setting::new().await;
    let [default, acme] = setting.organizations;
    for damage in
        ["nonce = zeroblob(12)", "ciphertext = zeroblob(48)", "master_key_id = 'mk_none'", "purpose = 'digest'"]
    {
        sqlx::query("CREATE TEMPORARY TABLE kept AS SELECT * FROM data_keys").execute(&mut setting.raw).await.unwrap();
        setting.damage(&format!("UPDATE data_keys SET {damage} WHERE organization_id = '{default}'")).await;
        let expected = ["0 production", "0 staging", "1 production", "1 staging"];
        assert_eq!(setting.corrupt().await, expected, "{damage}");
        setting.damage("REPLACE INTO data_keys SELECT * FROM kept").await;
        sqlx::query("DROP TABLE kept").execute(&mut setting.raw).await.unwrap();
    }
    assert_eq!(setting.corrupt().await, [""; 0]);
    // A key given to another organization opens for neither.
    let swap = format!(
        "UPDATE data_keys SET organization_id = CASE organization_id WHEN '{default}' THEN '{acme}' ELSE '{default}' \
         END WHERE purpose = 'values'"
    );
    setting.damage(&swap).await;
    assert_eq!(setting.corrupt().await.len(), 8);
}

#[tokio::test]
async fn a_secret_that_was_moved_does_not_open() {
    let mut setting = Setting::new().await;
    let [organization, other] = setting.organizations;
    let id = async |setting: &Setting, organization, key: &str| {
        let key: SecretKey = key.parse().unwrap();
        setting.database.secret_summary(organization, &key).await.unwrap().unwrap().id
    };
    let read = async |setting: &Setting, organization, key: &str| {
        setting.database.secret(organization, &key.parse().unwrap(), &environment("production")).await
    };
    let (a, b) = (id(&setting, organization, "A").await, id(&setting, organization, "B").await);
    let copy = format!(
        "UPDATE secret_values SET (version, key_id, nonce, ciphertext) = \
         (SELECT version, key_id, nonce, ciphertext FROM secret_values WHERE secret_id = '{b}') WHERE secret_id = '{a}'"
    );
    setting.damage(&copy).await;
    assert!(matches!(read(&setting, organization, "A").await, Err(DatabaseError::Corrupt { what: "secret", .. })));
    assert!(read(&setting, organization, "B").await.unwrap().is_some());
    assert!(read(&setting, other, "A").await.unwrap().is_some());
    // Renaming a secret in the file does not rename its value.
    setting.damage(&format!("UPDATE secrets SET key = 'C' WHERE id = '{b}'")).await;
    assert!(matches!(read(&setting, organization, "C").await, Err(DatabaseError::Corrupt { .. })));
}

#[tokio::test]
async fn facts_that_cannot_be_read_fail_that_row_only() {
    let mut setting = Setting::new().await;
    let [organization, _] = setting.organizations;
    let [one, two, ..] = setting.connections.map(ConnectionRef::Id);
    for damage in [
        "values_json = '{'",
        "values_json = '{\"Not a name\": \"x\"}'",
        "limit_json = '{\"per_second\": 0}'",
        "integration = 'NOT A SLUG'",
        "customer = 'a b'",
        "key = char(0)",
        "auth = '../x'",
    ] {
        sqlx::query("CREATE TEMPORARY TABLE kept AS SELECT * FROM connections")
            .execute(&mut setting.raw)
            .await
            .unwrap();
        setting.damage(&format!("UPDATE connections SET {damage} WHERE id = '{one}'")).await;
        let read = setting.database.connection(organization, None, &one).await;
        assert!(matches!(read, Err(DatabaseError::Corrupt { what: "connection", .. })), "{damage}: {read:?}");
        assert!(setting.database.connection(organization, None, &two).await.unwrap().is_some());
        setting.damage("REPLACE INTO connections SELECT * FROM kept").await;
        sqlx::query("DROP TABLE kept").execute(&mut setting.raw).await.unwrap();
    }
    assert!(setting.database.connection(organization, None, &one).await.unwrap().is_some());
}

/// However many there are: what is asked for one credential is looked up by its connection.
#[tokio::test]
async fn a_credential_is_found_by_its_connection_and_not_among_all() {
    let home = Home::new();
    let database = home.open().await;
    let plan: Vec<(i64, i64, i64, String)> = sqlx::query_as(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {CREDENTIAL}")))
        .bind("conn_")
        .bind("org_")
        .bind("production")
        .fetch_all(&database.inner.readers)
        .await
        .unwrap();
    let first = &plan[0].3;
    assert!(first.contains("(connection_id=? AND environment=?)"), "{first}");
}
