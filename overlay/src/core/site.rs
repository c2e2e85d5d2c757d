//! Hints by site: nodes that their operators say stand at the same place find each other through the index, as those near the same
//! prefix do. The word is a hint only: whoever is found is asked, and measured, like any newcomer.

use bytes::Bytes;

use super::{Node, message::Pointer, node::Reason, time::Instant};
use crate::{Key, Level, Levels, Put};

impl Node {
    /// Puts this node under its site, and asks who else is there; again when half of the hint's time is over.
    pub(super) fn seek_site(&mut self, now: Instant) {
        if self.me.site.is_empty() || now < self.site_due {
            return;
        }
        let ttl = self.config.hint_ttl;
        self.site_due = now + ttl / 2;
        let (key, levels) = (site_key(&self.me.site), Levels::Only(Level::GLOBAL));
        let get = self.get_task(now, key, levels);
        self.begin(now, Some(Reason::Site), get, self.config.get_deadline);
        let put = self.put_task(Put { key, value: Bytes::new(), ttl, levels });
        self.begin(now, None, put, self.config.put_deadline);
    }

    /// These say that they are at this node's site.
    pub(super) fn on_site(&mut self, now: Instant, found: Vec<Pointer>) {
        for pointer in found {
            self.welcome(now, pointer.holder);
        }
    }
}

/// The key under which those at a site stand. Prefixes are written otherwise.
fn site_key(site: &str) -> Key {
    Key::of(format!("site {site}").as_bytes())
}
