//! The demo as a user runs it, and what it cannot show in a minute: that clusters follow the delays when these change.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use atoll::demo::{Demo, Options};
use atoll_overlay::{Index, Key, Level};
use tempfile::TempDir;

use crate::support::eventually;

/// Nodes of the west come first, then the centre, then the far east; three each.
const WEST: std::ops::Range<usize> = 0..3;
const FAR_EAST: std::ops::Range<usize> = 6..9;

#[tokio::test(flavor = "multi_thread")]
async fn the_tour_holds_its_claims_and_clusters_follow_the_delays() {
    let state = TempDir::new().unwrap();
    let options = Options { origin: None, state: state.path().to_owned() };
    let narrate = |text: &str| println!("{text}");
    let mut demo = Demo::start(&options, &narrate).await.unwrap();
    let report = demo.tour(&narrate).await.unwrap();
    assert!(report.held(), "{}", report.summary());
    let json = serde_json::to_value(&report).unwrap();
    for (pointer, expected) in [("/nodes", 9), ("/regions", 3), ("/objects", 12), ("/origin_requests", 12)] {
        assert_eq!(json.pointer(pointer).and_then(serde_json::Value::as_u64), Some(expected), "{pointer} of {json}");
    }

    let indexes = demo.indexes();
    assert!(clusters(&indexes[WEST], 1).is_disjoint(&clusters(&indexes[FAR_EAST], 1)), "150 ms apart and one cluster");
    demo.set_rtt(0, 2, Duration::from_millis(30));
    demo.set_rtt(1, 2, Duration::from_millis(40));
    eventually("30 ms apart is one level-1 cluster", async || clusters(&indexes, 1).len() == 1).await;
    assert!(clusters(&indexes[WEST], 2).is_disjoint(&clusters(&indexes[FAR_EAST], 2)), "30 ms is not level 2");
    demo.set_rtt(0, 2, Duration::from_millis(200));
    demo.set_rtt(1, 2, Duration::from_millis(200));
    let parted = async || clusters(&indexes[WEST], 1).is_disjoint(&clusters(&indexes[FAR_EAST], 1));
    eventually("200 ms apart are two level-1 clusters again", parted).await;
    demo.stop().await;
}

/// The clusters these nodes are in at a level.
fn clusters(indexes: &[Arc<dyn Index>], level: u8) -> BTreeSet<Key> {
    let of = |index: &Arc<dyn Index>| {
        index.levels().into_iter().find(|info| info.level == Level(level)).map(|info| info.cluster)
    };
    indexes.iter().filter_map(of).collect()
}
