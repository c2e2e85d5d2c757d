//! The order of clusters: which of two is the better one. It is total, so that all who see both go the same way.

use crate::Key;

/// Whether a cluster is better than another: larger by the margin; if neither is, the lower id. Of two small ones always the lower
/// id: their sizes change faster than news of them travels, and by size two would change places.
pub(super) fn is_better(one: (u32, Key), other: (u32, Key), margin_percent: u32) -> bool {
    let scale = |size: u32, percent: u32| u64::from(size) * u64::from(percent);
    if one.0 <= SMALL && other.0 <= SMALL {
        one.1 < other.1
    } else if scale(one.0, 100) > scale(other.0, 100 + margin_percent) {
        true
    } else if scale(other.0, 100) > scale(one.0, 100 + margin_percent) {
        false
    } else {
        one.1 < other.1
    }
}

/// Whether a cluster ranks above another where both have stood for a while: by its size to a power of two, then the lower id. Sizes that
/// differ by a few, and are seen so by some alone, change nothing.
pub(super) fn ranks_above(one: (u32, Key), other: (u32, Key)) -> bool {
    let class = |size: u32| size.max(1).ilog2();
    (class(one.0), other.1) > (class(other.0), one.1)
}

/// Clusters of up to so many are small.
pub(super) const SMALL: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_clusters_are_told_apart_by_their_ids_and_large_ones_by_size_past_the_margin() {
        let [low, high] = [1, 2].map(|id| Key::from_bytes([id; 20]));
        assert!(is_better((1, low), (3, high), 10));
        assert!(is_better((4, high), (1, low), 10));
        assert!(is_better((111, high), (100, low), 10) && !is_better((110, high), (100, low), 10));
        assert!(ranks_above((128, high), (127, low)) && ranks_above((64, low), (127, high)));
        assert!(!ranks_above((64, high), (127, low)) && !ranks_above((64, low), (64, low)));
    }
}
