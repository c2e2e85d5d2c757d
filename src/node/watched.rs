//! The index with its questions counted: how many of which kind, what came of them, and how long a search took.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use atoll_overlay::{
    Acquire, Acquired, Beat, Found, Index, IndexError, Key, Lease, LevelInfo, Levels, Marker, NodeInfo, NodesQuery,
    Prefix, Put, Roles, Spread, Stored, Teller,
    membership::{NotBelieved, Said, Unsaid},
};
use bytes::Bytes;
use metrics::{counter, histogram};

/// An index whose questions are counted.
pub(super) struct Watched<I>(pub(super) I);

#[async_trait]
impl<I: Index> Index for Watched<I> {
    async fn put(&self, put: Put) -> Result<Stored, IndexError> {
        noted("put", self.0.put(put).await, |_| "ok")
    }

    async fn get(&self, key: Key, levels: Levels) -> Result<Found, IndexError> {
        let began = Instant::now();
        searched(began, self.0.get(key, levels).await)
    }

    async fn get_told(&self, key: Key, levels: Levels, teller: Teller) -> Result<Found, IndexError> {
        let began = Instant::now();
        searched(began, self.0.get_told(key, levels, teller).await)
    }

    async fn withdraw(&self, key: Key) -> Result<(), IndexError> {
        noted("withdraw", self.0.withdraw(key).await, |()| "ok")
    }

    async fn acquire(&self, acquire: Acquire) -> Result<Acquired, IndexError> {
        acquired(self.0.acquire(acquire).await)
    }

    async fn acquire_told(&self, acquire: Acquire, teller: Teller) -> Result<Acquired, IndexError> {
        acquired(self.0.acquire_told(acquire, teller).await)
    }

    async fn beat(&self, lease: &Lease, reference: Bytes) -> Result<Beat, IndexError> {
        noted("beat", self.0.beat(lease, reference).await, |_| "ok")
    }

    async fn release(&self, lease: Lease) -> Result<(), IndexError> {
        noted("release", self.0.release(lease).await, |()| "ok")
    }

    async fn pass(&self, lease: Lease, marker: Marker) -> Result<(), IndexError> {
        noted("pass", self.0.pass(lease, marker).await, |()| "ok")
    }

    fn nodes(&self, query: &NodesQuery) -> Vec<NodeInfo> {
        self.0.nodes(query)
    }

    fn me(&self) -> NodeInfo {
        self.0.me()
    }

    fn describe(&self, info: NodeInfo) {
        self.0.describe(info);
    }

    fn levels(&self) -> Vec<LevelInfo> {
        self.0.levels()
    }

    fn is_alone(&self) -> bool {
        self.0.is_alone()
    }

    fn observe(&self, prefix: Prefix, rtt: Duration) {
        self.0.observe(prefix, rtt);
    }

    async fn spread(&self, record: Bytes) -> Result<(), IndexError> {
        noted("spread", self.0.spread(record).await, |()| "ok")
    }

    fn spreads(&self) -> tokio::sync::broadcast::Receiver<Spread> {
        self.0.spreads()
    }

    fn sign(&self, words: &[u8], right: Roles) -> Result<Bytes, Unsaid> {
        self.0.sign(words, right)
    }

    fn believe(&self, signed: &[u8], right: Roles) -> Result<Said, NotBelieved> {
        self.0.believe(signed, right)
    }
}

fn noted<T>(
    rpc: &'static str,
    outcome: Result<T, IndexError>,
    word: impl FnOnce(&T) -> &'static str,
) -> Result<T, IndexError> {
    let result = match &outcome {
        Ok(done) => word(done),
        Err(IndexError::Timeout(_)) => "timeout",
        Err(IndexError::Refused(_)) => "refused",
        Err(IndexError::ValueTooLong { .. } | IndexError::Stopped) => "failed",
    };
    counter!("atoll_dht_rpcs_total", "rpc" => rpc, "result" => result).increment(1);
    outcome
}

/// A search, by the level that answered.
fn searched(began: Instant, outcome: Result<Found, IndexError>) -> Result<Found, IndexError> {
    let level = match &outcome {
        Ok(Found::Values { level, .. }) => level.to_string(),
        Ok(Found::Nothing) | Err(_) => "none".to_owned(),
    };
    histogram!("atoll_dht_lookup_seconds", "level" => level).record(began.elapsed().as_secs_f64());
    noted("get", outcome, |found| if matches!(found, Found::Nothing) { "nothing" } else { "found" })
}

fn acquired(outcome: Result<Acquired, IndexError>) -> Result<Acquired, IndexError> {
    noted("acquire", outcome, |acquired| match acquired {
        Acquired::References(_) => "references",
        Acquired::Granted(_) => "granted",
        Acquired::Marked(_) => "marked",
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use atoll_overlay::Alone;

    use super::*;

    /// An index that knows nobody, and notes the leases it is given back.
    struct Noting(Alone, Mutex<Vec<Lease>>);

    #[async_trait]
    impl Index for Noting {
        async fn release(&self, lease: Lease) -> Result<(), IndexError> {
            self.1.lock().unwrap().push(lease);
            Err(IndexError::Stopped)
        }
        async fn put(&self, put: Put) -> Result<Stored, IndexError> {
            self.0.put(put).await
        }
        async fn get(&self, key: Key, levels: Levels) -> Result<Found, IndexError> {
            self.0.get(key, levels).await
        }
        async fn withdraw(&self, key: Key) -> Result<(), IndexError> {
            self.0.withdraw(key).await
        }
        async fn acquire(&self, acquire: Acquire) -> Result<Acquired, IndexError> {
            self.0.acquire(acquire).await
        }
        async fn beat(&self, lease: &Lease, reference: Bytes) -> Result<Beat, IndexError> {
            self.0.beat(lease, reference).await
        }
        async fn pass(&self, lease: Lease, marker: Marker) -> Result<(), IndexError> {
            self.0.pass(lease, marker).await
        }
        fn nodes(&self, query: &NodesQuery) -> Vec<NodeInfo> {
            self.0.nodes(query)
        }
        fn me(&self) -> NodeInfo {
            self.0.me()
        }
        fn describe(&self, info: NodeInfo) {
            self.0.describe(info);
        }
        fn levels(&self) -> Vec<LevelInfo> {
            self.0.levels()
        }
        fn observe(&self, prefix: Prefix, rtt: Duration) {
            self.0.observe(prefix, rtt);
        }
        async fn spread(&self, record: Bytes) -> Result<(), IndexError> {
            self.0.spread(record).await
        }
        fn spreads(&self) -> tokio::sync::broadcast::Receiver<Spread> {
            self.0.spreads()
        }
    }

    #[tokio::test]
    async fn a_lease_given_back_reaches_the_index() {
        let index = Watched(Noting(Alone::new(NodeInfo::new(Key::of(b"me").into(), Roles::PROXY)), Mutex::default()));
        let lease = Lease { epoch: 1, counter: 5, key: Key::of(b"fetched for nobody") };
        assert_eq!(index.release(lease).await, Err(IndexError::Stopped));
        assert_eq!(*index.0.1.lock().unwrap(), [lease]);
    }

    #[test]
    fn what_came_of_a_question_is_said_on_unchanged() {
        assert_eq!(noted("put", Ok(7), |_| "ok"), Ok(7));
        let late = IndexError::Timeout(Duration::from_millis(600));
        assert_eq!(noted::<()>("put", Err(late.clone()), |()| "ok"), Err(late));
        assert_eq!(searched(Instant::now(), Ok(Found::Nothing)), Ok(Found::Nothing));
    }
}
