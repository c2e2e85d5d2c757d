//! The clusters of a header. With two levels, as is usual, they lie in the header itself: who looks at a neighbour's looks at one
//! place in memory, and a hundred thousand simulated nodes keep a dozen headers each.

use std::{fmt, ops::Deref, time::Duration};

use super::message::ClusterTag;
use crate::Key;

/// Cluster tags, level 1 first: a slice of them.
#[derive(Clone)]
pub struct Tags(Held);

#[derive(Clone)]
enum Held {
    /// So many of these.
    Few(u8, [ClusterTag; FEW]),
    Many(Vec<ClusterTag>),
}

impl Deref for Tags {
    type Target = [ClusterTag];

    fn deref(&self) -> &[ClusterTag] {
        match &self.0 {
            Held::Few(count, tags) => tags.get(..usize::from(*count)).unwrap_or_default(),
            Held::Many(tags) => tags,
        }
    }
}

impl<'a> IntoIterator for &'a Tags {
    type Item = &'a ClusterTag;
    type IntoIter = std::slice::Iter<'a, ClusterTag>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl FromIterator<ClusterTag> for Tags {
    fn from_iter<I: IntoIterator<Item = ClusterTag>>(tags: I) -> Self {
        let mut rest = tags.into_iter();
        let (mut few, mut count) = ([NONE; FEW], 0);
        for (place, tag) in few.iter_mut().zip(&mut rest) {
            (*place, count) = (tag, count + 1);
        }
        match rest.next() {
            None => Self(Held::Few(count, few)),
            Some(next) => Self(Held::Many(few.into_iter().chain([next]).chain(rest).collect())),
        }
    }
}

impl From<Vec<ClusterTag>> for Tags {
    fn from(tags: Vec<ClusterTag>) -> Self {
        tags.into_iter().collect()
    }
}

impl Default for Tags {
    fn default() -> Self {
        Self(Held::Few(0, [NONE; FEW]))
    }
}

impl PartialEq for Tags {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Tags {}

impl fmt::Debug for Tags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// How long ago a cluster was founded, in whole seconds as on the wire: of every neighbour two are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Age(u32);

impl Age {
    /// Founded just now.
    pub const NEW: Self = Self(0);

    /// So many seconds.
    #[must_use]
    pub const fn of_seconds(seconds: u32) -> Self {
        Self(seconds)
    }

    /// The seconds.
    #[must_use]
    pub const fn seconds(self) -> u32 {
        self.0
    }

    /// The same as a span.
    #[must_use]
    pub const fn span(self) -> Duration {
        // Widening, which `u64::from` cannot do in a const fn.
        Duration::from_secs(self.0 as u64)
    }
}

/// Less than a second counts as nothing; more than a century as that.
impl From<Duration> for Age {
    fn from(span: Duration) -> Self {
        Self(u32::try_from(span.as_secs()).unwrap_or(u32::MAX))
    }
}

/// As many as levels by default.
const FEW: usize = 2;

const NONE: ClusterTag = ClusterTag { id: Key::ZERO, age: Age::NEW, size: 0 };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_in_whole_seconds_and_ends_where_its_bytes_do() {
        for (span, seconds) in [(Duration::ZERO, 0), (Duration::from_millis(60_999), 60), (Duration::MAX, u32::MAX)] {
            assert_eq!((Age::from(span).seconds(), Age::of_seconds(seconds)), (seconds, Age::from(span)));
        }
        assert_eq!(Age::of_seconds(61).span(), Duration::from_secs(61));
    }

    #[test]
    fn any_number_of_tags_is_the_slice_of_them() {
        for count in 0..=5_u32 {
            let tags: Vec<ClusterTag> = (0..count).map(|size| ClusterTag { size, ..NONE }).collect();
            let (held, fewer) = (Tags::from(tags.clone()), tags.iter().skip(1).copied().collect::<Tags>());
            assert_eq!(*held, tags[..]);
            assert_eq!(held == fewer, count == 0);
        }
    }
}
