//! Makes a vault with many connections, each with a credential that opens, and keeps it.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::Instant;

use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use sidekey::model::api_key::{KeyScope, KeyTerms, RequestLimits};
use sidekey::model::connection::{Connection, Sharing};
use sidekey::model::credential::Credential;
use sidekey::model::id::{ConnectionId, IntegrationId, OrganizationId};
use sidekey::model::integration::Integration;
use sidekey::model::role::Role;
use sidekey::vault::api_key::PlainKey;
use sidekey::vault::audit::Author;
use sidekey::vault::change::import::{Entered, Import};
use sidekey::vault::change::{ApiKeyChange, Change};
use sidekey::vault::database::{Database, Options};
use sidekey::vault::key::MasterKeySource;

use crate::Fault;

/// How many connections one transaction writes.
const BATCH: usize = 2_000;
/// How many organizations have an API key that callers use.
const MOST_KEYED: usize = 120;
/// Moves when what is written is another thing than before.
const LAYOUT: u32 = 1;
/// The upstream, as integrations name it; the server is told its address.
pub(crate) const UPSTREAM: &str = "http://api.example.test";
/// The organization with a tenth of all connections.
pub(crate) const LARGE: &str = "large";
/// The label of few connections of the large organization, which stand at the end of its list.
pub(crate) const RARE: &str = "rare";
/// The integration of few of them.
pub(crate) const OTHER: &str = "other";

/// A vault that is there.
pub(crate) struct Filled {
    /// How many connections.
    pub(crate) count: usize,
    /// How many organizations.
    pub(crate) organizations: usize,
    /// Where the vault and its keys are.
    pub(crate) folder: PathBuf,
    /// API keys with the organizations they are of, each of which has [`Filled::each`] connections.
    pub(crate) keyed: Vec<(String, String)>,
}

/// The key of a connection.
pub(crate) fn connection_key(number: usize) -> String {
    format!("connection-{number:06}")
}

/// What the upstream is sent for a connection.
pub(crate) fn token(organization: &str, number: usize) -> String {
    format!("tok_{organization}_{number:06}_0123456789abcdef")
}

impl Filled {
    /// One with this many connections: made now, or by an earlier run.
    pub(crate) fn with(count: usize) -> Result<Self, Fault> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = root.join("target/vaults").join(format!("{count}-{:016x}", tables(root)?));
        let mut filled = Filled { count, organizations: count / 100, folder, keyed: Vec::new() };
        if !filled.folder.exists() {
            filled.make()?;
        }
        let keys = fs::read_to_string(filled.folder.join("keys"))?;
        let pairs = keys.lines().filter_map(|line| line.split_once(' '));
        filled.keyed = pairs.map(|(organization, key)| (organization.to_owned(), key.to_owned())).collect();
        Ok(filled)
    }

    /// How many connections the large organization has.
    pub(crate) fn large(&self) -> usize {
        self.count / 10
    }

    /// How many each of the others has; the last one has a few more.
    pub(crate) fn each(&self) -> usize {
        (self.count - self.large()) / (self.organizations - 1)
    }

    /// How much it takes on disk, in bytes.
    pub(crate) fn size(&self) -> Result<u64, Fault> {
        Ok(fs::metadata(self.folder.join("sidekey.vault"))?.len())
    }

    fn make(&self) -> Result<(), Fault> {
        let building = self.folder.with_extension("new");
        if building.exists() {
            fs::remove_dir_all(&building)?;
        }
        fs::create_dir_all(&building)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.fill(&building))?;
        Ok(fs::rename(building, &self.folder)?)
    }

    async fn fill(&self, folder: &Path) -> Result<(), Fault> {
        let master_key = MasterKeySource::File { path: folder.join("master.key"), any_mode: false };
        let (database, _) = Database::open(Options { path: folder.join("sidekey.vault"), master_key }).await?;
        let began = Instant::now();
        let mut keys = String::new();
        let (mut done, mut told) = (0, 0);
        for number in 0..self.organizations {
            let is_last = number + 1 == self.organizations;
            let (key, count) = match number {
                0 => (LARGE.to_owned(), self.large()),
                _ if is_last => (format!("tenant-{number:05}"), self.count - done),
                _ => (format!("tenant-{number:05}"), self.each()),
            };
            let organization = OrganizationId::generate();
            let create = Change::CreateOrganization { id: organization, key: key.parse()?, name: key.clone() };
            database.commit(&author(), create).await?;
            for first in (0..count).step_by(BATCH) {
                let numbers = first..count.min(first + BATCH);
                database.commit(&author(), batch(organization, &key, numbers, count)?).await?;
            }
            if (1..=MOST_KEYED).contains(&number) {
                keys += &format!("{key} {}\n", api_key(&database, organization).await?);
            }
            done += count;
            if done >= told + 50_000 {
                eprintln!("{done} of {} connections after {:.0?}", self.count, began.elapsed());
                told = done;
            }
        }
        database.close().await;
        Ok(fs::write(folder.join("keys"), keys)?)
    }
}

/// What says whether a vault can be used again: the tables, and what is written into them.
fn tables(root: &Path) -> Result<u64, Fault> {
    let mut hasher = DefaultHasher::new();
    LAYOUT.hash(&mut hasher);
    let mut files: Vec<PathBuf> = fs::read_dir(root.join("src/vault/migrations"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_, Fault>>()?;
    files.sort();
    for file in files {
        fs::read(file)?.hash(&mut hasher);
    }
    Ok(hasher.finish())
}

fn author() -> Author {
    Author::system("bench")
}

/// Some of an organization's connections, each with a credential. The last hundredth of the organization is rare.
fn batch(
    organization: OrganizationId,
    tenant: &str,
    numbers: std::ops::Range<usize>,
    count: usize,
) -> Result<Change, Fault> {
    let integrations = if numbers.start == 0 { vec![integration("example")?, integration(OTHER)?] } else { Vec::new() };
    let (mut connections, mut credentials) = (Vec::new(), Vec::new());
    for number in numbers {
        let is_rare = number >= count - count / 100;
        let id = ConnectionId::generate();
        let labels = if is_rare { vec![RARE.parse()?] } else { vec!["billing".parse()?] };
        connections.push(Connection {
            id,
            organization,
            customer: None,
            key: connection_key(number).parse()?,
            name: Some("A connection".to_owned()),
            integration: if is_rare { OTHER } else { "example" }.parse()?,
            auth: None,
            values: [("region".parse()?, "eu".to_owned())].into(),
            limit: None,
            sharing: Sharing { labels, exposed: is_rare, ..Sharing::default() },
        });
        let token = SecretString::from(token(tenant, number));
        credentials.push(Entered {
            connection: id,
            environment: "production".parse()?,
            credential: Credential::new([("token".parse()?, token)].into()),
            origins: vec![UPSTREAM.to_owned()],
        });
    }
    Ok(Change::Import(Import {
        organization,
        integrations,
        values: Vec::new(),
        connections,
        credentials,
        judged_at: None,
    }))
}

fn integration(slug: &str) -> Result<Integration, Fault> {
    let document = json!({
        "slug": slug,
        "base_url": UPSTREAM,
        "plaintext": true,
        "fields": [{ "name": "region", "default": "eu" }],
        "limit": { "per_second": 1_000_000, "burst": 1_000_000 },
        "auth": [{ "method": "token", "type": "bearer" }],
    });
    Integration::parse(&document, IntegrationId::generate())
        .map_err(|problems| format!("the integration does not parse: {problems:?}").into())
}

/// A key whose holder may use every connection of an organization; its text.
#[expect(clippy::disallowed_methods, reason = "the key of a made-up vault is kept for the callers of the measurement")]
async fn api_key(database: &Database, organization: OrganizationId) -> Result<String, Fault> {
    let plain = PlainKey::generate()?;
    let text = plain.text().expose_secret().to_owned();
    let terms = Box::new(KeyTerms {
        name: "callers".to_owned(),
        roles: [Role::Caller].into_iter().collect(),
        limits: RequestLimits::default(),
        environment: Some("production".parse()?),
        scope: KeyScope::default(),
        owner: None,
        expires_at: None,
    });
    database.commit(&author(), Change::ApiKey(ApiKeyChange::Create { organization, plain, terms })).await?;
    Ok(text)
}
