//! How often sites are asked for, as far as it matters: a table of fixed size in which the hot ones hold their place against any
//! number of others, so that a site's set of proxies can widen with its rate and no name leaves state behind. Lock-free; a lost
//! count now and then does no harm.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use crate::site::Site;

/// The table.
#[derive(Debug)]
pub(crate) struct Heat {
    began: Instant,
    per_second: u32,
    /// Of the site: a tag of 16 bits; the second it was last asked for, 12; questions in it, 20; in the one before, 16.
    slots: Vec<AtomicU64>,
}

impl Heat {
    /// Nothing asked yet. A site is hot from so many questions a second; 0: none ever is.
    pub(crate) fn new(began: Instant, per_second: u32) -> Self {
        let count = if per_second == 0 { 0 } else { SLOTS };
        Self { began, per_second, slots: (0..count).map(|_| AtomicU64::new(0)).collect() }
    }

    /// A site was asked for: how many times its usual set its proxies are now to be, 1 to 8.
    pub(crate) fn asked(&self, now: Instant, site: Site) -> usize {
        self.asked_in(self.second(now), site)
    }

    /// The second that a moment lies in, as the table counts them.
    pub(crate) fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_secs() & SECONDS
    }

    /// As [`Self::asked`], in a second.
    pub(crate) fn asked_in(&self, second: u64, site: Site) -> usize {
        let Some(slot) = self.slot(site) else { return 1 };
        let tag = site.0 >> 48;
        let (old_tag, mut count, mut last) = counts(slot.load(Ordering::Relaxed), second);
        if old_tag != tag {
            if count + last >= KEEPS {
                return 1;
            }
            (count, last) = (0, 0);
        }
        count = (count + 1).min(COUNT);
        slot.store(tag << 48 | second << 36 | count << 16 | last, Ordering::Relaxed);
        self.times(count.max(last))
    }

    /// The same without counting.
    pub(crate) fn width(&self, now: Instant, site: Site) -> usize {
        let Some(slot) = self.slot(site) else { return 1 };
        let (tag, count, last) = counts(slot.load(Ordering::Relaxed), self.second(now));
        if tag == site.0 >> 48 { self.times(count.max(last)) } else { 1 }
    }

    fn slot(&self, site: Site) -> Option<&AtomicU64> {
        self.slots.get(usize::try_from(site.0).unwrap_or(0) & (SLOTS - 1))
    }

    fn times(&self, rate: u64) -> usize {
        // Most are far from it.
        if rate < u64::from(self.per_second) {
            return 1;
        }
        let rate = u32::try_from(rate).unwrap_or(u32::MAX);
        usize::try_from(rate / self.per_second).unwrap_or(0).clamp(1, WIDEST)
    }
}

/// A slot's tag, and its questions in a second and in the one before.
const fn counts(known: u64, second: u64) -> (u64, u64, u64) {
    let (tag, old_second, count, last) = (known >> 48, known >> 36 & SECONDS, known >> 16 & COUNT, known & LAST);
    match second.wrapping_sub(old_second) & SECONDS {
        0 => (tag, count, last),
        1 => (tag, 0, if count < LAST { count } else { LAST }),
        _ => (tag, 0, 0),
    }
}

const SLOTS: usize = 4096;
const SECONDS: u64 = 0xfff;
const COUNT: u64 = 0xf_ffff;
const LAST: u64 = 0xffff;
/// Questions in two seconds with which a site keeps its place. \[guess\]
const KEEPS: u64 = 8;
/// \[guess\]
const WIDEST: usize = 8;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_hot_site_widens_at_once_and_narrows_when_it_cools_whatever_else_is_asked() {
        let began = Instant::now();
        let heat = Heat::new(began, 100);
        let hot = Site(0x1234_0000_0000_0007);
        let widths: Vec<usize> = (0..1000).map(|_| heat.asked(began, hot)).collect();
        assert_eq!((widths[0], widths[198], widths[199], widths[399], widths[999]), (1, 1, 2, 4, 8));
        // Others that meet in the same place do not push it out, a million of them least of all.
        for other in 0..1_000_000_u64 {
            assert_eq!(heat.asked(began + Duration::from_secs(1), Site(other << 16 | 7)), 1);
        }
        assert_eq!(heat.asked(began + Duration::from_secs(1), hot), 8, "by the second before");
        assert_eq!(heat.asked(began + Duration::from_secs(3), hot), 1);
        assert_eq!(Heat::new(began, 0).asked(began, hot), 1);
    }
}
