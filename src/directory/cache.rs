//! What all workers share: a cache that can be stale, never wrong.
//!
//! It holds what is read from the database. What a worker does not find in its own [`table`](super::table) and cannot
//! make at once from what is declared, it finds here (bounded in number and time), or it is loaded: one at a time for
//! each key, on the control runtime, finished even if whoever asked has gone. Each cached thing carries the [`Stamp`] of
//! all that was read for it and is used only while that is current.

use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::ops::compute::Op;

use crate::vault::revision::Stamp;

/// How much is kept and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many entries, in a shared cache and in each worker's table.
    pub entries: u64,
    /// How long an entry is used after it was loaded.
    pub time_to_live: Duration,
    /// How long an entry is kept that nobody uses.
    pub time_to_idle: Duration,
}

impl Limits {
    /// Until when something may be used that is loaded at this moment.
    pub fn expiry(&self, now: Instant) -> Instant {
        now + self.time_to_live
    }
}

/// Something that knows what it was read from.
pub trait Stamped {
    /// The revisions it was read at, taken before reading.
    fn stamp(&self) -> &Stamp;

    /// Whether it still holds: nothing has changed that it was read from.
    fn is_current(&self) -> bool {
        self.stamp().is_current()
    }
}

/// Why a load gave nothing.
#[derive(Debug)]
pub enum LoadFailed<E> {
    /// The load itself failed.
    Refused(Arc<E>),
    /// The runtime that loads has stopped, or the load panicked.
    Lost,
}

/// A cache of values that are cheap to clone.
pub struct Cache<K, V> {
    shared: moka::future::Cache<K, Entry<V>>,
    control: tokio::runtime::Handle,
    limits: Limits,
}

/// Something that was loaded.
#[derive(Clone)]
pub struct Entry<V> {
    /// What was loaded.
    pub value: V,
    /// Until when it is used.
    pub expires: Instant,
}

impl<K, V> Cache<K, V>
where
    K: Clone + Hash + Eq + Send + Sync + 'static,
    V: Stamped + Clone + Send + Sync + 'static,
{
    /// An empty cache whose loads run on `control`.
    pub fn new(limits: Limits, control: tokio::runtime::Handle) -> Self {
        let shared = moka::future::Cache::builder()
            .max_capacity(limits.entries)
            .time_to_live(limits.time_to_live)
            .time_to_idle(limits.time_to_idle)
            .build();
        Cache { shared, control, limits }
    }

    /// Runs something on the vault's runtime, for whoever is on another one; `None` where that is gone.
    pub async fn elsewhere<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Option<T> {
        self.control.spawn(work).await.ok()
    }

    /// What is cached and current. Waits for nothing but the cache's own housekeeping.
    pub async fn get(&self, key: &K) -> Option<Entry<V>> {
        self.shared.get(key).await.filter(|entry| entry.value.is_current())
    }

    /// Loads what is not cached; everybody who asks meanwhile shares the load. A load that a change overtook is done
    /// again; the last time around this caller's own load began after it asked, so its result is true enough for it.
    pub async fn load<E, F>(&self, key: &K, load: impl Fn() -> F) -> Result<Entry<V>, LoadFailed<E>>
    where
        E: Send + Sync + 'static,
        F: Future<Output = Result<V, E>> + Send + 'static,
    {
        let asked = self.limits.expiry(Instant::now());
        for _overtaken in 0..3 {
            let loaded = self.shared.try_get_with_by_ref(key, self.begin(load())).await;
            let entry = loaded.map_err(|error| match &*error {
                LoadFailed::Refused(error) => LoadFailed::Refused(Arc::clone(error)),
                LoadFailed::Lost => LoadFailed::Lost,
            })?;
            // What was loaded since may be of use no longer than for those who wait for it.
            let is_new = entry.expires >= asked && entry.value.stamp().is_current();
            if is_new || entry.value.is_current() {
                return Ok(entry);
            }
            self.discard(key, &entry).await;
        }
        self.begin(load()).await
    }

    /// Starts a load on the control runtime.
    async fn begin<E, F>(&self, load: F) -> Result<Entry<V>, LoadFailed<E>>
    where
        E: Send + Sync + 'static,
        F: Future<Output = Result<V, E>> + Send + 'static,
    {
        let value = self.control.spawn(load).await.map_err(|_| LoadFailed::Lost)?;
        let value = value.map_err(|error| LoadFailed::Refused(Arc::new(error)))?;
        Ok(Entry { value, expires: self.limits.expiry(Instant::now()) })
    }

    /// Forgets what was not used lately, what is too old, and what a change has made stale: a secret shall not lie in
    /// memory because nobody asks for anything, which is when the cache does not look after itself.
    pub async fn sweep(&self) {
        for (key, entry) in &self.shared {
            if !entry.value.is_current() {
                self.discard(&key, &entry).await;
            }
        }
        self.shared.run_pending_tasks().await;
    }

    /// Forgets a stale entry, unless somebody has replaced it already: no two loads of a key end at one moment.
    async fn discard(&self, key: &K, stale: &Entry<V>) {
        let is_stale = |entry: Option<moka::Entry<K, Entry<V>>>| {
            let same = entry.is_some_and(|entry| entry.value().expires == stale.expires);
            std::future::ready(if same { Op::Remove } else { Op::Nop })
        };
        self.shared.entry_by_ref(key).and_compute_with(is_stale).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::model::id::ConnectionId;
    use crate::vault::revision::{Revisions, Subject};

    #[derive(Clone)]
    struct Read {
        value: u64,
        stamp: Stamp,
        _held: Option<Arc<()>>,
    }

    impl Stamped for Read {
        fn stamp(&self) -> &Stamp {
            &self.stamp
        }
    }

    #[derive(Default)]
    struct Store {
        revisions: Revisions,
        value: AtomicU64,
        loads: AtomicU64,
        pause: tokio::sync::Mutex<()>,
    }

    impl Store {
        async fn read(self: Arc<Self>, subject: Subject) -> Result<Read, ()> {
            let mut stamp = Stamp::default();
            stamp.take(&self.revisions, subject);
            self.loads.fetch_add(1, Ordering::SeqCst);
            let value = self.value.load(Ordering::SeqCst);
            let _paused = self.pause.lock().await;
            Ok(Read { value, stamp, _held: None })
        }

        fn change(&self, value: u64, subject: &Subject) {
            self.value.store(value, Ordering::SeqCst);
            self.revisions.advance(subject);
        }
    }

    fn cache() -> Cache<u8, Read> {
        let limits =
            Limits { entries: 4, time_to_live: Duration::from_secs(60), time_to_idle: Duration::from_secs(60) };
        Cache::new(limits, tokio::runtime::Handle::current())
    }

    async fn read(cache: &Cache<u8, Read>, store: &Arc<Store>, subject: &Subject) -> u64 {
        let entry = match cache.get(&1).await {
            Some(entry) => entry,
            None => cache.load(&1, || Arc::clone(store).read(subject.clone())).await.unwrap_or_else(|_| panic!()),
        };
        entry.value.value
    }

    #[tokio::test]
    async fn a_hit_loads_nothing_and_a_change_holds_for_the_next_read() {
        let (store, cache) = (Arc::new(Store::default()), cache());
        let subject = Subject::Connection(ConnectionId::generate());
        assert_eq!(read(&cache, &store, &subject).await, 0);
        assert_eq!(read(&cache, &store, &subject).await, 0);
        assert_eq!(store.loads.load(Ordering::SeqCst), 1);
        store.change(7, &subject);
        assert_eq!(read(&cache, &store, &subject).await, 7);
        assert_eq!(store.loads.load(Ordering::SeqCst), 2);
    }

    /// CA-07: although nobody asks for anything any more.
    #[tokio::test]
    async fn a_sweep_forgets_what_is_idle_and_what_is_stale_ca_07() {
        let (second, subject) = (Duration::from_secs(1), Subject::Connection(ConnectionId::generate()));
        for (time_to_idle, changes) in [(Duration::from_millis(1), false), (60 * second, true)] {
            let limits = Limits { entries: 4, time_to_live: 60 * second, time_to_idle };
            let (store, cache) = (Arc::new(Store::default()), Cache::new(limits, tokio::runtime::Handle::current()));
            let held = Arc::new(());
            let load = || {
                let (store, subject, held) = (Arc::clone(&store), subject.clone(), Arc::clone(&held));
                async move { store.read(subject).await.map(|read| Read { _held: Some(held), ..read }) }
            };
            drop(cache.load(&1, load).await);
            assert!(Arc::strong_count(&held) > 1);
            if changes {
                store.change(7, &subject);
            }
            let forgotten = async {
                while Arc::strong_count(&held) > 1 {
                    cache.sweep().await;
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(20 * second, forgotten).await.expect("it is let go");
        }
    }

    #[tokio::test]
    async fn many_who_ask_at_once_share_one_load() {
        let (store, cache) = (Arc::new(Store::default()), cache());
        let subject = Subject::Connection(ConnectionId::generate());
        let reads = (0..500).map(|_| read(&cache, &store, &subject));
        let all = reads.map(Box::pin).collect::<Vec<_>>();
        for value in futures_join(all).await {
            assert_eq!(value, 0);
        }
        assert_eq!(store.loads.load(Ordering::SeqCst), 1);
    }

    /// Polls all futures together until each is done.
    async fn futures_join<F: Future<Output = u64> + Unpin>(mut futures: Vec<F>) -> Vec<u64> {
        let mut results = vec![None; futures.len()];
        std::future::poll_fn(move |cx| {
            for (future, result) in futures.iter_mut().zip(&mut results) {
                if result.is_none()
                    && let std::task::Poll::Ready(value) = std::pin::Pin::new(future).poll(cx)
                {
                    *result = Some(value);
                }
            }
            if results.iter().all(Option::is_some) {
                std::task::Poll::Ready(results.iter().map(|value| value.unwrap()).collect())
            } else {
                std::task::Poll::Pending
            }
        })
        .await
    }

    #[tokio::test]
    async fn a_load_that_began_before_a_change_never_brings_the_old_state_back() {
        let (store, cache) = (Arc::new(Store::default()), Arc::new(cache()));
        let subject = Subject::Connection(ConnectionId::generate());
        let paused = store.pause.lock().await;
        let slow = tokio::spawn({
            let (store, cache, subject) = (Arc::clone(&store), Arc::clone(&cache), subject.clone());
            async move {
                let entry = cache.begin(Arc::clone(&store).read(subject)).await.unwrap_or_else(|_| panic!());
                cache.shared.insert(1, entry).await;
            }
        });
        while store.loads.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        store.change(7, &subject);
        drop(paused);
        slow.await.unwrap();
        assert_eq!(read(&cache, &store, &subject).await, 7);
    }
}
