//! The chain of events: how one is added, and how it is verified.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;
use sqlx::sqlite::SqliteRow;
use sqlx::{Connection, Row, SqliteConnection};
use subtle::ConstantTimeEq;

use super::{Author, Chain, LONGEST_OBJECT, Notice, beginning, hex, kept};
use crate::model::id::EventId;
use crate::vault::change::insert_data_key;
use crate::vault::database::{Database, Inner};
use crate::vault::error::DatabaseError;
use crate::vault::key::{DataKey, MasterKey};
use crate::vault::query;
use crate::vault::schema;
use crate::vault::seal::{Counters, Purpose};

type Mac = [u8; 32];

/// What the first event of a chain is bound to.
const BEGINNING: Mac = [0; 32];

/// How many events are looked at together.
const BATCH: i64 = 1_000;

/// The keys an event can be authenticated with.
pub(in crate::vault) struct Keys<'a> {
    /// The one that wraps a new key.
    pub current: &'a MasterKey,
    /// All that may have wrapped one.
    pub masters: &'a [Arc<MasterKey>],
    /// Where their use is counted.
    pub counters: &'a Counters,
}

impl Keys<'_> {
    fn open(&self, row: &SqliteRow) -> Option<DataKey> {
        let wrapped = query::wrapped_key(row).ok()?;
        let masters = self.masters.iter().map(|master| &**master).chain([self.current]);
        let master = masters.into_iter().find(|master| master.id().as_str() == wrapped.sealed.key_id)?;
        master.unwrap(&wrapped, self.counters)
    }

    /// The key of new events. One that does not open any more is replaced: what it authenticated can no longer be
    /// verified, which a verification says, but what happens now is still recorded.
    async fn newest(&self, connection: &mut SqliteConnection) -> Result<DataKey, DatabaseError> {
        let row = sqlx::query(
            "SELECT id, organization_id, purpose, master_key_id, nonce, ciphertext FROM data_keys \
             WHERE organization_id IS NULL AND purpose = $1 ORDER BY id DESC LIMIT 1",
        )
        .bind(Purpose::Audit.as_str())
        .fetch_optional(&mut *connection)
        .await?;
        if let Some(key) = row.as_ref().and_then(|row| self.open(row)) {
            return Ok(key);
        }
        let key = DataKey::generate(None, Purpose::Audit)?;
        insert_data_key(connection, self.current, &key, self.counters).await?;
        Ok(key)
    }
}

/// What an event says, and where it stands.
struct Entry<'a> {
    chain: &'a str,
    sequence: i64,
    previous: &'a [u8],
    id: &'a str,
    at: i64,
    actor: &'a str,
    action: &'a str,
    object: &'a str,
    detail: &'a str,
    address: Option<&'a str>,
    request_id: &'a str,
}

impl Entry<'_> {
    fn mac(&self, key: &DataKey) -> Mac {
        // An absent address is told from an empty one.
        let (has_address, address) = (if self.address.is_some() { "1" } else { "0" }, self.address.unwrap_or_default());
        let (sequence, at) = (self.sequence.to_be_bytes(), self.at.to_be_bytes());
        key.authenticate_event(
            self.chain.as_bytes(),
            &[
                &sequence,
                self.previous,
                self.id.as_bytes(),
                &at,
                self.actor.as_bytes(),
                self.action.as_bytes(),
                self.object.as_bytes(),
                self.detail.as_bytes(),
                has_address.as_bytes(),
                address.as_bytes(),
                self.request_id.as_bytes(),
            ],
        )
    }
}

/// What happened.
pub(in crate::vault) struct Told<'a> {
    pub action: &'a str,
    pub object: &'a str,
    /// Without a secret.
    pub detail: &'a Value,
}

/// Appends an event to a chain, in the transaction of what it tells of.
pub(in crate::vault) async fn record(
    connection: &mut SqliteConnection,
    keys: &Keys<'_>,
    chain: Chain,
    author: &Author,
    told: Told<'_>,
) -> Result<(), DatabaseError> {
    let (column, key) = (chain.column(), keys.newest(connection).await?);
    let (count, head) = end(connection, &column).await?.unwrap_or((0, BEGINNING.to_vec()));
    let (id, address) = (EventId::generate().to_string(), author.address.map(|address| address.to_string()));
    let detail = told.detail.to_string();
    let entry = Entry {
        chain: &column,
        sequence: count + 1,
        previous: &head,
        id: &id,
        at: schema::now(),
        actor: &author.actor,
        action: told.action,
        object: beginning(told.object, LONGEST_OBJECT),
        detail: &detail,
        address: address.as_deref(),
        request_id: beginning(&author.request_id, LONGEST_OBJECT),
    };
    insert(connection, &entry, &key).await
}

async fn insert(connection: &mut SqliteConnection, entry: &Entry<'_>, key: &DataKey) -> Result<(), DatabaseError> {
    let mac = entry.mac(key);
    sqlx::query(
        "INSERT INTO audit (id, organization_id, at, actor, action, object, detail, address, request_id, sequence, \
         key_id, mac) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
    )
    .bind(entry.id)
    .bind(entry.chain)
    .bind(entry.at)
    .bind(entry.actor)
    .bind(entry.action)
    .bind(entry.object)
    .bind(entry.detail)
    .bind(entry.address)
    .bind(entry.request_id)
    .bind(entry.sequence)
    .bind(&key.id)
    .bind(mac.as_slice())
    .execute(&mut *connection)
    .await?;
    set_end(connection, entry.chain, entry.sequence, &mac).await
}

/// How many events a chain has.
pub(in crate::vault) async fn count(connection: &mut SqliteConnection, chain: Chain) -> Result<i64, DatabaseError> {
    Ok(end(connection, &chain.column()).await?.map_or(0, |(count, _)| count))
}

/// The number and the HMAC of the last event.
async fn end(connection: &mut SqliteConnection, chain: &str) -> Result<Option<(i64, Vec<u8>)>, DatabaseError> {
    let end = sqlx::query_as("SELECT count, head FROM audit_chains WHERE organization_id = $1");
    Ok(end.bind(chain).fetch_optional(connection).await?)
}

async fn set_end(connection: &mut SqliteConnection, chain: &str, count: i64, head: &Mac) -> Result<(), DatabaseError> {
    sqlx::query(
        "INSERT INTO audit_chains (organization_id, count, head) VALUES ($1, $2, $3) \
         ON CONFLICT (organization_id) DO UPDATE SET count = $2, head = $3",
    )
    .bind(chain)
    .bind(count)
    .bind(head.as_slice())
    .execute(connection)
    .await?;
    Ok(())
}

/// Begins the chains of a vault that was written before there were any, with the events it has.
pub(in crate::vault) async fn begin_chains(inner: &Inner) -> Result<(), DatabaseError> {
    let mut writer = inner.writer.acquire().await?;
    let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await?;
    let chains: Vec<String> = sqlx::query_scalar(
        // By the index of these alone, of which there are none after the first start: the planner would read all events.
        "SELECT DISTINCT organization_id FROM audit INDEXED BY audit_unnumbered WHERE sequence IS NULL \
         AND organization_id NOT IN (SELECT organization_id FROM audit_chains)",
    )
    .fetch_all(&mut *transaction)
    .await?;
    if chains.is_empty() {
        return Ok(());
    }
    let (masters, current) = (inner.masters.all(), inner.masters.current());
    let keys = Keys { current: &current, masters: &masters, counters: &inner.counters };
    let key = keys.newest(&mut transaction).await?;
    for chain in &chains {
        adopt(&mut transaction, chain, &key).await?;
    }
    Ok(transaction.commit().await?)
}

async fn adopt(connection: &mut SqliteConnection, chain: &str, key: &DataKey) -> Result<(), DatabaseError> {
    let rows = sqlx::query(
        "SELECT id, at, actor, action, object, detail, address, request_id FROM audit \
         WHERE organization_id = $1 AND sequence IS NULL ORDER BY id",
    )
    .bind(chain)
    .fetch_all(&mut *connection)
    .await?;
    let (mut count, mut head) = (0, BEGINNING);
    for row in &rows {
        count += 1;
        let row = Stored::read(row)?;
        head = row.entry(chain, count, &head).mac(key);
        sqlx::query("UPDATE audit SET sequence = $2, key_id = $3, mac = $4 WHERE id = $1")
            .bind(&row.id)
            .bind(count)
            .bind(&key.id)
            .bind(head.as_slice())
            .execute(&mut *connection)
            .await?;
    }
    set_end(connection, chain, count, &head).await
}

/// Records a notice in a transaction of its own.
pub(in crate::vault) async fn record_alone(
    inner: &Inner,
    author: &Author,
    notice: &Notice,
) -> Result<(), DatabaseError> {
    inner.check_writable()?;
    let mut writer = inner.writer.acquire().await?;
    let recorded = async {
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await?;
        let detail = kept(&notice.detail);
        let told = Told { action: notice.action, object: &notice.object, detail: &detail };
        inner.record(&mut transaction, notice.chain, author, told).await?;
        Ok(transaction.commit().await?)
    }
    .await;
    if let Err(error) = &recorded {
        schema::settle(&mut writer, error).await;
    }
    recorded
}

impl Inner {
    /// Appends an event, with the keys of this vault.
    pub(in crate::vault) async fn record(
        &self,
        connection: &mut SqliteConnection,
        chain: Chain,
        author: &Author,
        told: Told<'_>,
    ) -> Result<(), DatabaseError> {
        let (masters, current) = (self.masters.all(), self.masters.current());
        let keys = Keys { current: &current, masters: &masters, counters: &self.counters };
        record(connection, &keys, chain, author, told).await
    }
}

/// An event as it is stored.
struct Stored {
    id: String,
    at: i64,
    actor: String,
    action: String,
    object: String,
    detail: String,
    address: Option<String>,
    request_id: String,
}

impl Stored {
    fn read(row: &SqliteRow) -> Result<Self, DatabaseError> {
        Ok(Stored {
            id: row.try_get("id")?,
            at: row.try_get("at")?,
            actor: row.try_get("actor")?,
            action: row.try_get("action")?,
            object: row.try_get("object")?,
            detail: row.try_get("detail")?,
            address: row.try_get("address")?,
            request_id: row.try_get("request_id")?,
        })
    }

    fn entry<'a>(&'a self, chain: &'a str, sequence: i64, previous: &'a [u8]) -> Entry<'a> {
        Entry {
            chain,
            sequence,
            previous,
            id: &self.id,
            at: self.at,
            actor: &self.actor,
            action: &self.action,
            object: &self.object,
            detail: &self.detail,
            address: self.address.as_deref(),
            request_id: &self.request_id,
        }
    }
}

/// What a verification has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// How many events the chain has. Keep it, with the head, where whoever can write the vault cannot.
    pub count: i64,
    /// The HMAC of the last one, in hexadecimal digits.
    pub head: String,
    /// The first place where the chain is not as it was written.
    pub broken: Option<Broken>,
}

/// Where a chain is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The number of the event.
    pub sequence: i64,
    /// Its id, where there is one in that place.
    pub event: Option<String>,
    /// What is wrong.
    pub reason: Reason,
}

/// What is wrong with a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// There is no event of this number.
    Removed,
    /// The event is not the one that was written here: it was altered, or comes from another place.
    Altered,
    /// There is an event that the chain does not know of.
    Added,
    /// The key that authenticated the event was damaged, so that nobody can tell.
    KeyLost,
    /// What was kept of an earlier verification is not in this chain: its tail was cut off or replaced.
    Cut,
}

/// What was kept of an earlier verification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its count.
    pub count: i64,
    /// Its head.
    pub head: String,
}

impl Database {
    /// Verifies a chain from its beginning to its end, and that what was `kept` of an earlier verification is still in
    /// it. Takes time with the number of events, and no more memory for many of them.
    pub async fn verify_audit(&self, chain: Chain, kept: Option<&Kept>) -> Result<Verified, DatabaseError> {
        self.inner.counters.read();
        let (column, mut reader) = (chain.column(), self.inner.readers.acquire().await?);
        // One state of the vault, whatever is written meanwhile.
        let mut snapshot = reader.begin().await?;
        let (count, head) = end(&mut snapshot, &column).await?.unwrap_or((0, BEGINNING.to_vec()));
        let keys = self.audit_keys(&mut snapshot).await?;
        let mut walk = Walk { chain: &column, keys, count, last: 0, head: BEGINNING.to_vec(), seen: None, kept };
        let mut broken = walk.run(&mut snapshot).await?;
        if broken.is_none() && !bool::from(walk.head.ct_eq(&head)) {
            broken = Some(Broken { sequence: count, event: None, reason: Reason::Altered });
        }
        if broken.is_none() && kept.is_some_and(|kept| kept.count > 0 && walk.seen.as_ref() != Some(&kept.head)) {
            broken = Some(Broken { sequence: kept.map_or(0, |kept| kept.count), event: None, reason: Reason::Cut });
        }
        Ok(Verified { count, head: hex(&head), broken })
    }

    /// Every key that authenticates events and still opens.
    async fn audit_keys(&self, connection: &mut SqliteConnection) -> Result<HashMap<String, DataKey>, DatabaseError> {
        let (masters, current) = (self.inner.masters.all(), self.inner.masters.current());
        let keys = Keys { current: &current, masters: &masters, counters: &self.inner.counters };
        let rows = sqlx::query(
            "SELECT id, organization_id, purpose, master_key_id, nonce, ciphertext FROM data_keys \
             WHERE organization_id IS NULL AND purpose = $1",
        )
        .bind(Purpose::Audit.as_str())
        .fetch_all(connection)
        .await?;
        Ok(rows.iter().filter_map(|row| keys.open(row)).map(|key| (key.id.clone(), key)).collect())
    }
}

/// A verification under way.
struct Walk<'a> {
    chain: &'a str,
    keys: HashMap<String, DataKey>,
    /// How many events there should be.
    count: i64,
    /// The number of the last one that was looked at.
    last: i64,
    head: Vec<u8>,
    kept: Option<&'a Kept>,
    /// The HMAC at the place that was kept.
    seen: Option<String>,
}

impl Walk<'_> {
    async fn run(&mut self, connection: &mut SqliteConnection) -> Result<Option<Broken>, DatabaseError> {
        loop {
            let rows = sqlx::query(
                "SELECT id, at, actor, action, object, detail, address, request_id, sequence, key_id, mac FROM audit \
                 WHERE organization_id = $1 AND sequence > $2 ORDER BY sequence LIMIT $3",
            )
            .bind(self.chain)
            .bind(self.last)
            .bind(BATCH)
            .fetch_all(&mut *connection)
            .await?;
            for row in &rows {
                if let Some(broken) = self.step(row)? {
                    return Ok(Some(broken));
                }
            }
            if rows.is_empty() {
                break;
            }
        }
        if self.last < self.count {
            return Ok(Some(Broken { sequence: self.last + 1, event: None, reason: Reason::Removed }));
        }
        self.strangers(connection).await
    }

    fn step(&mut self, row: &SqliteRow) -> Result<Option<Broken>, DatabaseError> {
        let (sequence, expected): (i64, i64) = (row.try_get("sequence")?, self.last + 1);
        if sequence != expected {
            return Ok(Some(Broken { sequence: expected, event: None, reason: Reason::Removed }));
        }
        let (key, mac): (Option<String>, Option<Vec<u8>>) = (row.try_get("key_id")?, row.try_get("mac")?);
        let broken = |reason| Ok(Some(Broken { sequence, event: row.try_get("id").ok(), reason }));
        if sequence > self.count {
            return broken(Reason::Added);
        }
        let Some(key) = key.and_then(|key| self.keys.get(&key)) else { return broken(Reason::KeyLost) };
        // Whatever cannot be read is not as it was written.
        let Ok(stored) = Stored::read(row) else { return broken(Reason::Altered) };
        let wanted = stored.entry(self.chain, sequence, &self.head).mac(key);
        if !mac.is_some_and(|mac| bool::from(mac.ct_eq(&wanted))) {
            return broken(Reason::Altered);
        }
        self.last = sequence;
        self.head = wanted.to_vec();
        if self.kept.is_some_and(|kept| kept.count == sequence) {
            self.seen = Some(hex(&wanted));
        }
        Ok(None)
    }

    /// Events without a number, beside a chain that has begun: an event of before the chain was taken into it.
    async fn strangers(&self, connection: &mut SqliteConnection) -> Result<Option<Broken>, DatabaseError> {
        if self.count == 0 {
            return Ok(None);
        }
        let id: Option<String> = sqlx::query_scalar(
            "SELECT id FROM audit WHERE organization_id = $1 AND (sequence IS NULL OR sequence < 1) LIMIT 1",
        )
        .bind(self.chain)
        .fetch_optional(connection)
        .await?;
        Ok(id.map(|id| Broken { sequence: self.count, event: Some(id), reason: Reason::Added }))
    }
}
