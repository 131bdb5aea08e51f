//! Time: every timer of the house is made here.
//!
//! A runtime that keeps timers looks at its wheel and twice at the system's clock each time it waits for events. A worker
//! waits twice for each request while it has little to do, and hardly ever sets a timer; so its timers are kept by a
//! thread of their own, one for the process, which wakes whoever's time has come.

use std::cell::OnceCell;
use std::future::{IntoFuture, pending};
use std::io;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use hyper::rt;
use hyper_util::rt::TokioTimer;
use tokio::runtime::{Builder, EnterGuard, Handle};
pub use tokio::time::{Instant, Interval, MissedTickBehavior, Sleep, Timeout};

thread_local! {
    /// Who keeps the timers of this thread; where nobody is named, its own runtime does.
    static KEEPER: OnceCell<Handle> = const { OnceCell::new() };
}

/// From now on the timers that are made on this thread are kept by the process's own thread for that, which is started
/// by the first who asks. The runtime of this thread needs no timers then.
///
/// # Errors
///
/// The thread cannot be started.
pub fn keep_elsewhere() -> io::Result<()> {
    static STARTED: Mutex<Option<Handle>> = Mutex::new(None);
    let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    let keeper = match &*started {
        Some(keeper) => keeper.clone(),
        None => started.insert(start()?).clone(),
    };
    // Who has one already keeps it: there is only one.
    KEEPER.with(|own| _ = own.set(keeper));
    Ok(())
}

/// Starts a thread that keeps timers for as long as the process runs.
fn start() -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_time().build()?;
    let keeper = runtime.handle().clone();
    thread::Builder::new().name("clock".into()).spawn(move || runtime.block_on(pending::<()>()))?;
    Ok(keeper)
}

/// Makes a timer with whoever keeps those of this thread.
fn kept<T>(make: impl FnOnce() -> T) -> T {
    KEEPER.with(|keeper| {
        let _entered: Option<EnterGuard<'_>> = keeper.get().map(Handle::enter);
        make()
    })
}

/// Waits so long.
pub fn sleep(duration: Duration) -> Sleep {
    kept(|| tokio::time::sleep(duration))
}

/// Waits until then.
pub fn sleep_until(due: Instant) -> Sleep {
    kept(|| tokio::time::sleep_until(due))
}

/// Waits for a future, and no longer than that.
pub fn timeout<F: IntoFuture>(limit: Duration, future: F) -> Timeout<F::IntoFuture> {
    kept(|| tokio::time::timeout(limit, future))
}

/// Waits for a future, and at the latest until then.
pub fn timeout_at<F: IntoFuture>(due: Instant, future: F) -> Timeout<F::IntoFuture> {
    kept(|| tokio::time::timeout_at(due, future))
}

/// Ticks at once, and then each time after so long.
pub fn interval(period: Duration) -> Interval {
    kept(|| tokio::time::interval(period))
}

/// Ticks then, and after that each time after so long.
pub fn interval_at(first: Instant, period: Duration) -> Interval {
    kept(|| tokio::time::interval_at(first, period))
}

/// The timers that hyper asks for.
#[derive(Clone, Copy, Debug)]
pub struct HyperTimer;

impl rt::Timer for HyperTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn rt::Sleep>> {
        kept(|| TokioTimer::new().sleep(duration))
    }

    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn rt::Sleep>> {
        kept(|| TokioTimer::new().sleep_until(deadline))
    }

    fn now(&self) -> std::time::Instant {
        TokioTimer::new().now()
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn rt::Sleep>>, deadline: std::time::Instant) {
        TokioTimer::new().reset(sleep, deadline);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_without_timers_has_those_of_the_process() {
        let apart = thread::spawn(|| {
            keep_elsewhere().unwrap();
            let runtime = Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let (begun, soon) = (Instant::now(), Duration::from_millis(20));
                sleep(soon).await;
                sleep_until(begun + 2 * soon).await;
                assert!(timeout(soon, pending::<()>()).await.is_err());
                assert!(timeout_at(begun + 4 * soon, pending::<()>()).await.is_err());
                interval(soon).tick().await;
                interval_at(begun + 5 * soon, soon).tick().await;
                let mut again = rt::Timer::sleep(&HyperTimer, 1_000 * soon);
                rt::Timer::reset(&HyperTimer, &mut again, (begun + 6 * soon).into());
                again.await;
                rt::Timer::sleep_until(&HyperTimer, (begun + 7 * soon).into()).await;
                assert!(begun.elapsed() >= 7 * soon);
            });
        });
        apart.join().unwrap();
    }
}
