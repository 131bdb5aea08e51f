//! The addresses of a name, from the system's resolver.
//!
//! A question to it holds a thread of a bounded number until it is answered, so each name is asked for once at a time,
//! over all workers: who comes later waits for the same answer. An answer is for those who waited for it and is not kept;
//! the next connection asks anew.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::lookup_host;
use tokio::sync::watch;

use super::error::DnsError;

/// What a name was found to mean: not empty, nothing twice.
type Found = Result<Vec<SocketAddr>, DnsError>;

/// Where the answer to a question will be.
type Answer = watch::Receiver<Option<Found>>;

/// The questions that are asked at the moment; a clone shares them.
#[derive(Clone, Debug, Default)]
pub struct Resolver {
    asked: Arc<Mutex<HashMap<Box<str>, Answer>>>,
}

impl Resolver {
    /// The addresses of a name with this port. Whoever gives up waiting leaves the question to the others.
    pub(super) async fn resolve(&self, name: &str, port: u16) -> Found {
        let owned = name.to_owned();
        let found = self.ask(name, async move { lookup_host((&*owned, 0)).await.map(Iterator::collect) }).await?;
        Ok(found.into_iter().map(|address| SocketAddr::new(address.ip(), port)).collect())
    }

    /// Waits for the answer to a question about a name: one that is asked already, else this one.
    async fn ask<F>(&self, name: &str, question: F) -> Found
    where
        F: Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static,
    {
        let mut answer = self.asked_already(name, question);
        match answer.wait_for(Option::is_some).await {
            Ok(found) => found.clone().unwrap_or(Err(DnsError::NoAddress)),
            Err(_) => Err(DnsError::Failed("the question was given up, the server stops".to_owned())),
        }
    }

    fn asked_already<F>(&self, name: &str, question: F) -> Answer
    where
        F: Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static,
    {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        // A channel whose sender is gone is answered, or its asker's runtime has ended.
        asked.retain(|_, answer| answer.has_changed().is_ok());
        if let Some(answer) = asked.get(name) {
            return answer.clone();
        }
        let (tell, answer) = watch::channel(None);
        asked.insert(name.into(), answer.clone());
        tokio::spawn(async move { tell.send_replace(Some(found(question.await))) });
        answer
    }
}

fn found(answer: io::Result<Vec<SocketAddr>>) -> Found {
    let mut addresses = answer.map_err(|error| DnsError::Failed(error.to_string()))?;
    let mut seen = Vec::with_capacity(addresses.len());
    addresses.retain(|address| {
        let is_new = !seen.contains(address);
        seen.push(*address);
        is_new
    });
    if addresses.is_empty() { Err(DnsError::NoAddress) } else { Ok(addresses) }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// A resolver that answers when it is let.
    struct Slow {
        resolver: Resolver,
        questions: Arc<AtomicUsize>,
        answers: Arc<Semaphore>,
    }

    impl Slow {
        fn new() -> Self {
            Slow { resolver: Resolver::default(), questions: Arc::default(), answers: Arc::new(Semaphore::new(0)) }
        }

        async fn ask(&self, name: &str) -> Found {
            let (questions, answers) = (Arc::clone(&self.questions), Arc::clone(&self.answers));
            let question = async move {
                questions.fetch_add(1, Ordering::SeqCst);
                answers.acquire().await.unwrap().forget();
                Ok(vec![address("192.0.2.1:0"), address("192.0.2.2:0"), address("192.0.2.1:0")])
            };
            self.resolver.ask(name, question).await
        }
    }

    /// OV-18: a resolver that is slow about one name is asked about it once, and its threads are there for other names.
    #[tokio::test]
    async fn a_name_is_asked_for_once_at_a_time() {
        let slow = Slow::new();
        for round in 1..=2 {
            let mut waiting: Vec<_> = (0..600).map(|_| Box::pin(slow.ask("slow.test"))).collect();
            for asking in &mut waiting {
                tokio::select! { biased; _ = asking => panic!("nobody has answered"), () = std::future::ready(()) => {} }
            }
            tokio::task::yield_now().await;
            assert_eq!(slow.questions.load(Ordering::SeqCst), round, "and again once it was answered");
            // The first one asked; that it gives up changes nothing for the others.
            drop(waiting.swap_remove(0));
            slow.answers.add_permits(1);
            for asking in waiting {
                assert_eq!(asking.await.unwrap(), [address("192.0.2.1:0"), address("192.0.2.2:0")]);
            }
        }
        assert!(slow.resolver.asked.lock().unwrap().len() <= 1, "what is answered is not kept");
    }

    #[tokio::test]
    async fn names_do_not_wait_for_each_other() {
        let slow = Slow::new();
        slow.answers.add_permits(2);
        let (one, other) = tokio::join!(slow.ask("one.test"), slow.ask("other.test"));
        assert!(one.is_ok() && other.is_ok());
        assert_eq!(slow.questions.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_name_without_an_address_is_told() {
        let resolver = Resolver::default();
        assert_eq!(resolver.ask("empty.test", async { Ok(Vec::new()) }).await, Err(DnsError::NoAddress));
        let failed = resolver.ask("no.test", async { Err(io::Error::other("no such name")) }).await;
        assert_eq!(failed, Err(DnsError::Failed("no such name".to_owned())));
        assert_eq!(resolver.resolve("localhost", 7).await.unwrap()[0].port(), 7);
    }
}
