//! What the requests of a worker have used: which caller, which connection, in which hour, how often.
//!
//! A request counts in a cell of its own worker: no lock, no channel, and memory only for the first request of a caller,
//! connection and hour. The worker hands its cells over with the hour and now and then ([`Uses::keep_handing_over`]);
//! whoever gets them writes them to the vault, far from any request. What a process that is killed had not handed over
//! is lost, which is at most what the last few seconds have counted.

mod counted;

use std::cell::RefCell;
use std::convert::Infallible;
use std::time::Duration;

use http::StatusCode;
use tokio::sync::Notify;
use tokio::sync::mpsc::{Sender, UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::clock;
use crate::model::id::{ApiKeyId, ConnectionId, OrganizationId};
use crate::model::name::EnvironmentName;

pub use counted::Counted;

use counted::HOUR;

/// How many cells a worker fills before it hands them over without waiting.
const MOST: usize = 16_384;

/// How often a caller used a connection in an environment in one hour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// Whose connection.
    pub organization: OrganizationId,
    /// Which.
    pub connection: ConnectionId,
    /// In which environment.
    pub environment: EnvironmentName,
    /// The caller's key; `None` for who needed none.
    pub caller: Option<ApiKeyId>,
    /// Hours since 1970.
    pub hour: u64,
    /// How often.
    pub count: u64,
    /// When last, in seconds since 1970.
    pub last: u64,
    /// What the upstream said of the credential last, and when, in seconds since 1970.
    pub verdict: Option<(Verdict, u64)>,
    /// The workflows that did, and when last, in seconds since 1970; not all of them where they are many.
    pub workflows: Vec<(String, u64)>,
}

/// What an upstream's answer says of the credential that it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was taken.
    Taken,
    /// It was refused.
    Refused,
}

impl Verdict {
    /// What an upstream's status says, if it says anything: only 401 is about the credential (RFC 9110 §15.5.2), and an
    /// answer that did what was asked for has taken it.
    pub fn of(status: StatusCode) -> Option<Self> {
        match status {
            StatusCode::UNAUTHORIZED => Some(Verdict::Refused),
            status if status.as_u16() < 400 => Some(Verdict::Taken),
            _ => None,
        }
    }
}

/// What one request used.
#[derive(Clone, Copy, Debug)]
pub struct Used<'a> {
    /// See [`Use`].
    pub organization: OrganizationId,
    /// See [`Use`].
    pub connection: ConnectionId,
    /// See [`Use`].
    pub environment: &'a EnvironmentName,
    /// See [`Use`].
    pub caller: Option<ApiKeyId>,
    /// See [`Use`].
    pub verdict: Option<Verdict>,
    /// The workflow that the request named.
    pub workflow: Option<&'a str>,
}

/// What a worker hands over.
#[derive(Debug)]
pub struct Handed {
    /// What it has counted.
    pub counted: Counted,
    /// Who waits until all of one connection that was handed over is written.
    pub wanted: Option<Wanted>,
}

/// Somebody waits until what was counted of a connection is written. Whoever has written it drops this.
#[derive(Debug)]
pub struct Wanted {
    /// Which connection.
    pub connection: ConnectionId,
    _asker: Sender<Infallible>,
}

/// What workers have counted and nobody has written yet: where somebody who is about to judge by it asks for it.
#[derive(Clone, Debug)]
pub struct Unwritten(Vec<UnboundedSender<Wanted>>);

impl Unwritten {
    /// Of so many workers, and where each of them is asked.
    pub fn of(workers: usize) -> (Self, Vec<UnboundedReceiver<Wanted>>) {
        let (asking, asked) = (0..workers).map(|_| unbounded_channel()).unzip();
        (Unwritten(asking), asked)
    }

    /// Waits until everything that was counted of a connection until now is written, or cannot be. A worker that has
    /// ended has nothing any more.
    pub async fn write(&self, connection: ConnectionId) {
        let (asker, mut written) = tokio::sync::mpsc::channel(1);
        for worker in &self.0 {
            let _ended = worker.send(Wanted { connection, _asker: asker.clone() });
        }
        drop(asker);
        // Nothing is ever sent: it ends when everybody who was asked has dropped their part.
        let _ended: Option<Infallible> = written.recv().await;
    }
}

/// The cells of one worker.
pub struct Uses {
    counted: RefCell<Counted>,
    /// There is something to hand over.
    filled: Notify,
    /// There is so much that it is handed over at once.
    full: Notify,
    taker: UnboundedSender<Handed>,
}

impl Uses {
    /// Cells whose contents go to `taker`.
    pub fn new(taker: UnboundedSender<Handed>) -> Self {
        Uses { counted: RefCell::default(), filled: Notify::new(), full: Notify::new(), taker }
    }

    /// Counts a request that a credential was sent with, which was over in this second since 1970.
    pub fn count(&self, used: &Used<'_>, second: u64) {
        let hour = second / HOUR;
        if self.counted.borrow().hour != hour {
            self.hand_over();
            self.counted.borrow_mut().hour = hour;
        }
        let mut counted = self.counted.borrow_mut();
        if !counted.add(used, second) {
            return;
        }
        match counted.len() {
            1 => self.filled.notify_one(),
            MOST.. => self.full.notify_one(),
            _ => {}
        }
    }

    /// Hands over what was counted so far.
    pub fn hand_over(&self) {
        let mut counted = self.counted.borrow_mut();
        if counted.len() == 0 {
            return;
        }
        // As many are likely to be used again, and the table need not grow from nothing.
        let next = Counted::of_hour(counted.hour, counted.len().min(MOST));
        let counted = std::mem::replace(&mut *counted, next);
        // Nobody takes them where there is no vault to write them to.
        let _nobody = self.taker.send(Handed { counted, wanted: None });
    }

    /// Hands over what was counted of one connection, and behind it who waits for that.
    fn hand_over_wanted(&self, wanted: Wanted) {
        let counted = self.counted.borrow_mut().split(wanted.connection);
        let _nobody = self.taker.send(Handed { counted, wanted: Some(wanted) });
    }

    /// Hands over what was counted, that long after the first count, and of one connection as soon as it is `asked` for,
    /// for as long as it is polled. It sleeps while nothing is counted.
    pub async fn keep_handing_over(&self, every: Duration, mut asked: UnboundedReceiver<Wanted>) {
        let now_and_then = async {
            loop {
                self.filled.notified().await;
                tokio::select! {
                    () = clock::sleep(every) => {}
                    () = self.full.notified() => {}
                }
                self.hand_over();
            }
        };
        let on_demand = async {
            while let Some(wanted) = asked.recv().await {
                self.hand_over_wanted(wanted);
            }
            std::future::pending().await
        };
        tokio::select! {
            () = now_and_then => {}
            () = on_demand => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_795_000_000;

    #[test]
    fn requests_are_counted_by_caller_connection_environment_and_hour() {
        let (taker, mut taken) = unbounded_channel();
        let uses = Uses::new(taker);
        let organization = OrganizationId::generate();
        let environments: [EnvironmentName; 2] = ["staging".parse().unwrap(), "production".parse().unwrap()];
        let connections = [ConnectionId::generate(), ConnectionId::generate()];
        let callers = [None, Some(ApiKeyId::generate())];
        for round in 0..3 {
            for environment in &environments {
                for connection in connections {
                    for caller in callers.into_iter().take(1 + round % 2) {
                        let (verdict, workflow) = (None, None);
                        let used = Used { organization, connection, environment, caller, verdict, workflow };
                        uses.count(&used, NOW);
                    }
                }
            }
        }
        uses.hand_over();
        uses.hand_over();
        let uses: Vec<Use> = taken.try_recv().unwrap().counted.into_uses().collect();
        assert!(taken.try_recv().is_err(), "there is nothing more to hand over");
        assert_eq!(uses.len(), 8);
        assert!(uses.iter().all(|one| one.count == if one.caller.is_none() { 3 } else { 1 }));
        assert!(uses.iter().all(|one| one.last / 3_600 == one.hour));
    }

    #[test]
    fn each_hour_has_cells_of_its_own() {
        let (taker, mut taken) = unbounded_channel();
        let uses = Uses::new(taker);
        let environment: EnvironmentName = "production".parse().unwrap();
        let used = Used {
            organization: OrganizationId::derived("one"),
            connection: ConnectionId::derived("one"),
            environment: &environment,
            caller: None,
            verdict: None,
            workflow: None,
        };
        for second in [3_599, 3_600, 3_601, 7_200] {
            uses.count(&used, second);
        }
        uses.hand_over();
        let mut counted = Vec::new();
        while let Ok(handed) = taken.try_recv() {
            counted.extend(handed.counted.into_uses().map(|one| (one.hour, one.count, one.last)));
        }
        assert_eq!(counted, [(0, 1, 3_599), (1, 2, 3_601), (2, 1, 7_200)]);
    }

    #[test]
    fn the_last_verdict_holds_and_workflows_are_told_once() {
        let (taker, mut taken) = unbounded_channel();
        let uses = Uses::new(taker);
        let environment: EnvironmentName = "production".parse().unwrap();
        let statuses = [200, 401, 403, 500];
        for (status, workflow) in statuses.into_iter().zip(["a", "b", "a", "b"]) {
            let used = Used {
                organization: OrganizationId::derived("one"),
                connection: ConnectionId::derived("one"),
                environment: &environment,
                caller: None,
                verdict: Verdict::of(StatusCode::from_u16(status).unwrap()),
                workflow: Some(workflow),
            };
            uses.count(&used, NOW);
        }
        uses.hand_over();
        let uses: Vec<Use> = taken.try_recv().unwrap().counted.into_uses().collect();
        assert_eq!((uses[0].count, uses[0].verdict.map(|(verdict, _)| verdict)), (4, Some(Verdict::Refused)));
        let workflows: Vec<&str> = uses[0].workflows.iter().map(|(workflow, _)| workflow.as_str()).collect();
        assert_eq!(workflows, ["a", "b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn they_are_handed_over_now_and_then_and_at_once_where_they_are_many() {
        let (taker, mut taken) = unbounded_channel();
        let (uses, every) = (Uses::new(taker), Duration::from_secs(10));
        let environment: EnvironmentName = "production".parse().unwrap();
        let count = |connection| {
            let used = Used {
                organization: OrganizationId::derived("one"),
                connection,
                environment: &environment,
                caller: None,
                verdict: None,
                workflow: None,
            };
            uses.count(&used, NOW);
        };
        let watch = async {
            let begun = tokio::time::Instant::now();
            count(ConnectionId::derived("one"));
            assert_eq!(taken.recv().await.unwrap().counted.into_uses().count(), 1);
            assert_eq!(begun.elapsed(), every);
            for _ in 0..MOST {
                count(ConnectionId::generate());
            }
            assert_eq!(taken.recv().await.unwrap().counted.into_uses().count(), MOST);
            assert_eq!(begun.elapsed(), every, "at once");
        };
        tokio::select! {
            () = uses.keep_handing_over(every, nobody_asks()) => {}
            () = watch => {}
        }
    }

    fn nobody_asks() -> UnboundedReceiver<Wanted> {
        unbounded_channel().1
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_for_a_connection_waits_until_all_of_it_is_written() {
        let (taker, mut taken) = unbounded_channel();
        let (uses, other) = (Uses::new(taker.clone()), Uses::new(taker));
        let (unwritten, mut asked) = Unwritten::of(3);
        let environment: EnvironmentName = "production".parse().unwrap();
        let (wanted, beside) = (ConnectionId::generate(), ConnectionId::generate());
        let organization = OrganizationId::derived("one");
        for connection in [wanted, beside] {
            for worker in [&uses, &other] {
                let (caller, verdict, workflow) = (None, None, None);
                let environment = &environment;
                worker.count(&Used { organization, connection, environment, caller, verdict, workflow }, NOW);
            }
        }
        // The third worker has ended.
        drop(asked.pop());
        let every = Duration::from_secs(3_600);
        let [first, second] = <[_; 2]>::try_from(asked).unwrap();
        let watch = async {
            let mut waiting = Box::pin(unwritten.write(wanted));
            let mut kept = Vec::new();
            for _ in 0..2 {
                let handed = tokio::select! {
                    () = &mut waiting => panic!("nothing is written yet"),
                    handed = taken.recv() => handed.unwrap(),
                };
                let connections: Vec<_> = handed.counted.into_uses().map(|one| one.connection).collect();
                assert_eq!(connections, [wanted], "no other");
                kept.push(handed.wanted.unwrap());
            }
            drop(kept.pop());
            let soon = tokio::time::timeout(Duration::from_secs(60), &mut waiting).await;
            assert!(soon.is_err(), "one of them is not written yet");
            kept.clear();
            waiting.await;
        };
        tokio::select! {
            () = uses.keep_handing_over(every, first) => {}
            () = other.keep_handing_over(every, second) => {}
            () = watch => {}
        }
    }
}
