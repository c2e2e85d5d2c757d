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

/// As many as levels by default.
const FEW: usize = 2;

const NONE: ClusterTag = ClusterTag { id: Key::ZERO, age: Duration::ZERO, size: 0 };

#[cfg(test)]
mod tests {
    use super::*;

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
