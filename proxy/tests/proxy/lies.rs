//! Peers that lie about purges and about the copies they pass on (issue 8; bad-inputs C10, P02, P03): what nobody signed counts for
//! nothing.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use atoll_overlay::{Level, NodeId, Streams as _};
use bytes::Bytes;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    purge::{edition, editions, quick, tag},
    support::{Net, Node, info, soon, until},
};

/// An answer to `GET /purges`, as a peer may make it up.
#[derive(Clone, PartialEq, prost::Message)]
struct Told {
    #[prost(message, repeated, tag = "1")]
    chains: Vec<Chain>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    records: Vec<Bytes>,
    #[prost(bool, tag = "3")]
    more: bool,
    #[prost(bytes = "bytes", repeated, tag = "4")]
    floors: Vec<Bytes>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Chain {
    #[prost(bytes = "bytes", tag = "1")]
    signer: Bytes,
    #[prost(uint64, tag = "2")]
    head: u64,
    /// Where floors stood before they were signed.
    #[prost(uint64, tag = "3")]
    floor: u64,
}

/// Answers every question about purges so; who has asked.
fn tells(node: Arc<Node>, told: &Told) -> Arc<Mutex<Vec<NodeId>>> {
    let body = told.encode_to_vec();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((from, mut stream)) = node.accept().await {
            let _ = stream.read(&mut [0; 4_096]).await;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(&[head.as_bytes(), &body].concat()).await;
            noted.lock().unwrap().push(from);
        }
    });
    asked
}

fn millis() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// A purge of something else, as it is signed: version, soft, number, previous, a tag without host.
fn words(number: u64, previous: u64) -> Vec<u8> {
    [&[1, 0][..], &number.to_be_bytes(), &previous.to_be_bytes(), &[5, 0, 4], b"else", &[0, 0]].concat()
}

// C10, P03: else one peer could have everybody pass over a signer's purges, and make its numbers those of the future.
#[tokio::test]
async fn what_was_forgotten_counts_in_its_signer_s_words_only() {
    let now = Arc::new(AtomicUsize::new(1));
    let origin = editions(&now).await;
    let net = Net::new(Level(1));
    net.acquainted.store(true, Ordering::SeqCst);
    let one = net.proxy(1, quick(&origin)).await;
    let two = net.proxy(2, quick(&origin)).await;
    let by = |number: u8, words: &[u8]| Bytes::from([&info(number).id.key().as_bytes()[..], words].concat());
    let far =
        |signer| Chain { signer: Bytes::copy_from_slice(info(signer).id.key().as_bytes()), head: 9, floor: 1 << 62 };
    let told = Told {
        chains: vec![far(1), far(2), Chain { floor: u64::MAX, ..far(1) }],
        floors: vec![
            Bytes::from_static(b"noise"),
            by(1, b"noise"),
            // Of nobody here, and of a day that is not yet.
            by(77, &words(millis(), 0)),
            by(1, &words(millis() + 10 * 86_400_000, 0)),
            by(2, &words(1 << 62, 0)),
        ],
        ..Told::default()
    };
    let asked = tells(net.node(9), &told);
    let by_both = |from: usize| {
        let asked = asked.lock().unwrap();
        [1, 2].iter().all(|number| asked[from..].contains(&info(*number).id))
    };
    for path in ["/a/x", "/b/x"] {
        for proxy in [&one, &two] {
            assert_eq!(edition(proxy, &origin, path, "*/*").await, "1");
        }
    }
    let (requests, before) = (origin.count(), asked.lock().unwrap().len());
    until(|| by_both(before)).await;
    for proxy in [&one, &two] {
        assert_eq!(edition(proxy, &origin, "/a/x", "*/*").await, "1");
    }
    assert_eq!(origin.count(), requests, "nothing was marked to be asked for again");
    now.store(2, Ordering::SeqCst);
    let report = soon(one.purge(tag("a"), true, Duration::ZERO)).await.unwrap();
    assert_eq!(report.purge.split('-').next_back().unwrap().len(), millis().to_string().len(), "{report:?}");
    until(|| two.purges(9).len() == 1).await;
    for (path, expect) in [("/a/x", "2"), ("/b/x", "1")] {
        for proxy in [&one, &two] {
            assert_eq!(edition(proxy, &origin, path, "*/*").await, expect, "{path}");
        }
    }
    // The other way round.
    soon(two.purge(tag("b"), true, Duration::ZERO)).await.unwrap();
    until(|| one.purges(9).len() == 2).await;
    assert_eq!(edition(&one, &origin, "/b/x", "*/*").await, "2");
}

// C10: what nobody has any more was missed all the same.
#[tokio::test]
async fn a_node_that_was_away_has_all_confirmed_if_what_it_missed_was_forgotten() {
    let now = Arc::new(AtomicUsize::new(1));
    let origin = editions(&now).await;
    let net = Net::new(Level(1));
    net.acquainted.store(true, Ordering::SeqCst);
    let mut short = quick(&origin);
    short.purges.records = 1;
    // It holds on to what it has, doubts or not.
    let mut trusting = quick(&origin);
    (trusting.purges.doubt, trusting.purges.gap) = (Duration::from_secs(3_600), Duration::from_secs(3_600));
    let one = net.proxy(1, short).await;
    let two = net.proxy(2, trusting).await;
    assert_eq!(edition(&two, &origin, "/a/x", "*/*").await, "1");
    net.cut_off(2);
    now.store(2, Ordering::SeqCst);
    for gone in ["a", "c", "d"] {
        one.purge(tag(gone), true, Duration::ZERO).await.unwrap();
    }
    assert_eq!(edition(&two, &origin, "/a/x", "*/*").await, "1");
    net.heal(2);
    soon(async { while edition(&two, &origin, "/a/x", "*/*").await != "2" {} }).await;
    // Once: what was confirmed stands.
    let requests = origin.count();
    let heard = soon(one.purge(tag("e"), true, Duration::from_secs(30))).await.unwrap();
    assert_eq!(heard.missing(), 0);
    assert_eq!(edition(&two, &origin, "/a/x", "*/*").await, "2");
    assert_eq!(origin.count(), requests);
}
